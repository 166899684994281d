"""From a picture, in a file or in memory, to a model's input."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import data
from bench.models.architectures import TINY, plain, shapes_only, timm_name
from bench.spec import Backbone, Size, SpecError

PUBLISHED_CROPS: Mapping[str, float] = {"dino": 224 / 256, "mae": 224 / 256}
"""Evaluation crops by timm's tags are given where the authors' own differ from timm's default of 0.9: both resize the
shorter side to 256 and crop 224 (facebookresearch/dino, eval_knn.py; facebookresearch/mae, main_linprobe.py)."""


@dataclass(frozen=True)
class Preprocess:
    """What a backbone expects: ``size`` x ``size`` pixels in 0..1, minus ``mean``, over ``std`` (a value a channel).

    Images in memory are resized to that size as they are, as in the paper; picture files are resized and cropped as
    :attr:`files` says.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: float = 224 / 256
    crop_mode: Literal["center", "squash"] = "center"
    whole: bool = False
    """Whether picture files are resized as they are, too: a model that learned from images in memory saw them so."""

    @property
    def files(self) -> Size:
        """How a picture file is decoded for this backbone."""
        return Size(self.size, self.crop_pct, self.interpolation, self.crop_mode)

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

    def of_files(self, paths: Sequence[Path]) -> Tensor:
        """Picture files as the images that a model learned from: normalised float32 ``[n, 3, size, size]``.

        Raises:
            ValueError: naming the file, if it is missing, damaged, too large or no picture.
        """
        if self.whole:
            return torch.cat([self(data.whole_picture(path)[None]) for path in paths])
        return self(torch.stack([data.decode(path, self.files) for path in paths]))


TINY_PREPROCESS = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@functools.cache
def preprocess(backbone: Backbone) -> Preprocess:
    """The preprocessing that a backbone was trained with: timm's data configuration, or the authors' own crop.

    Raises:
        SpecError: it cannot be followed here, or the images are smaller than a patch.
    """
    if backbone.name == TINY.name:
        if backbone.image_size not in (None, TINY_PREPROCESS.size):
            raise SpecError(f"backbone 'tiny' takes {TINY_PREPROCESS.size} pixels a side: leave --image-size out")
        return TINY_PREPROCESS
    from timm.data.config import resolve_model_data_config

    with shapes_only():
        config = resolve_model_data_config(plain(backbone, num_classes=0))
    *_, height, width = config["input_size"]
    if backbone.image_size is not None and backbone.image_size < (patch := patch_size(backbone)):
        raise SpecError(
            f"image_size = {backbone.image_size} is less than one patch of {backbone.name!r}, {patch} pixels a side: "
            f"give a multiple of {patch} with --image-size"
        )
    if backbone.image_size is None and height != width:
        raise SpecError(f"backbone {backbone.name!r} expects {height} x {width} pixels: choose a square --image-size")
    if config["crop_mode"] not in ("center", "squash"):
        raise SpecError(f"backbone {backbone.name!r} wants crop mode {config['crop_mode']!r}, which is not supported")
    if config["interpolation"] not in ("bicubic", "bilinear"):
        raise SpecError(f"backbone {backbone.name!r} wants {config['interpolation']} resizing, which is not supported")
    return Preprocess(
        size=backbone.image_size or width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=PUBLISHED_CROPS.get(timm_name(backbone.name).partition(".")[2], config["crop_pct"]),
        crop_mode=config["crop_mode"],
    )


@functools.cache
def patch_size(backbone: Backbone) -> int:
    """Pixels of an image, in either direction, that become one token."""
    with shapes_only():
        embed: Any = plain(backbone, num_classes=0).patch_embed
    sides = embed.feat_ratio() if hasattr(embed, "feat_ratio") else embed.patch_size
    return int(max(sides) if isinstance(sides, tuple | list) else sides)


def check_size(backbone: Backbone) -> None:
    """Refuse a size of images that a backbone can be built for and not be run at.

    Raises:
        SpecError: with the reason.
    """
    size = preprocess(backbone).size
    with shapes_only():
        vit = plain(backbone, num_classes=0).eval()
        try:
            vit(torch.zeros(1, 3, size, size))
        except AssertionError as error:  # timm's own check; what has no shape alone is not known here
            raise SpecError(
                f"backbone {backbone.name!r} cannot take images of {size} pixels a side ({error}): give another "
                f"--image-size"
            ) from None
        except (NotImplementedError, RuntimeError):
            return


def unseen_border(backbone: Backbone) -> str | None:
    """One sentence, if patches do not divide the images, on what becomes of the rest."""
    size, patch = preprocess(backbone).size, patch_size(backbone)
    if not (rest := size % patch):
        return None
    return (
        f"image_size = {size} is not a multiple of {backbone.name}'s patches of {patch} pixels: it does not see the "
        f"last {rest} pixels on the right and at the bottom; {size - rest} or {size - rest + patch} would fit"
    )
