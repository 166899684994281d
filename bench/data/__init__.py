"""Data: sources and targets by name, each with disjoint splits.

A data set is one entry in ``SOURCES`` or ``TARGETS``: how to build it. What is built stays in the process, so that the
trials of a warm worker share it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.spec import unknown


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


def _shapes() -> Source:
    from bench.data import shapes

    def load(split: str) -> Images:
        images, labels = shapes.split(split)
        return Images(torch.from_numpy(images), torch.from_numpy(labels))

    return Source(bank=load("bank"), val=load("val"), test=load("test"))


def _digits() -> Target:
    from bench.data.digits import load

    return load()


SOURCES: Mapping[str, Callable[[], Source]] = {"shapes": _shapes}
TARGETS: Mapping[str, Callable[[], Target]] = {"digits": _digits}


@functools.cache
def source(name: str) -> Source:
    """The source domain ``name``, built once a process.

    Raises:
        SpecError: there is no such source.
    """
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return SOURCES[name]()


@functools.cache
def target(name: str) -> Target:
    """The target data set ``name``, built once a process.

    Raises:
        SpecError: there is no such target.
    """
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    return TARGETS[name]()
