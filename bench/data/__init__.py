"""Data sets by name, each with disjoint splits: the folder is the registry.

A data set is one file that defines ``target() -> Target`` (it can be fine-tuned on), ``source() -> Source`` (its
retention can be measured), or both. What is built stays in the process, so that the trials of a warm worker share it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.spec import SpecError, unknown

if TYPE_CHECKING:
    from torch import Tensor


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


@dataclass(frozen=True)
class Target:
    """What a backbone is fine-tuned on. The three splits share no image; only ``train`` is trained on."""

    train: Images
    val: Images
    test: Images
    num_classes: int


@dataclass(frozen=True)
class Source:
    """What a backbone was pre-trained on: the k-NN ``bank``, and queries for the search and for the confirmation."""

    bank: Images
    val: Images
    test: Images


def names() -> list[str]:
    """Names of all data sets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def check(name: str, role: Literal["source", "target"]) -> None:
    """Refuse a data set that does not exist or cannot play that role.

    Raises:
        SpecError: saying which can.
    """
    if name not in names():
        raise unknown(f"{role} data set", name, names())
    _builder(name, role)


def _builder(name: str, role: Literal["source", "target"]) -> Any:
    build = getattr(importlib.import_module(f"{__name__}.{name}"), role, None)
    if build is None:
        able = [n for n in names() if hasattr(importlib.import_module(f"{__name__}.{n}"), role)]
        raise SpecError(f"data set {name!r} cannot be a {role} (these can: {', '.join(able)})")
    return build


@functools.cache
def source(name: str) -> Source:
    """The source domain ``name``, built once a process; SpecError if there is none."""
    check(name, "source")
    found: Source = _builder(name, "source")()
    return found


@functools.cache
def target(name: str) -> Target:
    """The target data set ``name``, built once a process; SpecError if there is none."""
    check(name, "target")
    found: Target = _builder(name, "target")()
    return found
