"""Backbones: timm vision transformers with weights, their features, their preprocessing and their head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import parallel
from bench.spec import unknown

ASSETS = Path(__file__).parent / "assets"
TINY_ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 12,
    "num_heads": 2,
}


@dataclass(frozen=True)
class Preprocess:
    """What a backbone expects of its input: pixels in 0..1, minus ``mean``, over ``std`` (one value a channel)."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, h, w]`` to normalised float32 of the same shape, on the same device."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1) * 255
        return (images.float() - mean) / std


TINY_PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_PREPROCESS: Mapping[str, Preprocess] = {"tiny": TINY_PREPROCESS}


def preprocess(name: str) -> Preprocess:
    """The preprocessing of the backbone ``name``."""
    if name not in _PREPROCESS:
        raise unknown("backbone", name, _PREPROCESS)
    return _PREPROCESS[name]


def create(name: str, *, num_classes: int) -> Any:
    """A pre-trained timm vision transformer with a fresh head, on the CPU.

    Args:
        name: ``tiny``, the embedded backbone.
        num_classes: outputs of the head.

    Raises:
        SpecError: there is no such backbone.
    """
    from safetensors.torch import load_file

    vit = plain(name, TINY_ARCHITECTURE["depth"], num_classes)
    weights = {key: value.float() for key, value in load_file(ASSETS / "tiny.safetensors").items()}
    result = vit.load_state_dict(weights, strict=False)
    left = [key for key in result.missing_keys if not key.startswith("head.")]
    if left or result.unexpected_keys:
        raise ValueError(f"weights of {name!r} do not fit: missing {left}, unexpected {result.unexpected_keys}")
    return vit


def plain(name: str, depth: int, num_classes: int) -> Any:
    """The untrained architecture of a backbone, ``depth`` blocks deep."""
    from timm.models.vision_transformer import VisionTransformer

    if name != "tiny":
        raise unknown("backbone", name, _PREPROCESS)
    return VisionTransformer(**{**TINY_ARCHITECTURE, "depth": depth}, num_classes=num_classes)


def constructor(name: str, depth: int, num_classes: int) -> str:
    """A Python expression that builds :func:`plain` with timm alone."""
    if name != "tiny":
        raise unknown("backbone", name, _PREPROCESS)
    values = {**TINY_ARCHITECTURE, "depth": depth, "num_classes": num_classes}
    arguments = ", ".join(f"{key}={value}" for key, value in values.items())
    return f"timm.models.vision_transformer.VisionTransformer({arguments})"


def features(vit: Any, images: Tensor) -> Tensor:
    """The CLS token after the final norm, ``[n, d]``, of normalised images ``[n, 3, h, w]``."""
    tokens: Tensor = vit.forward_features(images)
    return tokens[:, 0]


class HeadNorm(nn.Module):
    """A batch norm without parameters before the head, as in MAE's linear probe (He et al. 2021, appendix A.1).

    Mean and variance are taken over the global batch: over all ranks, through autograd, so that training is the same
    on any number of workers (torch's own SyncBatchNorm needs a GPU). In evaluation mode the running statistics make it
    a fixed linear map, which :func:`fold_head_norm` folds into the head.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, d]`` to ``[n, d]``."""
        if not self.training:
            return (x - self.mean) / (self.var + self.eps).sqrt()
        mean = parallel.mean_with_gradient(x.mean(0))
        var = parallel.mean_with_gradient((x - mean).square().mean(0))
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var, self.momentum)
        return (x - mean) / (var + self.eps).sqrt()


def add_head_norm(vit: Any) -> Any:
    """Put a :class:`HeadNorm` before the head; returns the model."""
    vit.fc_norm = HeadNorm(vit.head.in_features).to(vit.head.weight.device)
    return vit


def fold_head_norm(vit: Any) -> Any:
    """Fold a trained :class:`HeadNorm` into the head; what is left is plain timm and computes the same function."""
    norm = vit.fc_norm
    if isinstance(norm, HeadNorm):
        with torch.no_grad():
            vit.head.weight.div_((norm.var + norm.eps).sqrt())
            vit.head.bias.sub_(vit.head.weight @ norm.mean)
        vit.fc_norm = nn.Identity()
    return vit
