"""Augmentation of whole batches on the training device, with random parameters of their own for every image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import parallel
from bench.spec import TrainConfig

RATIO = (3 / 4, 4 / 3)
TRIES = 10
"""Boxes that are drawn for an image before its centre is taken, as in torchvision's RandomResizedCrop."""


def augment(images: Tensor, config: TrainConfig, *, seed: int, step: int) -> Tensor:
    """Crop and flip this rank's part of a global batch.

    The parameters are drawn for the global batch, from the seed and the step: an image is treated alike on any number
    of workers.

    Args:
        images: this rank's images, uint8 ``[b, 3, h, w]``.

    Returns:
        uint8 of the same shape.
    """
    if config.crop_min == 1 and not config.flip:
        return images
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    mine = slice(parallel.rank(), None, parallel.world())
    boxes = random_boxes(config.batch_size, images.shape[-2:], config.crop_min, generator)[mine]
    mirrored = (torch.rand(config.batch_size, generator=generator) < 0.5)[mine] & config.flip
    return resample(images, boxes.to(images.device), mirrored.to(images.device))


def random_boxes(count: int, size: tuple[int, ...], smallest: float, generator: torch.Generator) -> Tensor:
    """Boxes of RandomResizedCrop: area uniform in ``smallest`` .. 1, aspect ratio log-uniform in 3/4 .. 4/3.

    Args:
        size: height and width of the images.

    Returns:
        ``[count, 4]``: left, top, width, height, each as a share of the image's width or height.
    """
    if smallest == 1:
        return torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1)
    height, width = size
    area = torch.empty(count, TRIES).uniform_(smallest, 1, generator=generator) * height * width
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
