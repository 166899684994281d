"""The work of a whole suite in accelerator hours, by what its trials compute and the rates that are reached."""

from __future__ import annotations

import functools
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import models
from bench.launching import studies
from bench.spec import Backbone, Benchmark, Study, Trial, make_trial
from bench.training.prefix import SHARE
from tests.performance import flops

CLASSES, TRAIN, VAL, TEST = 100, 45_000, 5_000, 10_000
"""CIFAR-100 as it is split here (Krizhevsky 2009: 50,000 training images, of which a tenth is validation)."""

SOURCE_CLASSES, SOURCE_BANK, SOURCE_TEST = 1000, 1_281_167, 25_000
"""ImageNet-1k (Russakovsky et al. 2015); its 50,000 validation images are halved for search and confirmation."""

ORDERS = 500
"""In so many orders of the trials a pruned search is played."""

HALVING = 4
"""One in so many goes on at a rung of Ray's ASHA scheduler, by default."""


@dataclass(frozen=True)
class Rates:
    """Operations a second that are reached: in training by method (``""``: any other), and in measuring.

    ``pairs``: query-image pairs of the k-NN search a second. ``tf32``: in measuring with TF32, None if not known.
    """

    device: str
    memory: float
    training: Mapping[str, float]
    measuring: float
    pairs: float
    origin: str
    tf32: float | None = None

    def of(self, method: str) -> float:
        """In the training of a method.

        Raises:
            ValueError: it was not measured.
        """
        found = self.training.get(method, self.training.get(""))
        if found is None:
            raise ValueError(f"the measured file has no figure for {method}: run `make gpu` without --only")
        return found


@dataclass(frozen=True)
class How:
    """Ways to save.

    ``shared``: what frozen blocks make of images that are measured; ``views``: so many fixed views of an image to train
    on; ``readings``: a search trial is measured every so many steps, and pruned; ``tf32``: measured in TF32.
    """

    name: str
    shared: bool = False
    views: int | None = None
    readings: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the table: its trial, what that computes, and how many there are."""

    trial: Trial
    counts: flops.Counts
    searched: float
    confirmed: int

    @property
    def name(self) -> str:
        """As the leaderboard calls it."""
        return " ".join([self.trial.method, *(f"{name} = {value}" for name, value in self.trial.row.items())])


def rows(suite: str, benchmark: Benchmark) -> list[Row]:
    """All rows of a suite; the trials of a study are dealt out over its rows."""
    found = []
    for study in studies.load(suite).studies:
        for values in study.row_values:
            trial = _trial(study, benchmark, values)
            counts = flops.of(trial, classes=CLASSES)
            found.append(Row(trial, counts, study.trials / study.row_count, len(study.seeds)))
    return found


def _trial(study: Study, benchmark: Benchmark, row: Mapping[str, Any]) -> Trial:
    least = {name: space.corners[0] for name, space in study.search.items()}
    return make_trial(study, benchmark, {**least, **row}, launch="", label="cost", seed=0, phase="search")


@dataclass(frozen=True)
class Images:
    """Images of one measuring: the target's, and of the source the queries and the bank."""

    target: int
    queries: int
    bank: int


def search_images(benchmark: Benchmark) -> Images:
    """While searching."""
    per_class, queries = benchmark.source.size("search")
    assert per_class is not None and queries is not None
    return Images(VAL, queries * SOURCE_CLASSES, per_class * SOURCE_CLASSES)


def confirm_images(per_class: int | None) -> Images:
    """At the confirmation, with so many bank images a class, or all."""
    return Images(TEST, SOURCE_TEST, SOURCE_BANK if per_class is None else per_class * SOURCE_CLASSES)


