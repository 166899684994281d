"""Work that trials share: where the first blocks are frozen, their activations are computed once and kept.

A trial with ``train.views = V`` trains on V fixed augmented views of every image instead of a fresh one at each step.
What the frozen blocks make of a view is then the same at every step, in every trial of a slot and for every seed, so it
is computed once: for a linear probe only the head is left to train.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.data import Split
from bench.models import Preprocess
from bench.spec import SpecError, TrainConfig
from bench.training.augment import augment, erase, take
from bench.training.modes import evaluation_mode
from bench.training.precision import HALVES, precision_on
from bench.vit import Vit

VIEWS_SEED = 0
"""The views are drawn with this seed: they belong to the data, so that trials with different seeds share them."""

BATCH = 256
"""So many images go through the frozen blocks at once; that is part of the result, so it is the same everywhere."""

SHARE = 0.3
"""Activations may take so much of the memory that is free on the device."""


def frozen_blocks(vit: Vit) -> int:
    """How many of the first blocks no training changes.

    Raises:
        SpecError: something before the blocks is trained, or this is no plain timm vision transformer.
    """
    from timm.models.vision_transformer import VisionTransformer

    if type(vit) is not VisionTransformer:  # a subclass may do more, or something else, at any place
        raise SpecError(f"train.views needs a plain timm VisionTransformer, not a {type(vit).__name__}")
    later = ("blocks.", "norm.", "fc_norm.", "head.", "attn_pool.")
    if early := [n for n, p in vit.named_parameters() if p.requires_grad and not n.startswith(later)]:
        raise SpecError(f"train.views needs a frozen beginning, and this method trains {early[0]}")
    trained = [any(p.requires_grad for p in block.parameters()) for block in vit.blocks]
    depth = trained.index(True) if True in trained else len(trained)
    if not depth:
        raise SpecError("train.views needs frozen blocks at the beginning, and this method trains the first one")
    return depth


class Tail(nn.Module):
    """The part of a vision transformer that comes after its frozen beginning; shares the modules, and copies none."""

    def __init__(self, vit: Vit) -> None:
        super().__init__()
        self.vit: Any = vit  # known to be timm's own VisionTransformer by the next line
        self.depth = frozen_blocks(vit)
        # Nothing but the head is left: then a feature of each image is enough, and not all of its tokens.
        self.pooled = self.depth == len(vit.blocks) and not any(p.requires_grad for p in vit.norm.parameters())

    def forward(self, activations: Tensor) -> Tensor:
        """Activations of :meth:`beginning` to logits."""
        vit = self.vit
        if self.pooled:
            pooled: Tensor = vit.head(vit.head_drop(vit.fc_norm(activations)))
            return pooled
        x = vit.norm(vit.blocks[self.depth :](activations))
        logits: Tensor = vit.forward_head(x)
        return logits

    def beginning(self, images: Tensor) -> Tensor:
        """Normalised images ``[b, 3, h, w]`` to tokens ``[b, t, d]``, or to pooled features ``[b, d]``."""
        vit = self.vit
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        x = vit.blocks[: self.depth](x)
        tokens: Tensor = vit.pool(vit.norm(x)) if self.pooled else x
        return tokens

    def shape(self) -> tuple[int, ...]:
        """Shape of one image's activations."""
        vit = self.vit
        return (vit.embed_dim,) if self.pooled else (vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim)


@dataclass
class _Kept:
    key: object
    activations: Tensor


_kept: list[_Kept] = []
"""These are kept in this process, the least recently used first."""


AUGMENTATION = (
    "views",
    "crop_min",
    "crop_max",
    "flip",
    "randaugment_n",
    "randaugment_m",
    "trivial_augment",
    "erase_prob",
    "precision",
)
"""Activations depend on these fields of the recipe."""


def activations(
    tail: Tail, images: Split, preprocess: Preprocess, config: TrainConfig, *, key: object, device: torch.device
) -> Tensor:
    """What the frozen beginning makes of all views, computed once in a process.

    Args:
        tail: of the model, untrained.
        key: of everything that the images and the weights of the beginning depend on.

    Returns:
        ``[views * n, ...]`` on the device, view by view.

    Raises:
        SpecError: they do not fit into memory.
    """
    whole = (key, tail.depth, tail.pooled, *(getattr(config, name) for name in AUGMENTATION), device)
    entry = next((kept for kept in _kept if kept.key == whole), None)
    if entry is None:
        make_room(tail, config, images=len(images), device=device)
        entry = _Kept(whole, _compute(tail, images, preprocess, config, device))
    else:
        _kept.remove(entry)
    _kept.append(entry)
    return entry.activations


def bytes_needed(tail: Tail, config: TrainConfig, *, images: int, device: torch.device) -> int:
    """Memory that the activations of all views take."""
    assert config.views is not None
    size = 2 if precision_on(device, config.precision) in HALVES else 4
    return size * config.views * images * math.prod(tail.shape())


def make_room(tail: Tail, config: TrainConfig, *, images: int, device: torch.device) -> None:
    """Forget other activations as far as needed.

    Raises:
        SpecError: these would not fit all the same.
    """
    needed = bytes_needed(tail, config, images=images, device=device)
    held = sum(kept.activations.nbytes for kept in _kept)
    budget = int(SHARE * (free_memory(device) + held))
    while _kept and needed + held > budget:
        held -= _kept.pop(0).activations.nbytes
    if needed > budget:
        raise SpecError(
            f"train.views = {config.views} of {images:,} images needs {needed / 2**30:.1f} GiB for activations, and "
            f"{budget / 2**30:.1f} GiB may be used: ask for fewer views or images, or leave views out"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _compute(tail: Tail, images: Split, preprocess: Preprocess, config: TrainConfig, device: torch.device) -> Tensor:
    """All views, batch by batch in a fixed order; every rank computes all of them."""
    assert config.views is not None
    order = torch.arange(len(images)).repeat(config.views)
    config = config.model_copy(update={"batch_size": BATCH})
    half = HALVES.get(precision_on(device, config.precision))
    parts = []
    # Not in inference mode: training saves these tensors for its backward pass.
    with evaluation_mode(tail), torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
        for step, chosen in enumerate(order.split(BATCH)):
            positions = torch.arange(len(chosen))
            pixels, cropped = take(images, chosen, config, seed=VIEWS_SEED, step=step, positions=positions)
            inputs = augment(
                pixels.to(device), config, seed=VIEWS_SEED, step=step, positions=positions, cropped=cropped
            )
            inputs = erase(preprocess(inputs), config, seed=VIEWS_SEED, step=step, positions=positions)
            parts.append(tail.beginning(inputs))
    return torch.cat(parts)
