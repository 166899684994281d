"""Records like those of a real `--study paper` on the benchmark tiny, for the tests that read or show them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.readings import HEAD, KNN, Answers, Reading, knn_numbers
from bench.records import Record
from bench.reporting import mlflow_tracker
from bench.reporting.mlflow_store import default_uri
from bench.reporting.mlflow_tracker import open_tracker
from bench.reporting.rows import Leaderboard, build
from bench.spec import SearchContext

BEFORE = 90.7
"""Source accuracy of the untouched backbone."""

SEARCH = SearchContext(objective="mean", trials=12, lag=8, seed=0)

Split = Literal["val", "test"]
IMAGES: Mapping[Split, int] = {"val": 300, "test": 500}
"""Of the target; the source has 1000 queries in either split."""


def _target(accuracy: float, step: int, split: Split, variant: str | None = None) -> Reading:
    return Reading(
        step=step,
        split=split,
        domain="target",
        probe=HEAD,
        variant=variant,
        n=IMAGES[split],
        numbers={"top1": accuracy, "top5": max(accuracy, 99.8)},
    )


def _source(accuracy: float, step: int, split: Split, variant: str | None = None) -> Reading:
    top5 = max(accuracy, 99.4)
    return Reading(
        step=step,
        split=split,
        domain="source",
        probe=KNN,
        variant=variant,
        n=1000,
        settings={"bank": 4000, "k": 20},
        numbers=knn_numbers({10: (max(0.0, accuracy - 0.2), top5), 20: (accuracy, top5)}),
    )


def _readings(
    fields: Mapping[str, Any],
    target: float | None,
    source: float | None,
    before: float | None,
    variants: Mapping[str, tuple[float, float]],
) -> Iterator[Reading]:
    """What a trial reads at its end: on the splits of its phase and protocol, of the model that it keeps."""
    split: Split = "val" if fields["phase"] == "search" else "test"
    of_target: Split = "test" if fields["protocol"] == "paper" else split
    step = fields["details"].get("kept_step", fields["steps"])
    if before is not None:
        yield _source(before, 0, split)
    if target is not None:
        yield _target(target, step, of_target)
    if source is not None:
        yield _source(source, step, split)
    for name, (learned, kept) in variants.items():
        yield from (_target(learned, step, of_target, name), _source(kept, step, split, name))


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

    def fields(self, seed: int, study: str, benchmark: str) -> dict[str, Any]:
        """A confirmation's record without its readings."""
        place = "-".join(["confirm", *(f"{name}{value}" for name, value in self.row.items()), f"seed{seed}"])
        return {
            "trial": f"{self.method}-{place}",
            "study": study,
            "benchmark": benchmark,
            "method": self.method,
            "hyperparameters": {**self.row, **self.chosen, "lr": self.lr},
            "row": self.row,
            "seed": seed,
            "phase": "confirm",
            "status": "ok",
            "protocol": "clean",
            "search": SEARCH,
            "trainable_parameters": self.parameters,
            "steps": 150,
            "train_seconds": 14.8 + seed,
            "eval_seconds": 2.7,
            "images_per_second": 647.5,
            "details": {"precision": "fp32"},
            "config": {"id": f"{self.method}-{place}", "seed": seed},
            "provenance": {"time": f"2025-01-01T00:00:0{seed}+00:00", "versions": {"python": "3.11.9"}, "workers": 1},
        }

    def record(self, seed: int, shift: float, before: float, study: str, benchmark: str) -> Record:
        """A confirmation's record; ``shift``: how many deviations this seed lies from the mean."""
        fields = self.fields(seed, study, benchmark)
        target = self.target[0] + shift * self.target[1]
        source = self.source[0] - shift * self.source[1]
        return Record(**fields, readings=tuple(_readings(fields, target, source, before, {})))


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
"""As in a real run of this project; in the order of the leaderboard."""


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
def record() -> Callable[..., Record]:
    """A factory of one valid record: full fine-tuning, seed 0, confirmed.

    ``record(target=95.2, source=80.7, before=90.7, variants={"half": (90.0, 85.0)}, **changes)``: the accuracies become
    readings, on the split of the record's phase and protocol, at its last or kept step; None leaves one out. Any field
    can be changed, ``readings`` too, which then are what is given.
    """
    plain = OUTCOMES[0].fields(seed=0, study="paper", benchmark="tiny")

    def make(
        *,
        target: float | None = 95.2,
        source: float | None = 80.7,
        before: float | None = BEFORE,
        variants: Mapping[str, tuple[float, float]] | None = None,
        **changes: Any,
    ) -> Record:
        fields = {**plain, **changes}
        asked = {"id": "trial", "method": "method", "seed": "seed", "phase": "phase"}
        if "config" not in changes:
            fields["config"] = {**plain["config"], **{name: fields[own] for name, own in asked.items()}}
        if "readings" not in changes:
            fields["readings"] = tuple(_readings(fields, target, source, before, variants or {}))
        return Record.model_validate(fields)

    return make


def _of_answers(right: NDArray[np.bool_], images: str, **key: Any) -> Reading:
    numbers = {"top1": 100 * float(right.mean())}
    return Reading(split="test", n=len(right), numbers=numbers, answers=Answers.of(images, right), **key)


