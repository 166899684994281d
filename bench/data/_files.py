"""Images that stay in files and are decoded when they are taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data import Images, Target
from bench.data._splits import stratified
from bench.spec import SpecError

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
CACHE_BYTES = 2 * 2**30
"""A split is kept in memory, once decoded, if it fits into this."""

RESIZE = 256 / 224
"""The shorter side is resized to this times the crop, as in DINO's evaluation."""


class FileImages:
    """Labelled image files: what :class:`bench.data.Images` is for images in memory.

    Every image is decoded to RGB, its shorter side resized (bicubic) and its centre cropped to ``size`` pixels.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], *, size: int) -> None:
        import torch

        if not paths:
            raise SpecError("a split holds no images")
        self.paths, self.size = list(paths), size
        self.labels: Tensor = torch.tensor(labels, dtype=torch.int64)
        self._kept: dict[int, Tensor] = {}
        self._keep = len(paths) * 3 * size * size <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> Tensor:
        """uint8 ``[len(indices), 3, size, size]``."""
        import torch

        return torch.stack(list(self._pool.map(self._one, indices.tolist())))

    def _one(self, index: int) -> Tensor:
        found = self._kept.get(index)
        if found is None:
            found = decode(self.paths[index], self.size)
            if self._keep:
                self._kept[index] = found
        return found

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))


def decode(path: Path, size: int) -> Tensor:
    """One image file of any mode as uint8 ``[3, size, size]``.

    Raises:
        ValueError: naming the file, if it is missing, damaged, too large or no picture.
    """
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            picture = _to_rgb(file)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None
    scale = max(round(size * RESIZE), size) / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _to_rgb(file: PIL.Image.Image) -> PIL.Image.Image:
    """RGB of any mode; 16-bit greys are scaled, not clipped."""
    from PIL import Image

    if file.mode.startswith("I"):
        grey = np.asarray(file, dtype=np.float64)
        file = Image.fromarray((grey / 257).clip(0, 255).astype(np.uint8))
    return file.convert("RGB")


def scan(folder: Path, classes: Sequence[str] | None = None) -> tuple[list[str], list[Path], list[int]]:
    """Images of a folder of class folders, sorted.

    Args:
        classes: names that are known from another split; others are an error.

    Returns:
        Class names, image files, labels.

    Raises:
        SpecError: there are no classes, a class has no images, or a class is not known.
    """
    if not folder.is_dir():
        raise SpecError(f"there is no folder {folder}")
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    names = list(classes) if classes is not None else found
    if surplus := sorted(set(found) - set(names)):
        raise SpecError(f"{folder} holds the class {surplus[0]!r}, which the training images do not have")
    if len(names) < 2:
        raise SpecError(f"{folder} must hold a folder of images for each of at least two classes, not {len(names)}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        own = _images(folder / name)
        if not own:
            raise SpecError(f"class {name!r} has no images in {folder}")
        paths += own
        labels += [label] * len(own)
    return names, paths, labels


def _images(folder: Path) -> list[Path]:
    """Image files below a class folder; links to folders are not followed, so that no loop can trap it."""
    found = [
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=False)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    return sorted(found)


def split_off(
    paths: Sequence[Path], labels: Sequence[int], shares: Sequence[float], *, seed: int
) -> list[tuple[list[Path], list[int]]]:
    """Split files by class into parts of the given shares of the whole; what is left over is the first part.

    Raises:
        SpecError: a class is too small to be in every part.
    """
    array: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
    sizes = [round(share * len(array)) for share in shares]
    parts = stratified(array, [len(array) - sum(sizes), *sizes], seed=seed)
    classes = set(labels)
    for part in parts:
        if missing := sorted(classes - set(array[part].tolist())):
            count = int((array == missing[0]).sum())
            raise SpecError(
                f"class number {missing[0]} has {count} images, too few for training, validation and test: "
                f"add images, or make train, val and test folders"
            )
    return [([paths[i] for i in part], array[part].tolist()) for part in parts]


def as_target(parts: Sequence[tuple[list[Path], list[int]]], *, classes: int, size: int) -> Target:
    """A target from the files of train, validation and test."""
    train, val, test = (FileImages(paths, labels, size=size) for paths, labels in parts)
    return Target(train=train, val=val, test=test, num_classes=classes)


def balanced(
    paths: Sequence[Path], labels: Sequence[int], per_class: int | None, *, seed: int
) -> tuple[list[Path], list[int]]:
    """At most ``per_class`` images of every class, chosen by the seed."""
    if per_class is None:
        return list(paths), list(labels)
    array = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(array))
    chosen = [i for label in np.unique(array) for i in order[array[order] == label][:per_class]]
    return [paths[i] for i in chosen], [int(array[i]) for i in chosen]


__all__ = ["FileImages", "Images", "as_target", "balanced", "decode", "scan", "split_off"]
