"""The embedded source domain: drawn shapes with textures, generated from a seed.

21 classes, every pair of a shape (disk, triangle, frame) and a texture (solid, stripes at four angles, checker,
dots). An image varies in position, scale, rotation within 12 degrees, phase and period of its texture, tint, background
and noise. The polarity is fixed, a bright object on a dim background.

Everything is float64 NumPy, rounded to uint8 at the end, so that the same seed draws the same images on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data._kinds import Images, Source

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]

HALF = np.sqrt(0.5)

SHAPES: Mapping[str, Callable[..., Array]] = {
    "disk": lambda x, y: np.hypot(x, y) - 1,
    "triangle": lambda x, y: np.maximum(y - 0.8, 0.894 * abs(x) - 0.447 * y - 0.536),  # apex up
    "frame": lambda x, y: np.maximum((square := np.maximum(abs(x), abs(y))) - 0.95, 0.5 - square),
}
"""Signed distances from the object's edge, at coordinates in which it spans -1 .. 1."""

TEXTURES: Mapping[str, Callable[..., Array]] = {
    "solid": lambda u, v, phase, other: np.ones_like(u),
    "stripes 0": lambda u, v, phase, other: np.sin(v + phase),
    "stripes 45": lambda u, v, phase, other: np.sin((u + v) * HALF + phase),
    "stripes 90": lambda u, v, phase, other: np.sin(u + phase),
    "stripes 135": lambda u, v, phase, other: np.sin((u - v) * HALF + phase),
    "checker": lambda u, v, phase, other: 1.5 * np.sin(u + phase) * np.sin(v + other),
    "dots": lambda u, v, phase, other: np.sin(u + phase) + np.sin(v + other) - 0.6,
}
"""Waves, positive where it is bright; coordinates are in radians of the waves."""

CLASS_NAMES = tuple(f"{shape}, {texture}" for shape in SHAPES for texture in TEXTURES)
NUM_CLASSES = len(CLASS_NAMES)
SIZE = 32
BLOBS = 5
"""The background of an image has so many."""

AT_ONCE = 128
"""So many images are drawn at a time: what that needs stays in a core's cache."""

SPLITS: Mapping[str, tuple[int, int]] = {
    "pretrain": (8000, 0),
    "bank": (4000, 1),
    "val": (1000, 2),
    "test": (5000, 3),
}
"""Every split has so many images, drawn with such a seed."""


def split(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images ``[n, 3, 32, 32]`` and labels ``[n]`` of a split of ``SPLITS``."""
    count, seed = SPLITS[name]
    return generate(count=count, seed=seed)


class Drawn:
    """A :class:`bench.data.Split` of ``SPLITS``, drawn when it is first asked for: a search looks at no test image."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _drawn(self) -> Images:
        import torch

        pixels, labels = split(self._name)
        return Images(torch.from_numpy(pixels), torch.from_numpy(labels))

    @property
    def images(self) -> Tensor:
        """uint8 ``[n, 3, 32, 32]``."""
        return self._drawn.images

    @property
    def labels(self) -> Tensor:
        """int64 ``[n]``."""
        return self._drawn.labels

    def __len__(self) -> int:
        return SPLITS[self._name][0]

    def take(self, indices: Tensor) -> Tensor:
        """See :meth:`bench.data.Split.take`."""
        return self._drawn.take(indices)

    def select(self, indices: NDArray[np.int64]) -> Images:
        """See :meth:`bench.data.Split.select`."""
        return self._drawn.select(indices)

    def fingerprint(self) -> str:
        """See :meth:`bench.data.Split.fingerprint`."""
        return self._drawn.fingerprint()

    def identity(self) -> str:
        """See :meth:`bench.data.Split.identity`."""
        return self._drawn.identity()


def source() -> Source:
    """The domain as a source: 4,000 images in the bank, 1,000 queries for the search, 5,000 for the confirmation."""
    return Source(bank=Drawn("bank"), val=Drawn("val"), test=Drawn("test"), class_names=CLASS_NAMES)


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
    plan = _Plan.drawn(rng, count)
    images = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, count, AT_ONCE):
        part = slice(start, min(start + AT_ONCE, count))
        noisy = _render(plan.part(part), labels[part])
        noisy += rng.normal(0, 0.08, noisy.shape)
        images[part] = np.rint(noisy.clip(0, 1) * 255)
    return images, labels


