"""torchvision's data sets by name: one line of ``SETS`` each.

Every one has disjoint training, validation and test images: the official validation split where there is one, else a
seeded, stratified part of the training images. Test images are the official ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.cache import root
from bench.data._files import FileImages, readable, split_off
from bench.data._kinds import Images, Request, Split, Target
from bench.data._splits import stratified
from bench.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor
VAL_SHARE = 0.1
"""So much of the training images becomes validation where there is no official one."""


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
        opened = self._open(self.train)
        train, test = _split_of(opened, request), _split_of(self._open(self.test), request)
        if self.val is not None:
            val = _split_of(self._open(self.val), request)
        else:
            train, val = _split(train)
        return Target(train, val, test, self.classes, class_names=_class_names(opened))

    def fetch(self) -> None:
        """Download the files unless they are there; one process of a machine at a time.

        Raises:
            SpecError: they cannot be had, with the place to put them.
        """
        self._open(self.train)

    def at_hand(self) -> bool:
        """Whether the files are there, so that nothing has to be downloaded."""
        from torchvision import datasets

        build = getattr(datasets, self.kind)
        try:
            for arguments in filter(None, (self.train, self.val, self.test)):
                build(root(), **dict(arguments))
        except (RuntimeError, FileNotFoundError):
            return False
        return True

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


def _split_of(opened: Any, request: Request) -> Split:
    """A torchvision data set as a split: images in memory stay there, files stay files."""
    if hasattr(opened, "data"):
        labels = opened.targets if hasattr(opened, "targets") else opened.labels
        return Images(_pixels(opened.data), _labels(labels))
    if hasattr(opened, "_samples"):
        paths, labels = zip(*opened._samples, strict=True)
    else:
        paths, labels = (opened._images if hasattr(opened, "_images") else opened._image_files), opened._labels
    return readable([Path(path) for path in paths], [int(label) for label in labels], request)


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
        first, second = split_off(train, [VAL_SHARE])
        return first, second
    count = round(VAL_SHARE * len(train))
    rest, val = stratified(train.labels.numpy(), [len(train) - count, count])
    return train.select(rest), train.select(val)


def _class_names(opened: Any) -> list[str]:
    """Names as torchvision gives them: Imagenette has several for a class."""
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in getattr(opened, "classes", ())]
