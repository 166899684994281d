"""Records like those of a real `--study paper` on the benchmark tiny, for the tests that read or show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.records import Record

BEFORE = 90.7
"""Source accuracy of the untouched backbone."""


@dataclass(frozen=True)
class Outcome:
    """One leaderboard row: what was chosen, and mean and deviation of both accuracies over the seeds."""

    method: str
    lr: float
    parameters: int
    target: tuple[float, float]
    source: tuple[float, float]
    row: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)

    def record(self, seed: int, shift: float, before: float, study: str, benchmark: str) -> Record:
        target = self.target[0] + shift * self.target[1]
        source = self.source[0] - shift * self.source[1]
        place = "-".join(["confirm", *(f"{name}{value}" for name, value in self.row.items()), f"seed{seed}"])
        return Record(
            trial=f"{self.method}-{place}",
            study=study,
            benchmark=benchmark,
            method=self.method,
            hyperparameters={**self.row, **self.chosen, "lr": self.lr},
            row=self.row,
            seed=seed,
            phase="confirm",
            status="ok",
            target_accuracy=target,
            source_accuracy=source,
            source_accuracy_before=before,
            forgetting=before - source,
            mean=(target + source) / 2,
            trainable_parameters=self.parameters,
            steps=150,
            train_seconds=14.8 + seed,
            eval_seconds=2.7,
            images_per_second=647.5,
            details={"target_top5": 99.8, "knn": {"20": {"top1": source, "top5": 99.4}}},
            config={"id": f"{self.method}-{place}", "seed": seed},
            provenance={"time": f"2025-01-01T00:00:0{seed}+00:00", "versions": {"python": "3.11.9"}, "workers": 1},
        )


OUTCOMES = (
    Outcome("full", 0.031415926535, 614_090, (95.5, 0.3), (79.6, 1.1)),
    Outcome("top_k", 0.0511, 150_602, (91.0, 0.4), (89.6, 0.2), chosen={"k": 3}),
    Outcome("linear", 0.23, 650, (84.1, 0.9), (90.7, 0.0)),
    Outcome("lora", 0.081, 12_938, (91.9, 0.5), (89.2, 0.3), {"rank": 4}),
    Outcome("lora", 0.079, 25_226, (92.8, 0.4), (88.9, 0.4), {"rank": 8}),
    Outcome("lora", 0.064, 49_802, (93.1, 0.3), (88.2, 0.5), {"rank": 16}),
    Outcome("block_expansion", 0.11, 50_634, (83.8, 1.2), (91.0, 0.2), {"p": 1}),
    Outcome("block_expansion", 0.1, 100_618, (88.5, 0.8), (90.8, 0.1), {"p": 2}),
    Outcome("block_expansion", 0.094, 150_602, (91.0, 0.5), (89.3, 0.3), {"p": 3}),
    Outcome("block_expansion", 0.12, 200_586, (93.8, 0.4), (89.4, 0.4), {"p": 4}),
)
"""As in the laboratory run of the issue; in the order of the leaderboard."""


def _shifts(count: int) -> Iterator[float]:
    """Deviations of the seeds from the mean, in standard deviations; exact for three seeds."""
    return iter([0.0] if count == 1 else [2 * index / (count - 1) - 1 for index in range(count)])


@pytest.fixture(scope="session")
def paper_records() -> Callable[..., list[Record]]:
    """A factory of the ten rows' confirmations: ``paper_records(seeds=(0, 1, 2), methods=None, before=90.7, ...)``."""

    def make(
        *,
        seeds: Sequence[int] = (0, 1, 2),
        methods: Sequence[str] | None = None,
        before: float = BEFORE,
        study: str = "paper",
        benchmark: str = "tiny",
    ) -> list[Record]:
        return [
            outcome.record(seed, shift, before, study, benchmark)
            for outcome in OUTCOMES
            if methods is None or outcome.method in methods
            for seed, shift in zip(seeds, _shifts(len(seeds)), strict=True)
        ]

    return make


@pytest.fixture(scope="session")
def record(paper_records: Callable[..., list[Record]]) -> Callable[..., Record]:
    """A factory of one valid record (full fine-tuning, seed 0, confirmed); any field can be replaced, or dropped."""
    plain = paper_records(methods=["full"])[0].model_dump()

    def make(**changes: Any) -> Record:
        return Record.model_validate({**plain, **changes})

    return make


@pytest.fixture(scope="session")
def failed(record: Callable[..., Record]) -> Callable[..., Record]:
    """A factory that turns a record into the record of the same trial, had it failed."""
    scores = ("target_accuracy", "source_accuracy", "source_accuracy_before", "forgetting", "mean")

    def make(good: Record, error: str = "FloatingPointError: the loss is NaN at step 7") -> Record:
        blank = dict.fromkeys([*scores, "trainable_parameters", "images_per_second"])
        return record(**{**good.model_dump(), **blank, "status": "failed", "error": error, "steps": 7})

    return make