@dataclass(frozen=True)
class _Plan:
    """Everything random of ``n`` images but their noise; the first axis of every array is the image's."""

    centre_x: Array
    centre_y: Array
    scale: Array
    angle: Array
    period: Array
    phase: Array
    other: Array
    """Phase of the second wave, of textures that have two."""
    background: Array
    blob_x: Array
    blob_y: Array
    blob_width: Array
    blob_weight: Array
    bright: Array
    dim: Array

    @classmethod
    def drawn(cls, rng: np.random.Generator, count: int) -> _Plan:
        """The order of the draws is part of what the images are."""
        centre_x, centre_y = rng.uniform(-0.25, 0.25, (2, count, 1, 1))
        scale = rng.uniform(0.5, 0.75, (count, 1, 1))
        angle = np.deg2rad(rng.uniform(-12, 12, (count, 1, 1)))
        period = rng.uniform(0.4, 0.7, (count, 1, 1))
        phase, other = rng.uniform(0, 2 * np.pi, (2, count, 1, 1))
        background = rng.uniform(0.0, 0.2, (count, 3, 1, 1))
        blobs = [_blob(rng, count) for _ in range(BLOBS)]
        blob_x, blob_y, blob_width, blob_weight = (np.stack(parts, axis=1) for parts in zip(*blobs, strict=True))
        bright = rng.uniform(0.5, 1.0, (count, 3, 1, 1))
        dim = rng.uniform(0.2, 0.45, (count, 3, 1, 1))
        shape = centre_x, centre_y, scale, angle, period, phase, other
        return cls(*shape, background, blob_x, blob_y, blob_width, blob_weight, bright, dim)

    def part(self, which: slice) -> _Plan:
        """The plan of some of the images."""
        return _Plan(*(getattr(self, field.name)[which] for field in fields(self)))


def _blob(rng: np.random.Generator, count: int) -> tuple[Array, Array, Array, Array]:
    """One blob of every background: x, y, width, and weight by colour."""
    x, y = rng.uniform(-1, 1, (2, count, 1, 1))
    return x, y, rng.uniform(0.1, 0.3, (count, 1, 1)), rng.uniform(0, 0.3, (count, 3, 1, 1))


def _render(plan: _Plan, labels: NDArray[np.int64]) -> Array:
    """Images ``[n, 3, 32, 32]`` without noise, 0 .. 1 and a little beyond."""
    x, y = _object_coordinates(plan)
    mask = _shape(x, y, labels // len(TEXTURES))[:, None]
    pattern = _texture(plan, x, y, labels % len(TEXTURES))[:, None]
    background = _background(plan)
    surface = plan.dim + (plan.bright - plan.dim) * pattern
    result: Array = background + mask * (surface - background)
    return result


def _object_coordinates(plan: _Plan) -> tuple[Array, Array]:
    """Coordinates ``[n, 32, 32]`` in the object's own frame, in which it spans -1 .. 1."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    dx, dy = axis[None, None, :] - plan.centre_x, axis[None, :, None] - plan.centre_y
    cos, sin = np.cos(plan.angle), np.sin(plan.angle)
    return (dx * cos + dy * sin) / plan.scale, (dy * cos - dx * sin) / plan.scale


def _shape(x: Array, y: Array, which: NDArray[np.int64]) -> Array:
    """Coverage of the object, 0 .. 1 with soft edges."""
    distance = _by_class(tuple(SHAPES.values()), which, x, y)
    return 1 / (1 + np.exp(np.clip(distance * 16, -40, 40)))


def _texture(plan: _Plan, x: Array, y: Array, which: NDArray[np.int64]) -> Array:
    """Brightness of the object's surface, 0 .. 1."""
    frequency = 2 * np.pi / plan.period
    pattern = _by_class(tuple(TEXTURES.values()), which, frequency * x, frequency * y, plan.phase, plan.other)
    return 1 / (1 + np.exp(-4 * pattern))


def _background(plan: _Plan) -> Array:
    """Dim, with a few weak blobs: ``[n, 3, 32, 32]``."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    result = np.broadcast_to(plan.background, (len(plan.background), 3, SIZE, SIZE)).copy()
    for blob in range(BLOBS):
        x, y, width = plan.blob_x[:, blob], plan.blob_y[:, blob], plan.blob_width[:, blob]
        square = (axis[None, None, :] - x) ** 2 + (axis[None, :, None] - y) ** 2
        result += plan.blob_weight[:, blob] * np.exp(-square / (2 * width**2))[:, None]
    return result


def _by_class(functions: Sequence[Callable[..., Array]], which: NDArray[np.int64], *arguments: Array) -> Array:
    """For each image the value of the function that ``which`` names, of its own part of the arguments."""
    result = np.empty_like(arguments[0])
    for index, function in enumerate(functions):
        mine = which == index
        result[mine] = function(*(argument[mine] for argument in arguments))
    return result
