"""Data sets by name, each with disjoint splits: the folder is the registry.

A data set is one file that defines ``target() -> Target`` (it can be fine-tuned on), ``source() -> Source`` (its
retention can be measured), or both; they may take a :class:`Request`. A name may carry an argument after a colon, as in
``folder:/data/birds``. What is built stays in the process, so that the trials of a warm worker share it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench.spec import SpecError, unknown

if TYPE_CHECKING:
    from torch import Tensor


class Split(Protocol):
    """Labelled images, in memory or not."""

    @property
    def labels(self) -> Tensor:
        """int64 ``[n]``, from 0."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """The images at some indices (int64 ``[b]``): uint8 ``[b, 3, h, w]``, on the CPU."""


@dataclass(frozen=True)
class Request:
    """What a data set is to be built like."""

    argument: str | None
    """What stands behind the colon of its name."""
    size: int
    """Pixels a side that the backbone wants; only images that are decoded from files heed it."""
    per_class: int | None
    """Images of each class in a source's bank; all of them if None."""


@dataclass(frozen=True)
class Images:
    """Labelled images in memory: ``images`` uint8 ``[n, 3, h, w]``, ``labels`` int64 ``[n]`` from 0."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Tensor:
        """The images at some indices: uint8 ``[b, 3, h, w]``."""
        return self.images[indices]


@dataclass(frozen=True)
class Target:
    """What a backbone is fine-tuned on. The three splits share no image; only ``train`` is trained on."""

    train: Split
    val: Split
    test: Split
    num_classes: int


@dataclass(frozen=True)
class Source:
    """What a backbone was pre-trained on: the k-NN ``bank``, and queries for the search and for the confirmation."""

    bank: Split
    val: Split
    test: Split


def names() -> list[str]:
    """Names of all data sets."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return sorted([*files, *_torchvision_sets()])


def num_classes(name: str) -> int:
    """Classes of a target; for torchvision's data sets known without their files."""
    known = _torchvision_sets().get(name)
    return known.classes if known else target(name).num_classes


def fetch(name: str) -> None:
    """Download a data set if it is one of those that can be; SpecError if it cannot be had."""
    known = _torchvision_sets().get(name)
    if known is not None:
        known.fetch()


def _torchvision_sets() -> Any:
    from bench.data._torchvision import SETS

    return SETS


def check(name: str, role: Literal["source", "target"]) -> None:
    """Refuse a data set that does not exist, cannot play that role, or whose files are not there.

    Raises:
        SpecError: one sentence that says so.
    """
    kind, _, argument = name.partition(":")
    if kind not in names():
        raise unknown(f"{role} data set", kind, names())
    _builder(kind, role)
    reachable = getattr(_module(kind), "check", None)
    if reachable is not None:
        reachable(argument)
    elif argument:
        raise SpecError(f"data set {kind!r} takes no path, and {argument!r} was given")


def _module(kind: str) -> Any:
    """What offers ``source`` and ``target``: a file of this folder, or an entry of torchvision's."""
    found = _torchvision_sets().get(kind)
    if found is not None:
        return found
    return importlib.import_module(f"{__name__}.{kind}")


def _builder(kind: str, role: Literal["source", "target"]) -> Any:
    build = getattr(_module(kind), role, None)
    if build is None:
        able = [name for name in names() if hasattr(_module(name), role)]
        raise SpecError(f"data set {kind!r} cannot be a {role} (these can: {', '.join(able)})")
    return build


def _build(name: str, role: Literal["source", "target"], size: int, per_class: int | None) -> Any:
    check(name, role)
    kind, _, argument = name.partition(":")
    build = _builder(kind, role)
    if inspect.signature(build).parameters:
        return build(Request(argument or None, size, per_class))
    return build()


@functools.cache
def source(name: str, *, size: int = 224, per_class: int | None = None) -> Source:
    """A source domain, built once a process; SpecError if that cannot be done. For the arguments see Request."""
    found: Source = _build(name, "source", size, per_class)
    return found


@functools.cache
def target(name: str, *, size: int = 224) -> Target:
    """A target data set, built once a process; SpecError if that cannot be done. For the arguments see Request."""
    found: Target = _build(name, "target", size, None)
    return found
