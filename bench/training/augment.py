"""Augmentation of batches on the training device, the same on any number of workers.

Crops and flips are done for a batch at once; torchvision's and timm's transforms do the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision.transforms import v2

from bench.data import InFiles, InMemory
from bench.spec import TrainConfig

RATIO = (3 / 4, 4 / 3)
TRIES = 10
"""So many boxes are drawn for an image before its centre is taken, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True)
class Crops:
    """Boxes ``[b, 4]`` (left, top, width, height, as shares of each image) and whether it is mirrored, bool ``[b]``."""

    boxes: Tensor
    mirrored: Tensor


def take(
    images: InMemory, indices: Tensor, config: TrainConfig, *, seed: int, step: int, positions: Tensor
) -> tuple[Tensor, bool]:
    """Images at some indices for :func:`augment`, and whether they are cropped and mirrored already."""
    if not (isinstance(images, InFiles) and config.crops):
        return images.take(indices), False
    chosen = crops(config, seed=seed, step=step, positions=positions, sizes=images.sizes(indices))
    return images.take_crops(indices, chosen.boxes, chosen.mirrored), True


def crops(config: TrainConfig, *, seed: int, step: int, positions: Tensor, sizes: Tensor) -> Crops:
    """What the images of a part of a global batch are cropped to, by torchvision's rule.

    Args:
        positions: where in the global batch the images stand, int64 ``[b]`` on the CPU.
        sizes: their height and width, ``[b, 2]``.
    """
    generator = _generator(seed, step)
    draws = Draws.of(config.batch_size, config.crop_min, generator, largest=config.crop_max)
    mirrored = (torch.rand(config.batch_size, generator=generator) < 0.5) & config.flip
    return Crops(draws.at(positions).boxes(sizes), mirrored[positions])


def augment(
    images: Tensor, config: TrainConfig, *, seed: int, step: int, positions: Tensor, cropped: bool = False
) -> Tensor:
    """Crop, flip and distort a part of a global batch; RandAugment and TrivialAugment are torchvision's.

    The parameters are drawn for the global batch, from the seed and the step: an image is treated alike on any number
    of workers.

    Args:
        images: uint8 ``[b, 3, h, w]``.
        positions: where in the global batch they stand, int64 ``[b]`` on the CPU.
        cropped: whether they are cropped and mirrored already (see :func:`crops`).

    Returns:
        uint8 of the same shape.
    """
    if config.crops and not cropped:
        sizes = torch.tensor(images.shape[-2:]).expand(len(images), 2)
        chosen = crops(config, seed=seed, step=step, positions=positions, sizes=sizes)
        images = resample(images, chosen.boxes.to(images.device), chosen.mirrored.to(images.device))
    return _one_by_one(_distortion(config), images, config, _generator(seed, step, stream=2), positions)


def erase(images: Tensor, config: TrainConfig, *, seed: int, step: int, positions: Tensor) -> Tensor:
    """Erase a random rectangle (torchvision's RandomErasing) of some normalised images: it takes the mean colour.

    Args:
        images: float ``[b, 3, h, w]``.
        positions: see :func:`augment`.
    """
    erasing = v2.RandomErasing(config.erase_prob) if config.erase_prob else None
    return _one_by_one(erasing, images, config, _generator(seed, step, stream=1), positions)


