"""torchvision's data sets by name: one line of ``SETS`` each.

Every one has disjoint training, validation and test images: the official validation split where there is one, else a
seeded, stratified part of the training images. Test images are the official ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data import Images, Request, Source, Split, Target
from bench.data._files import FileImages, balanced, split_off
from bench.data._splits import stratified
from bench.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

SEED = 0
VAL_SHARE = 0.1
"""Part of the training images that becomes validation where there is no official one."""


def root() -> Path:
    """Where data sets are kept: the environment variable BENCH_DATA, else a cache folder of the user's."""
    return Path(os.environ.get("BENCH_DATA", "~/.cache/vit-forgetting-bench")).expanduser()


@dataclass(frozen=True)
class TorchvisionSet:
    """One of torchvision's data sets.

    ``train``, ``val`` and ``test`` are the arguments that select a split; ``folder`` is what its files lie in.
    """

    kind: str
    classes: int
    folder: str
    train: tuple[tuple[str, Any], ...]
    test: tuple[tuple[str, Any], ...]
    val: tuple[tuple[str, Any], ...] | None = None

    def check(self, argument: str) -> None:
        """Raise a SpecError for a path: these have their own place."""
        if argument:
            raise SpecError(f"{self.kind} takes no path; set BENCH_DATA to the folder that holds {self.folder}")

    def target(self, request: Request) -> Target:
        """The three splits."""
        train, test = self._load(self.train, request.size), self._load(self.test, request.size)
        if self.val is not None:
            return Target(train, self._load(self.val, request.size), test, self.classes)
        rest, val = _split(train)
        return Target(rest, val, test, self.classes)

    def source(self, request: Request) -> Source:
        """Bank: training images; queries: validation images for the search, test images for the confirmation."""
        own = self.target(request)
        return Source(bank=_thinned(own.train, request.per_class), val=own.val, test=own.test)

    def fetch(self) -> None:
        """Download the files unless they are there; one process of a machine at a time.

        Raises:
            SpecError: they cannot be had, with the place to put them.
        """
        self._open(self.train)

    def _load(self, arguments: tuple[tuple[str, Any], ...], size: int) -> Split:
        return _split_of(self._open(arguments), size)

    def _open(self, arguments: tuple[tuple[str, Any], ...]) -> Any:
        from filelock import FileLock
        from torchvision import datasets

        build = getattr(datasets, self.kind)
        root().mkdir(parents=True, exist_ok=True)
        with FileLock(root() / f".{self.folder}.lock"):
            try:
                return build(root(), **dict(arguments))
            except (RuntimeError, FileNotFoundError):
                pass  # not there, or not whole: what follows downloads it, or says why that failed
            try:
                return build(root(), **dict(arguments), download=True)
            except (OSError, RuntimeError, ValueError) as error:
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise SpecError(
                    f"data set {self.kind} is neither in {root() / self.folder} nor can it be downloaded ({first}): "
                    f"put its files, as torchvision's {self.kind} lays them out, into {root()}"
                ) from None


def _arguments(**values: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(values.items())


_TRAIN, _VAL, _TEST = (_arguments(split=name) for name in ("train", "val", "test"))

SETS: Mapping[str, TorchvisionSet] = {
    "cifar10": TorchvisionSet("CIFAR10", 10, "cifar-10-batches-py", _arguments(train=True), _arguments(train=False)),
    "cifar100": TorchvisionSet("CIFAR100", 100, "cifar-100-python", _arguments(train=True), _arguments(train=False)),
    "stl10": TorchvisionSet("STL10", 10, "stl10_binary", _TRAIN, _TEST),
    "pets37": TorchvisionSet("OxfordIIITPet", 37, "oxford-iiit-pet", _arguments(split="trainval"), _TEST),
    "flowers102": TorchvisionSet("Flowers102", 102, "flowers-102", _TRAIN, _TEST, _VAL),
    "food101": TorchvisionSet("Food101", 101, "food-101", _TRAIN, _TEST),
    "dtd": TorchvisionSet("DTD", 47, "dtd", _TRAIN, _TEST, _VAL),
    "aircraft": TorchvisionSet("FGVCAircraft", 100, "fgvc-aircraft-2013b", _TRAIN, _TEST, _VAL),
    "cars": TorchvisionSet("StanfordCars", 196, "stanford_cars", _TRAIN, _TEST),
    "imagenette": TorchvisionSet(
        "Imagenette",
        10,
        "imagenette2-320",
        _arguments(split="train", size="320px"),
        _arguments(split="val", size="320px"),
    ),
}


def _split_of(found: Any, size: int) -> Split:
    """A torchvision data set as a split: images in memory stay there, files stay files."""
    if hasattr(found, "data"):
        labels = found.targets if hasattr(found, "targets") else found.labels
        return Images(_pixels(found.data), _labels(labels))
    if hasattr(found, "_samples"):
        paths, labels = zip(*found._samples, strict=True)
    else:
        paths, labels = (found._images if hasattr(found, "_images") else found._image_files), found._labels
    return FileImages([Path(path) for path in paths], list(labels), size=size)


def _pixels(array: NDArray[np.uint8]) -> Tensor:
    """CIFAR keeps ``[n, h, w, 3]``, STL ``[n, 3, h, w]``."""
    import torch

    pixels = torch.from_numpy(array)
    return pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _labels(values: Any) -> Tensor:
    import torch

    return torch.as_tensor(np.asarray(values), dtype=torch.int64)


def _split(train: Split) -> tuple[Split, Split]:
    """Training images without, and with nothing but, the validation part."""
    if isinstance(train, FileImages):
        parts = split_off(train.paths, train.labels.tolist(), [VAL_SHARE], seed=SEED)
        first, second = (FileImages(paths, labels, size=train.size) for paths, labels in parts)
        return first, second
    count = round(VAL_SHARE * len(train))
    rest, val = stratified(train.labels.numpy(), [len(train) - count, count], seed=SEED)
    return _chosen(train, rest), _chosen(train, val)


def _chosen(images: Split, indices: NDArray[np.int64]) -> Images:
    import torch

    chosen = torch.from_numpy(np.asarray(indices))
    return Images(images.take(chosen), images.labels[chosen])


def _thinned(bank: Split, per_class: int | None) -> Split:
    if per_class is None:
        return bank
    if isinstance(bank, FileImages):
        paths, labels = balanced(bank.paths, bank.labels.tolist(), per_class, seed=SEED)
        return FileImages(paths, labels, size=bank.size)
    order = np.random.default_rng(SEED).permutation(len(bank))
    own = bank.labels.numpy()[order]
    return _chosen(bank, np.concatenate([order[own == label][:per_class] for label in np.unique(own)]))
