"""Backbones: timm vision transformers with weights, their features, their preprocessing and their head."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import parallel
from bench.aliases import ALIASES
from bench.spec import Backbone, Size, SpecError, unknown

ASSETS = Path(__file__).parent / "assets"
TINY_ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 12,
    "num_heads": 2,
}

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What products are computed in under these precisions."""

HEADS = ("head.", "head_dist.", "fc.", "mask_token")
"""What a checkpoint may hold, or lack, beside the backbone."""


def precision_on(device: torch.device, precision: str) -> str:
    """What ``auto`` means on a device: bf16 on CUDA, fp32 elsewhere; any other precision is itself."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


RANDOM_SEED = 0
"""Of random weights: they stand for one backbone, the same in every trial and every worker, whatever a trial's seed."""

PUBLISHED_CROPS: Mapping[str, float] = {"dino": 224 / 256, "mae": 224 / 256}
"""Evaluation crops by timm's tags, where the authors' own differ from timm's default of 0.9: both resize the shorter
side to 256 and crop 224 (facebookresearch/dino, eval_knn.py; facebookresearch/mae, main_linprobe.py)."""


@dataclass(frozen=True)
class Preprocess:
    """What a backbone expects: ``size`` x ``size`` pixels in 0..1, minus ``mean``, over ``std`` (a value a channel).

    Images in memory are resized to that size as they are, as in the paper; picture files are resized and cropped as
    :attr:`files` says. (timm's few models that were evaluated on squashed pictures get the centre crop like all.)
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: float = 224 / 256

    @property
    def files(self) -> Size:
        """How a picture file is decoded for this backbone."""
        return Size(self.size, self.crop_pct, self.interpolation)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[n, 3, h, w]`` to normalised float32 ``[n, 3, size, size]`` on the same device."""
        pixels = images.float()
        if pixels.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size, mode=self.interpolation, antialias=True, align_corners=False)
            pixels = pixels.clamp(0, 255)
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1) * 255
        return (pixels - mean) / std


TINY = Backbone(name="tiny")
TINY_PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@functools.cache
def preprocess(backbone: Backbone) -> Preprocess:
    """The preprocessing that a backbone was trained with: timm's data configuration, or the authors' own crop.

    Raises:
        SpecError: it cannot be followed here.
    """
    if backbone.name == "tiny":
        return TINY_PREPROCESS
    from timm.data.config import resolve_model_data_config

    with torch.device("meta"):
        config = resolve_model_data_config(plain(backbone, num_classes=0))
    *_, height, width = config["input_size"]
    if backbone.image_size is None and height != width:
        raise SpecError(f"backbone {backbone.name!r} expects {height} x {width} pixels: choose a square --image-size")
    if config["interpolation"] not in ("bicubic", "bilinear"):
        raise SpecError(f"backbone {backbone.name!r} wants {config['interpolation']} resizing, which is not supported")
    return Preprocess(
        size=backbone.image_size or width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=PUBLISHED_CROPS.get(timm_name(backbone.name).partition(".")[2], config["crop_pct"]),
    )


@functools.cache
def depth(backbone: Backbone) -> int:
    """Number of transformer blocks."""
    with torch.device("meta"):
        return len(plain(backbone, num_classes=0).blocks)


def plain(backbone: Backbone, *, num_classes: int, depth: int | None = None) -> Any:
    """The untrained architecture of a backbone, made deeper if ``depth`` says so.

    Raises:
        SpecError: timm has no such model, or it is no vision transformer.
    """
    import timm

    if backbone.name == "tiny":
        architecture = TINY_ARCHITECTURE | ({"depth": depth} if depth else {})
        return timm.models.vision_transformer.VisionTransformer(**architecture, num_classes=num_classes)
    name = timm_name(backbone.name)
    try:
        vit = timm.create_model(name, num_classes=num_classes, **_options(backbone, depth))
    except TypeError as error:
        raise SpecError(f"backbone {name!r} does not take these options: {error}") from None
    missing = [part for part in ("blocks", "patch_embed", "norm", "head") if not hasattr(vit, part)]
    if missing or not isinstance(vit.blocks, nn.Sequential | nn.ModuleList) or not vit.num_prefix_tokens:
        raise SpecError(f"backbone {name!r} is no vision transformer with a class token: choose one with such a token")
    if getattr(vit, "cls_token", None) is None:
        raise SpecError(f"backbone {name!r} has no class token, whose feature is probed: choose one with such a token")
    if isinstance(vit.norm, nn.Identity) and isinstance(vit.fc_norm, nn.Identity):
        raise SpecError(f"backbone {name!r} has no norm after its blocks, so its features are not defined here")
    return vit


def timm_name(name: str) -> str:
    """timm's name for a backbone, looked up and checked.

    Raises:
        SpecError: timm has none of that name.
    """
    import timm

    name = ALIASES.get(name, name)
    if not timm.is_model(name.split(".")[0]):
        raise unknown("backbone", name, ["tiny", *ALIASES, *timm.list_models("*vit*"), *timm.list_models("beit*")])
    return name


def _options(backbone: Backbone, depth: int | None) -> dict[str, Any]:
    sizes = {"img_size": backbone.image_size} if backbone.image_size else {}
    return sizes | ({"depth": depth} if depth else {})


def constructor(backbone: Backbone, *, num_classes: int, depth: int) -> str:
    """A Python expression that builds :func:`plain` with timm alone."""
    if backbone.name == "tiny":
        values = {**TINY_ARCHITECTURE, "depth": depth, "num_classes": num_classes}
        return f"timm.models.vision_transformer.VisionTransformer({_arguments(values)})"
    values = {"num_classes": num_classes, **_options(backbone, depth)}
    return f"timm.create_model({timm_name(backbone.name)!r}, {_arguments(values)})"


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())