def mix(
    images: Tensor, labels: Tensor, config: TrainConfig, *, classes: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Mix every image with its partner by timm's Mixup or CutMix, with one random weight or rectangle a batch.

    The partner of the first image is the last one, and so on: whoever shares out a global batch keeps pairs together
    (see :func:`bench.training.loop.shares`), and all parts draw the same parameters.

    Args:
        images: normalised, ``[b, 3, h, w]`` with an even b; overwritten.
        labels: int64 ``[b]``.

    Returns:
        The images, and their labels as probabilities ``[b, classes]``.
    """
    mixup = Mixup(
        mixup_alpha=config.mixup_alpha,
        cutmix_alpha=config.cutmix_alpha,
        prob=config.mix_prob,
        label_smoothing=0.0,  # the loss does it
        num_classes=classes,
    )
    state = np.random.get_state()  # which timm draws from
    np.random.seed([seed, step])
    try:
        mixed: tuple[Tensor, Tensor] = mixup(images, labels)
    finally:
        np.random.set_state(state)
    return mixed


def _generator(seed: int, step: int, *, stream: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed((stream << 48) + seed * 1_000_003 + step)


def _distortion(config: TrainConfig) -> v2.Transform | None:
    if config.trivial_augment:
        return v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
    if config.randaugment_n:
        bilinear = v2.InterpolationMode.BILINEAR
        return v2.RandAugment(config.randaugment_n, config.randaugment_m, interpolation=bilinear)
    return None


def _one_by_one(
    transform: v2.Transform | None,
    images: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    positions: Tensor,
) -> Tensor:
    """Apply a transform that draws from torch's global CPU generator, seeded for each image of the global batch."""
    if transform is None:
        return images
    seeds = torch.randint(2**63 - 1, (config.batch_size,), generator=generator)[positions].tolist()
    with torch.random.fork_rng(devices=[]):
        return torch.stack([_seeded(transform, image, seed) for image, seed in zip(images, seeds, strict=True)])


def _seeded(transform: v2.Transform, image: Tensor, seed: int) -> Tensor:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
    changed: Tensor = transform(image)
    return changed


@dataclass(frozen=True)
class Draws:
    """Random numbers for boxes of RandomResizedCrop, before it is known what sizes the images have.

    ``area``: shares of the image, ``[n, TRIES]``; ``ratio``: width over height, likewise; ``place``: ``[2, n]``.
    """

    area: Tensor
    ratio: Tensor
    place: Tensor
    whole: bool

    @classmethod
    def of(cls, count: int, smallest: float, generator: torch.Generator, *, largest: float = 1.0) -> Draws:
        """Area uniform in ``smallest`` .. ``largest``, ratio log-uniform in 3/4 .. 4/3; with 1 the whole image."""
        low, high = (math.log(bound) for bound in RATIO)
        return cls(
            area=torch.empty(count, TRIES).uniform_(smallest, largest, generator=generator),
            ratio=torch.empty(count, TRIES).uniform_(low, high, generator=generator).exp(),
            place=torch.rand(2, count, generator=generator),
            whole=smallest == 1,
        )

    def at(self, positions: Tensor) -> Draws:
        """The draws of some images."""
        return Draws(self.area[positions], self.ratio[positions], self.place[:, positions], self.whole)

    def boxes(self, sizes: Tensor) -> Tensor:
        """Boxes for images of these heights and widths ``[n, 2]``: ``[n, 4]``, see :class:`Crops`."""
        if self.whole:
            return torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(sizes), 1)
        aspect = (sizes[:, :1] / sizes[:, 1:]).float()  # height over width
        w, h = (self.area * self.ratio * aspect).sqrt(), (self.area / self.ratio / aspect).sqrt()
        fits = (w <= 1) & (h <= 1)
        first = fits.int().argmax(1, keepdim=True)
        w, h = (side.gather(1, first).squeeze(1) for side in (w, h))
        # Where none fits: the centre, as large as the ratio's bounds allow.
        none, aspect = ~fits.any(1), aspect.squeeze(1)
        w = torch.where(none, (RATIO[1] * aspect).clamp(max=1), w)
        h = torch.where(none, (1 / (RATIO[0] * aspect)).clamp(max=1), h)
        left, top = torch.where(none, 0.5, self.place)
        return torch.stack([left * (1 - w), top * (1 - h), w, h], dim=1)


def resample(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a box out of every image and stretch it to the image's size (bilinear), mirrored where asked for.

    Args:
        images: uint8 ``[b, 3, h, w]``.
        boxes: ``[b, 4]``, see :class:`Crops`.
        mirrored: bool ``[b]``.
    """
    left, top, width, height = boxes.unbind(1)
    zero = torch.zeros_like(left)
    sign = torch.where(mirrored, -1.0, 1.0)
    rows = [
        torch.stack([sign * width, zero, 2 * left + width - 1], 1),
        torch.stack([zero, height, 2 * top + height - 1], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8)
