"""Augmentation of batches on the training device, the same on any number of workers.

Crops and flips are done for a batch at once; torchvision's and timm's transforms do the rest.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from torch import Tensor
from torchvision.transforms import v2

from bench.spec import TrainConfig

RATIO = (3 / 4, 4 / 3)
TRIES = 10
"""Boxes that are drawn for an image before its centre is taken, as in torchvision's RandomResizedCrop."""


def augment(images: Tensor, config: TrainConfig, *, seed: int, step: int, positions: Tensor) -> Tensor:
    """Crop, flip and distort a part of a global batch; RandAugment and TrivialAugment are torchvision's.

    The parameters are drawn for the global batch, from the seed and the step: an image is treated alike on any number
    of workers.

    Args:
        images: uint8 ``[b, 3, h, w]``.
        positions: where in the global batch they stand, int64 ``[b]`` on the CPU.

    Returns:
        uint8 of the same shape.
    """
    generator = _generator(seed, step)
    if config.crop_min < 1 or config.flip:
        boxes = random_boxes(config.batch_size, images.shape[-2:], config.crop_min, generator, largest=config.crop_max)
        mirrored = (torch.rand(config.batch_size, generator=generator) < 0.5) & config.flip
        images = resample(images, boxes[positions].to(images.device), mirrored[positions].to(images.device))
    return _one_by_one(_distortion(config), images, config, generator, positions)


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
    (see :func:`bench.training.shares`), and all parts draw the same parameters.

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


def random_boxes(
    count: int, size: tuple[int, ...], smallest: float, generator: torch.Generator, *, largest: float = 1.0
) -> Tensor:
    """Boxes of RandomResizedCrop: area uniform in ``smallest`` .. ``largest``, ratio log-uniform in 3/4 .. 4/3.

    Args:
        size: height and width of the images.

    Returns:
        ``[count, 4]``: left, top, width, height, each as a share of the image's width or height.
    """
    if smallest == 1:
        return torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
    height, width = size
    area = torch.empty(count, TRIES).uniform_(smallest, largest, generator=generator) * height * width
    low, high = (math.log(bound) for bound in RATIO)
    ratio = torch.empty(count, TRIES).uniform_(low, high, generator=generator).exp()
    w, h = (area * ratio).sqrt() / width, (area / ratio).sqrt() / height
    fits = (w <= 1) & (h <= 1)
    first = fits.int().argmax(1, keepdim=True)  # the first that fits; the whole image where none does
    none = ~fits.any(1, keepdim=True)
    w, h = (torch.where(none, 1.0, side.gather(1, first)).squeeze(1) for side in (w, h))
    place = torch.rand(2, count, generator=generator)
    return torch.stack([place[0] * (1 - w), place[1] * (1 - h), w, h], dim=1)


def resample(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a box out of every image and stretch it to the image's size (bilinear), mirrored where asked for.

    Args:
        images: uint8 ``[b, 3, h, w]``.
        boxes: ``[b, 4]``, see :func:`random_boxes`.
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