class Costs:
    """Accelerator hours."""

    def __init__(self, rates: Rates, benchmark: Benchmark) -> None:
        self._rates, self._backbone = rates, benchmark.backbone

    def training(self, row: Row, how: How, steps: float) -> float:
        """Hours of so many steps of a trial."""
        return steps * row.trial.train.batch_size * self._step(row, how) / self._rates.of(row.trial.method) / 3600

    def _step(self, row: Row, how: How) -> int:
        """Operations of an image in a step."""
        return row.counts.step - (self._prefix(row) if self.views_fit(row, how) else 0)

    def views_once(self, row: Row, how: How) -> float:
        """Hours in which a slot computes what frozen blocks make of all views, which its trials of a row share."""
        if not self.views_fit(row, how) or how.views is None:
            return 0.0
        return how.views * TRAIN * self._prefix(row) / self._rates.of(row.trial.method) / 3600

    def views_fit(self, row: Row, how: How) -> bool:
        """Whether activations of all views, in bf16, fit into the share of the memory that they may take."""
        needed = 2 * self._numbers(row) * TRAIN * (how.views or 0)
        return bool(how.views and row.counts.frozen and needed <= SHARE * self._rates.memory)

    def measuring(self, row: Row, how: How, images: Images, times: float) -> float:
        """Hours of measuring a model so many times: features in fp32, and the k-NN search.

        A linear probe's features are the untouched backbone's, whose measuring is counted once, elsewhere.
        """
        parts = [images.target] if row.trial.method == "linear" else [images.target, images.queries, images.bank]
        left, operations = SHARE * self._rates.memory, 0.0
        for count in sorted(parts):
            once = 0
            if how.shared and row.counts.frozen and (needed := 4 * count * self._numbers(row)) <= left:
                left -= needed
                once = self._prefix(row)
            operations += count * (times * (row.counts.image - once) + once)
        pairs = 0 if row.trial.method == "linear" else times * images.queries * images.bank
        return (operations / self._measuring(how) + pairs / self._rates.pairs) / 3600

    def _measuring(self, how: How) -> float:
        if not how.tf32:
            return self._rates.measuring
        assert self._rates.tf32 is not None
        return self._rates.tf32

    def untouched(self, images: Images, how: How) -> float:
        """Hours of measuring the untouched backbone, once for all trials and launches."""
        operations = (images.queries + images.bank) * flops.of_features(self._backbone)
        return (operations / self._measuring(how) + images.queries * images.bank / self._rates.pairs) / 3600

    def _prefix(self, row: Row) -> int:
        return flops.of_features(self._backbone, row.counts.frozen)

    def _numbers(self, row: Row) -> int:
        """Numbers that stand for an image behind the frozen blocks: all tokens; behind all blocks the class token."""
        depth = models.depth(self._backbone)
        tokens, width = shape_of(self._backbone)
        return width if row.counts.frozen == depth else tokens * width

    def search(self, row: Row, how: How) -> float:
        """Hours of all search trials of a row."""
        steps, count = row.trial.train.steps, row.searched
        images = search_images(row.trial.benchmark)
        if how.readings is None:
            run, read = float(steps), 1.0
        else:
            run = pruned_steps(round(count), steps, how.readings)
            read = run / how.readings
        hours = count * self.training(row, how, run) + self.views_once(row, how)
        return hours + self.measuring(row, how, images, count * read)

    def confirm(self, row: Row, how: How, per_class: int | None) -> float:
        """Hours of a row's confirmations; they are measured once, and never pruned."""
        hours = row.confirmed * self.training(row, how, row.trial.train.steps)
        return hours + self.measuring(row, how, confirm_images(per_class), row.confirmed)


@functools.cache
def shape_of(backbone: Backbone) -> tuple[int, int]:
    """Tokens and width of a backbone's activations."""
    with models.shapes_only():
        vit: Any = models.plain(backbone, num_classes=0)
    return vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim


@functools.cache
def pruned_steps(trials: int, steps: int, every: int) -> float:
    """Mean steps of a row's trials under asynchronous halving (Li et al. 2020, arXiv 1810.05934), one after another.

    A trial stops at a rung if it is below the best quarter of those that were there before it. The trials come in
    random order, and one that is better at a rung is better at all.

    Args:
        trials: of the row.
        steps: of a whole trial.
        every: steps between readings; the first rung, and the others are at its fourfold.
    """
    rungs = [rung for power in range(30) if (rung := every * HALVING**power) < steps]
    draw, total = np.random.default_rng(0), 0.0
    for _ in range(ORDERS):
        seen: list[list[float]] = [[] for _ in rungs]
        for quality in draw.permutation(trials).tolist():
            total += _steps_of(quality, rungs, seen, steps)
    return total / ORDERS / trials


def _cut(others: Sequence[float]) -> float:
    """Where the best quarter of some sorted numbers begins, between two of them if need be."""
    place = (len(others) - 1) * (1 - 1 / HALVING)
    below = int(place)
    return others[below] + (place - below) * (others[min(below + 1, len(others) - 1)] - others[below])


def _steps_of(quality: float, rungs: Sequence[int], seen: list[list[float]], steps: int) -> int:
    for rung, others in zip(rungs, seen, strict=True):
        stops = bool(others) and quality < _cut(others)
        insort(others, quality)
        if stops:
            return rung
    return steps
