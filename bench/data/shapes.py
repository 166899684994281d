"""The embedded source domain: drawn shapes with textures, generated from a seed.

21 classes, every pair of a shape (disk, triangle, frame) and a texture (solid, stripes at four angles, checker,
dots). An image varies in position, scale, rotation within 12 degrees, phase and period of its texture, tint, background
and noise. The polarity is fixed, a bright object on a dim background.

Everything is float64 NumPy, rounded to uint8 at the end, so that the same seed draws the same images on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bench.data._kinds import Images, Source

Array = NDArray[np.float64]

SHAPES = ("disk", "triangle", "frame")
TEXTURES = ("solid", "stripes 0", "stripes 45", "stripes 90", "stripes 135", "checker", "dots")
CLASS_NAMES = tuple(f"{shape}, {texture}" for shape in SHAPES for texture in TEXTURES)
NUM_CLASSES = len(CLASS_NAMES)
SIZE = 32

SPLITS: Mapping[str, tuple[int, int]] = {
    "pretrain": (8000, 0),
    "bank": (4000, 1),
    "val": (1000, 2),
    "test": (1000, 3),
}
"""Every split has so many images, drawn with such a seed."""


def split(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and labels ``[n]`` of a split of ``SPLITS``."""
    count, seed = SPLITS[name]
    return generate(count=count, seed=seed)


def source() -> Source:
    """The domain as a source: 4,000 images in the bank, 1,000 queries each for the search and the confirmation."""
    import torch

    def images(name: str) -> Images:
        pixels, labels = split(name)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    return Source(bank=images("bank"), val=images("val"), test=images("test"))


def generate(*, count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images.

    Args:
        count: how many; the classes differ in size by one at most.
        seed: of everything random.

    Returns:
        Images, uint8 ``[count, 3, 32, 32]``, and labels, int64 ``[count]``.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % NUM_CLASSES)
    x, y = _object_coordinates(rng, count)
    mask = _shape(x, y, labels // len(TEXTURES))
    pattern = _texture(rng, x, y, labels % len(TEXTURES))
    background = _background(rng, count)
    bright = rng.uniform(0.5, 1.0, (count, 3, 1, 1))
    dim = rng.uniform(0.2, 0.45, (count, 3, 1, 1))
    surface = dim + (bright - dim) * pattern[:, None]
    images = background + mask[:, None] * (surface - background)
    images += rng.normal(0, 0.08, images.shape)
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8), labels


def _object_coordinates(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Coordinates ``[n, 32, 32]`` in the object's own frame, in which it spans -1 .. 1."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    centre_x, centre_y = rng.uniform(-0.25, 0.25, (2, count, 1, 1))
    scale = rng.uniform(0.5, 0.75, (count, 1, 1))
    angle = np.deg2rad(rng.uniform(-12, 12, (count, 1, 1)))
    dx, dy = axis[None, None, :] - centre_x, axis[None, :, None] - centre_y
    cos, sin = np.cos(angle), np.sin(angle)
    return (dx * cos + dy * sin) / scale, (dy * cos - dx * sin) / scale


def _shape(x: Array, y: Array, which: NDArray[np.int64]) -> Array:
    """Coverage of the object, 0 .. 1 with soft edges."""
    square = np.maximum(abs(x), abs(y))
    distances = (
        np.hypot(x, y) - 1,  # disk
        np.maximum(y - 0.8, 0.894 * abs(x) - 0.447 * y - 0.536),  # triangle, apex up
        np.maximum(square - 0.95, 0.5 - square),  # frame
    )
    return 1 / (1 + np.exp(np.clip(_choose(distances, which) * 16, -40, 40)))


def _texture(rng: np.random.Generator, x: Array, y: Array, which: NDArray[np.int64]) -> Array:
    """Brightness of the object's surface, 0 .. 1."""
    count = len(which)
    frequency = 2 * np.pi / rng.uniform(0.4, 0.7, (count, 1, 1))
    phase, other = rng.uniform(0, 2 * np.pi, (2, count, 1, 1))
    half = np.sqrt(0.5)
    u, v = frequency * x, frequency * y
    patterns = (
        np.ones_like(x),
        np.sin(v + phase),
        np.sin((u + v) * half + phase),
        np.sin(u + phase),
        np.sin((u - v) * half + phase),
        1.5 * np.sin(u + phase) * np.sin(v + other),
        np.sin(u + phase) + np.sin(v + other) - 0.6,
    )
    return 1 / (1 + np.exp(-4 * _choose(patterns, which)))


def _background(rng: np.random.Generator, count: int) -> Array:
    """Dim, with a few weak blobs: ``[n, 3, 32, 32]``."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    result = np.broadcast_to(rng.uniform(0.0, 0.2, (count, 3, 1, 1)), (count, 3, SIZE, SIZE)).copy()
    for _ in range(5):
        centre_x, centre_y = rng.uniform(-1, 1, (2, count, 1, 1))
        width = rng.uniform(0.1, 0.3, (count, 1, 1))
        square = (axis[None, None, :] - centre_x) ** 2 + (axis[None, :, None] - centre_y) ** 2
        result += rng.uniform(0, 0.3, (count, 3, 1, 1)) * np.exp(-square / (2 * width**2))[:, None]
    return result


def _choose(options: tuple[Array, ...], which: NDArray[np.int64]) -> Array:
    """From each image's options the one that ``which`` names."""
    result = options[0].copy()
    for index, option in enumerate(options[1:], start=1):
        result[which == index] = option[which == index]
    return result