def create(backbone: Backbone, *, num_classes: int) -> Any:
    """A pre-trained timm vision transformer with a fresh head, on the CPU.

    Its weights are the embedded ones for ``tiny``; else those of the file ``backbone.weights``, always the same random
    ones if that is ``random``, or timm's own, which are downloaded once.

    Raises:
        SpecError: there is no such backbone, its weights cannot be had, or they do not fit.
    """
    if backbone.weights == "random":
        return _randomise(plain(backbone, num_classes=num_classes), backbone)
    if backbone.weights is not None:
        return _load(plain(backbone, num_classes=num_classes), Path(backbone.weights))
    if backbone.name == "tiny":
        return _load(plain(backbone, num_classes=num_classes), ASSETS / "tiny.safetensors")
    return _download(backbone, num_classes)


def _randomise(vit: Any, backbone: Backbone) -> Any:
    """Give a model the one set of random weights that its backbone has; the head is left as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        vit.load_state_dict(plain(backbone, num_classes=0).state_dict(), strict=False)
    return vit


def _download(backbone: Backbone, num_classes: int) -> Any:
    vit = plain(backbone, num_classes=num_classes)  # says what is wrong with the name before anything is downloaded
    return _fill(vit, _downloaded(backbone), f"of timm's {backbone.name!r}")


@functools.lru_cache(maxsize=1)
def _downloaded(backbone: Backbone) -> dict[str, Tensor]:
    """timm's own weights, without a head; kept, so that not every trial asks the hub for them."""
    import timm

    name = timm_name(backbone.name)
    try:
        with torch.random.fork_rng(devices=[]):  # asked for by the first trial only, whose draws it must not shift
            vit = timm.create_model(name, pretrained=True, num_classes=0, **_options(backbone, None))
    except (OSError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(
            f"the weights of {name!r} cannot be downloaded ({first}); fetch them on another machine and name the file "
            f"with --weights, or use --weights random"
        ) from None
    state: dict[str, Tensor] = vit.state_dict()
    return state


def _load(vit: Any, path: Path) -> Any:
    """Load a local file into the architecture; the head may be missing."""
    state = _backbone_part(read_weights(path))
    if strange := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise SpecError(f"the weights in {path} do not fit: its {strange[0]!r} is no tensor, and no layout known here")
    try:
        state = _filter(vit)(state, vit)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # of another architecture
        reason = _faults(state, vit) or f"timm cannot read them as those of a {type(vit).__name__}: {error}"
        raise SpecError(f"the weights in {path} do not fit: {reason}") from None
    return _fill(vit, state, f"in {path}")


def _fill(vit: Any, state: Mapping[str, Tensor], where: str) -> Any:
    """Give a model weights in its own layout; its head stays as it is."""
    state = {key: value.float() for key, value in state.items() if not key.startswith(HEADS)}
    if faults := _faults(state, vit):
        raise SpecError(f"the weights {where} do not fit: {faults}")
    vit.load_state_dict(state, strict=False)
    return vit


def _faults(state: Mapping[str, Tensor], vit: Any) -> str:
    """How weights differ from what an architecture needs beside its head; empty if they do not."""
    own = {key: value for key, value in vit.state_dict().items() if not key.startswith(HEADS)}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and not key.startswith(HEADS)]
    misshapen = [
        f"{key}: {_shape(state[key])} for {_shape(value)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if not (missing or unexpected or misshapen):
        return ""
    return ", ".join([_some("missing", missing), _some("unexpected", unexpected), _some("misshapen", misshapen)])


def _filter(vit: Any) -> Any:
    """timm's own reader of published layouts for this architecture; it also resamples position embeddings."""
    from timm.models import vision_transformer

    module = importlib.import_module(type(vit).__module__)
    return getattr(module, "checkpoint_filter_fn", vision_transformer.checkpoint_filter_fn)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape))


def _some(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what} keys" + (f" ({shown})" if keys else "")


def read_weights(path: Path) -> dict[str, Any]:
    """The content of a safetensors or a torch file, without running any code that is pickled in it.

    Raises:
        SpecError: the file is missing, damaged, or holds more than weights.
    """
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise SpecError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(f"{path} cannot be read as weights: {first}") from None
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds no state dict but a {type(found).__name__}")
    return found


def _backbone_part(state: dict[str, Any]) -> dict[str, Any]:
    """Unwrap the layouts in which backbones are published.

    DINO's full checkpoints (facebookresearch/dino, main_dino.py) hold ``student`` and ``teacher``; the teacher is the
    backbone that is evaluated. Its keys start with ``module.`` and ``backbone.``.
    """
    for wrapper in ("teacher", "state_dict", "model"):
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def features(vit: Any, images: Tensor) -> Tensor:
    """The CLS token after the final norm, ``[n, d]``, of normalised images ``[n, 3, h, w]``.

    Models that average the patches for their head (BEiT, EVA) may have their final norm behind that average, as
    ``fc_norm``; it is applied to the CLS token then. What the head reads stays timm's choice.
    """
    tokens: Tensor = vit.forward_features(images)
    token = tokens[:, 0]
    if isinstance(vit.norm, nn.Identity):
        token = vit.fc_norm(token)
    return token


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
    """Put a :class:`HeadNorm` before the head; returns the model.

    Raises:
        SpecError: the architecture has a norm of its own there.
    """
    if not isinstance(vit.fc_norm, nn.Identity):
        raise SpecError(
            f"this backbone has a {type(vit.fc_norm).__name__} before its head already: use head_norm: false"
        )
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