@pytest.fixture(scope="session")
def answered(record: Callable[..., Record]) -> Callable[..., Record]:
    """A factory of a confirmation that says which images were right.

    ``answered(target, source, before, images="digits", **changes)``: bool ``[n]`` each; two rows with the same
    ``images`` have answered the same ones.
    """

    def make(
        target: NDArray[np.bool_],
        source: NDArray[np.bool_],
        before: NDArray[np.bool_],
        *,
        images: str = "digits",
        **changes: Any,
    ) -> Record:
        readings = (
            _of_answers(before, f"{images}' source", step=0, domain="source", probe=KNN),
            _of_answers(target, images, step=150, domain="target", probe=HEAD),
            _of_answers(source, f"{images}' source", step=150, domain="source", probe=KNN),
        )
        return record(readings=readings, **changes)

    return make


@pytest.fixture(scope="session")
def launch_of(answered: Callable[..., Record]) -> Callable[..., list[Record]]:
    """A factory of a launch: ``launch_of({"lora": (0.93, 0.85)}, seeds=(0, 1, 2), n=400, images="digits")``.

    A row of each method with such accuracies; all find the same images hard, and a source accuracy of None is the
    untouched backbone's, query by query.
    """

    def make(
        rows: Mapping[str, tuple[float, float | None]],
        *,
        seeds: Sequence[int] = (0, 1, 2),
        n: int = 400,
        images: str = "digits",
        **changes: Any,
    ) -> list[Record]:
        rng = np.random.default_rng(0)
        hard = {domain: rng.random(n) for domain in ("target", "source")}
        before = hard["source"] < 0.95

        def right(domain: str, accuracy: float) -> NDArray[np.bool_]:
            return (hard[domain] + rng.normal(0, 0.05, n) < accuracy).astype(np.bool_)

        return [
            answered(
                right("target", target),
                before if source is None else right("source", source),
                before,
                images=images,
                trial=f"{method}-confirm-seed{seed}",
                method=method,
                seed=seed,
                **changes,
            )
            for method, (target, source) in rows.items()
            for seed in seeds
        ]

    return make


@pytest.fixture(scope="session")
def seen() -> Callable[..., Record]:
    """What turns a record into one that says what it was measured on, and by which code:
    ``seen(record, images="a", source="folder:/data/scribbles/")``; another text, other images."""

    def make(plain: Record, *, images: str = "a", source: str = "folder:/data/scribbles/") -> Record:
        split = "val" if plain.phase == "search" else "test"
        counts = {"target_train": 900, f"target_{split}": IMAGES[split], "source_bank": 4000, "source_queries": 1000}
        identity = {name: f"{images} {name}" for name in counts}
        benchmark = {
            **{"name": plain.benchmark, "backbone": {"name": "tiny"}},
            **{"source": {"name": source}, "target": {"name": "digits"}},
        }
        train = {"lr": plain.hyperparameters["lr"], "weight_decay": 0.05, "steps": 150}
        return plain.model_copy(
            update={
                "config": {**plain.config, "benchmark": benchmark, "train": train},
                "provenance": {**plain.provenance, "commit": "c0ffee" * 6 + "beef", "dirty": False},
                "details": {**plain.details, "images": {**counts, "identity": identity}},
            }
        )

    return make


@pytest.fixture(scope="session")
def searched(record: Callable[..., Record]) -> Callable[..., Record]:
    """A factory of a search trial's record, measured on validation data; its arguments are those of ``record``."""

    def make(**changes: Any) -> Record:
        return record(**{"trial": "full-search-00", "phase": "search", **changes})

    return make


@pytest.fixture(scope="session")
def failed() -> Callable[..., Record]:
    """A factory that turns a record into the record of the same trial, had it failed: ``failed(good, error="...")``."""

    def make(good: Record, error: str = "FloatingPointError: the loss is NaN at step 7") -> Record:
        blank = {"readings": (), "trainable_parameters": None, "images_per_second": None}
        return Record(**{**dict(good), **blank, "status": "failed", "error": error, "steps": 7})

    return make


@pytest.fixture(scope="session")
def board(paper_records: Callable[..., list[Record]]) -> Leaderboard:
    """The leaderboard of all ten rows, three seeds each."""
    return build(paper_records())


@pytest.fixture(scope="session")
def mixed(paper_records: Callable[..., list[Record]], failed: Callable[..., Record]) -> Leaderboard:
    """The same, but one seed of lora rank 8 failed, and all seeds of block_expansion p=4."""

    def lost(record: Record) -> bool:
        return record.row == {"p": 4} or (record.row == {"rank": 8} and record.seed == 1)

    return build([failed(record) if lost(record) else record for record in paper_records()])


@dataclass(frozen=True)
class First:
    """A results folder whose launch made its own store, under the experiment ``first``, and what its tracker said."""

    results: Path
    opened_after: float
    problem: str | None


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """The only store that MLflow makes itself, which takes it several seconds: every test gets a copy of it."""
    results = tmp_path_factory.mktemp("first")
    began = time.monotonic()
    tracker = open_tracker(default_uri(results), experiment="first", run_name="first", parameters={}, tags={})
    opened_after = time.monotonic() - began
    with pytest.MonkeyPatch.context() as busy:
        busy.setattr(mlflow_tracker, "PATIENCE_SECONDS", 120.0)
        tracker.close()
    return First(results, opened_after, tracker.problem)
