"""What of the paper's numbers comes from how it measured: its trials taken apart, one choice at a time.

arXiv 2404.17245 trained a grid of learning rates with one seed each, and took checkpoint and rate by accuracy on the
test data that it reports. Trials that were read at every checkpoint on test and on validation data
(``--study paper_audit``) can be chosen from again in other ways. Each stage below makes one more choice as
``protocol: clean`` does; the stages are paired by seeds and images, and the differences between neighbours add up to
that between first and last.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.readings import HEAD, Reading
from bench.records import Record
from bench.reporting.outcomes import Answered, Outcome, difference, different_images, of_seeds
from bench.reporting.rows import METHOD_ORDER
from bench.reporting.statistics import Estimate
from bench.spec import TrainConfig, readable, row_label

STAGES = ("paper", "checkpoint", "rate", "last", "preprocess", "search")
"""As the paper; then with the checkpoint by validation data; the rate too; the last checkpoint; the backbone's own
preprocessing; and with what a search chose. The difference of two neighbours is named after the later one."""

CHOSEN_ON_TEST = ("checkpoint", "rate")
"""What these add is optimism: the same trials, chosen from on other data."""

TARGET = "target_accuracy"
RATE, PREPROCESS = "lr", "preprocess"

NEEDED = (
    "python launch.py --study paper_audit",
    "python launch.py --study paper",
    "python launch.py --study paper_audit --set train.preprocess=backbone --results results/own-preprocessing",
)
"""The launches of an audit, each on the same benchmark: without the first there is none."""


@dataclass(frozen=True)
class Checkpoint:
    """A trial after so many steps, read on test and on validation data."""

    record: Record
    step: int
    test: Reading
    val: Reading

    @property
    def rate(self) -> float:
        """The learning rate of the trial."""
        return _rate(self.record)

    @property
    def last(self) -> bool:
        """Whether the training ended here."""
        return self.step == self.record.steps


Grid = Mapping[int, Sequence[Checkpoint]]
"""Every rate's checkpoints, by seed; rates ascend, and within a rate the steps."""

Choose = Callable[[Sequence[Checkpoint]], Checkpoint]

Key = tuple[str, tuple[tuple[str, Any], ...]]
"""A row of the paper: method and row values, without what is audited."""


def by_test(found: Sequence[Checkpoint]) -> Checkpoint:
    """Checkpoint and rate by test data, as the paper; of equals the first."""
    return max(found, key=lambda one: one.test.numbers["top1"])


def by_validation(found: Sequence[Checkpoint]) -> Checkpoint:
    """Checkpoint and rate by validation data; of equals the first."""
    return max(found, key=lambda one: one.val.numbers["top1"])


def checkpoint_by_validation(found: Sequence[Checkpoint]) -> Checkpoint:
    """The paper's rate, and of its checkpoints the best by validation data."""
    rate = by_test(found).rate
    return by_validation([one for one in found if one.rate == rate])


def last_by_validation(found: Sequence[Checkpoint]) -> Checkpoint:
    """The last checkpoint of every rate, and of these the best by validation data."""
    return by_validation([one for one in found if one.last])


@dataclass(frozen=True)
class Part:
    """What one choice of the paper adds to a row's target accuracy, see :data:`STAGES`."""

    name: str
    added: Estimate


@dataclass(frozen=True)
class Audited:
    """A row of the paper, stage by stage. ``stages`` lacks those whose launch was not given."""

    label: str
    stages: Mapping[str, Outcome]
    reported: Outcome
    """Of the models that the paper would report, with what their features keep of the source."""
    ours: Outcome | None
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The rates that were chosen, by stage, in the order of the seeds; those of ``search`` as far as they differ; and
    as ``grid`` all that there were."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the grid."""
        return self.stages["paper"].seeds

    @property
    def of_seeds(self) -> Sequence[float]:
        """What the paper would have reported with each of the seeds, in percent."""
        return [100 * float(share) for share in self.stages["paper"].answers["target"].shares]

    @property
    def luck(self) -> float:
        """What the first seed's number lies above the mean over the seeds, in points."""
        return self.of_seeds[0] - statistics.fmean(self.of_seeds)

    @property
    def parts(self) -> list[Part]:
        """The differences of neighbouring stages."""
        there = [name for name in STAGES if name in self.stages]
        return [
            Part(later, difference(self.stages[one], self.stages[later], TARGET))
            for one, later in itertools.pairwise(there)
        ]

    @property
    def at_an_end(self) -> bool:
        """Whether test data chose the grid's lowest or its highest rate with every seed: better ones may lie beyond."""
        ends = min(self.rates["grid"]), max(self.rates["grid"])
        return set(self.rates["paper"]) in ({ends[0]}, {ends[1]})

    @property
    def optimism(self) -> Estimate:
        """What choosing on test data adds, checkpoint and rate together."""
        return difference(self.stages["paper"], self.stages[CHOSEN_ON_TEST[-1]], TARGET)

    def total(self, quantity: str) -> Estimate | None:
        """The paper's way minus ours, over all seeds; None without a search."""
        return None if self.ours is None else difference(self.reported, self.ours, quantity)


@dataclass(frozen=True)
class Audit:
    """The rows of an audit, and all of them as one: a mean over rows, None where their seeds or images differ."""

    benchmark: Mapping[str, Any]
    """As the records' ``config`` has it."""
    rows: tuple[Audited, ...]
    mean: Audited | None
    lacking: tuple[str, ...]
    """The stages that no row has."""
    left_out: tuple[str, ...] = ()
    """Why rows of the grid were left out, one clause each."""
    unread: tuple[str, ...] = ()
    """Rows of the search that were not audited."""


def audit(records: Sequence[Record]) -> Audit:
    """Take the confirmations of some launches apart, row by row.

    Args:
        records: of ``--study paper_audit``; and, as far as they are there, of the same with
            ``train.preprocess=backbone``, and of a search under ``protocol: clean``.

    Raises:
        ValueError: they are of several benchmarks or of different images, a trial is there twice, or no row has a grid
            of two rates and two seeds or more, all of which were read on test and on validation data.
    """
    confirmed = [record for record in records if record.phase == "confirm"]
    if len(names := sorted({record.benchmark for record in confirmed})) > 1:
        raise ValueError(f"an audit is of one benchmark, and these records are of {', '.join(names)}")
    grids, faults = _grids(confirmed)
    searched, asked = _searched(confirmed), {_key(record) for record in confirmed if record.protocol == "paper"}
    papers = {key: grid for (key, own), grid in grids.items() if not own}
    if not papers:
        why = faults[0] if faults else "no record is a confirmation under protocol paper"
        raise ValueError(f"{why}: run {NEEDED[0]} on this benchmark")
    rows = tuple(_audited(key, grid, grids.get((key, True)), searched.get(key)) for key, grid in papers.items())
    return Audit(
        benchmark=confirmed[0].config.get("benchmark", {}),
        rows=rows,
        mean=_mean(rows),
        lacking=tuple(name for name in STAGES if all(name not in row.stages for row in rows)),
        left_out=tuple(faults),
        unread=tuple(_label(key) for key in searched if key not in asked),
    )


def _key(record: Record) -> Key:
    """The row that a record belongs to; what has its default value is as if it had not been said."""
    usual = {name: about.default for name, about in TrainConfig.model_fields.items()}
    kept = {
        name: value
        for name, value in record.row.items()
        if name not in (RATE, PREPROCESS) and (name not in usual or usual[name] != value)
    }
    return record.method, tuple(sorted(kept.items()))


def _label(key: Key) -> str:
    return row_label(key[0], dict(key[1]))


def _order(key: Key) -> tuple[Any, ...]:
    """Methods as the paper has them, and their rows by value."""
    known = METHOD_ORDER.index(key[0]) if key[0] in METHOD_ORDER else len(METHOD_ORDER)
    return known, key[0], [(isinstance(value, str), value) for _, value in key[1]]


Trials = Mapping[int, Mapping[float, Record]]
"""The records of a row's grid, by seed and rate."""


def _grids(confirmed: Sequence[Record]) -> tuple[dict[tuple[Key, bool], Grid], list[str]]:
    """What was trained under the paper's protocol, by row and whether the preprocessing was the backbone's own.

    Returns:
        The grids, and what is missing in those that are not complete.
    """
    groups: defaultdict[tuple[Key, bool], list[Record]] = defaultdict(list)
    for record in confirmed:
        if record.protocol == "paper":
            own = record.config.get("train", {}).get(PREPROCESS) == "backbone"
            groups[_key(record), own].append(record)
    found: dict[tuple[Key, bool], Grid] = {}
    faults: list[str] = []
    for key, own in sorted(groups, key=lambda group: (_order(group[0]), group[1])):
        label = _label(key) + (" with the backbone's own preprocessing" if own else "")
        trials = _trials(label, groups[key, own])
        if fault := _fault(trials):
            faults.append(f"{label} {fault}")
        else:
            found[key, own] = {seed: _checkpoints(list(of_seed.values())) for seed, of_seed in trials.items()}
    return found, faults


def _trials(label: str, records: Sequence[Record]) -> Trials:
    """A row's records by seed and rate, both ascending."""
    trials: defaultdict[int, dict[float, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (record.seed, _rate(record))):
        rate = _rate(record)
        if rate in trials[record.seed]:
            raise ValueError(f"{label}: {RATE} = {rate} and seed {record.seed} are there twice: a trial counts once")
        trials[record.seed][rate] = record
    return trials


def _rate(record: Record) -> float:
    """The learning rate of a trial: the study's choice, or else its recipe's."""
    rate = record.hyperparameters.get(RATE, record.config.get("train", {}).get(RATE))
    if not isinstance(rate, int | float):
        raise ValueError(f"{record.trial} does not say with which learning rate it was trained")
    return rate


def _fault(trials: Trials) -> str | None:
    """Why a row's grid cannot be audited, in words that go on from its name; None if it can."""
    rates = sorted({rate for own in trials.values() for rate in own})
    if len(rates) < 2 or len(trials) < 2:
        return f"has {_count(len(rates), 'learning rate')} and {_count(len(trials), 'seed')}, and needs two of either"
    for seed, own in trials.items():
        if lost := [rate for rate in rates if rate not in own]:
            return f"has no record of {RATE} = {readable(lost[0])} with seed {seed}"
        if all(record.status != "ok" for record in own.values()):
            return f"has no learning rate that succeeded with seed {seed}"
        for record in own.values():
            if record.status == "ok" and (step := _unread(record)) is not None:
                return f"was not read on both test and validation data ({record.trial}, step {step})"
    return None


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _read(record: Record) -> dict[tuple[int, str], Reading]:
    """Readings of the trained head, by step and split."""
    return {
        (one.step, one.split): one
        for one in record.readings
        if (one.domain, one.probe, one.variant) == ("target", HEAD, None)
    }


def _unread(record: Record) -> int | None:
    """The first step that was read on one of the splits alone, or the last if nothing was read then; None if there is
    none."""
    read = _read(record)
    steps = sorted({step for step, _ in read} | {record.steps})
    return next((step for step in steps if {(step, "test"), (step, "val")} - read.keys()), None)


def _checkpoints(trials: Sequence[Record]) -> list[Checkpoint]:
    """What the trials of a seed were after their readings; nothing of one that failed, which nobody would choose."""
    found = []
    for record in trials:
        if record.status == "ok":
            read = _read(record)
            steps = sorted({step for step, _ in read})
            found += [Checkpoint(record, step, read[step, "test"], read[step, "val"]) for step in steps]
    return found


def _searched(confirmed: Sequence[Record]) -> dict[Key, list[Record]]:
    """What a search chose under the clean protocol, by row."""
    groups: defaultdict[Key, list[Record]] = defaultdict(list)
    for record in confirmed:
        if record.protocol == "clean" and record.config.get("train", {}).get(PREPROCESS) != "paper":
            groups[_key(record)].append(record)
    for key, own in groups.items():
        if len({record.family for record in own}) > 1:
            raise ValueError(
                f"{_label(key)} was confirmed in several ways under protocol clean: give one launch of them"
            )
    return {key: groups[key] for key in sorted(groups, key=_order)}


def _audited(key: Key, grid: Grid, own: Grid | None, searched: Sequence[Record] | None) -> Audited:
    label = _label(key)
    ours = Outcome.of([record for record in searched if record.status == "ok"]) if searched else None
    seeds = _common(label, grid, own, ours)
    picks: dict[str, list[Checkpoint]] = {}
    ways: Mapping[str, Choose] = {
        "paper": by_test,
        "checkpoint": checkpoint_by_validation,
        "rate": by_validation,
        "last": last_by_validation,
    }
    for name, choose in ways.items():
        picks[name] = [choose(grid[seed]) for seed in seeds]
    if own is not None:
        picks["preprocess"] = [last_by_validation(own[seed]) for seed in seeds]
    stages = {name: _outcome(seeds, chosen) for name, chosen in picks.items()}
    reported = Outcome.of([one.record for one in picks["paper"]])
    assert reported is not None  # all of them succeeded
    if ours is not None:
        shared = [seed for seed in ours.seeds if seed in seeds]
        ours = of_seeds(ours, shared) if len(shared) > 1 else ours
        stages["search"] = Outcome(ours.seeds, {"target": ours.answers["target"]})
    _check_images(label, stages)
    rates: dict[str, Sequence[float]] = {name: [one.rate for one in chosen] for name, chosen in picks.items()}
    rates["grid"] = sorted({one.rate for of_seed in grid.values() for one in of_seed})
    if searched:
        rates["search"] = list(dict.fromkeys(_rate(record) for record in searched))
    return Audited(label, stages, reported, ours, rates)


def _common(label: str, grid: Grid, own: Grid | None, ours: Outcome | None) -> tuple[int, ...]:
    """The seeds that the grids share, and those that the search shares with them, if these are two or more."""
    seeds = [seed for seed in grid if own is None or seed in own]
    if len(seeds) < 2:
        raise ValueError(
            f"{label}: the launches with either preprocessing share fewer than two seeds: run both with equal ones"
        )
    shared = [seed for seed in seeds if ours is not None and seed in ours.seeds]
    return tuple(shared if len(shared) > 1 else seeds)


def _outcome(seeds: tuple[int, ...], chosen: Sequence[Checkpoint]) -> Outcome:
    """What the chosen checkpoints answered of the target's test images."""
    return Outcome(seeds, {"target": Answered.of([one.test for one in chosen])})


def _check_images(label: str, stages: Mapping[str, Outcome]) -> None:
    for name, outcome in stages.items():
        if different_images(stages["paper"], outcome, TARGET) is not None:
            raise ValueError(
                f"{label}: the launch for {name!r} was measured on other test images than the paper's grid"
            )


def _mean(rows: Sequence[Audited]) -> Audited | None:
    """The mean over the rows that have the stages that most rows have: a search, if one was given at all."""
    needed = [name for name in STAGES if name != "preprocess" and any(name in row.stages for row in rows)]
    whole = [row for row in rows if all(name in row.stages for name in needed)]
    if len(whole) < 2:
        return None
    if all("preprocess" in row.stages for row in whole):
        needed = [name for name in STAGES if name in needed or name == "preprocess"]
    stages = {name: _averaged([row.stages[name] for row in whole]) for name in needed}
    reported = _averaged([row.reported for row in whole])
    found = [row.ours for row in whole if row.ours is not None]
    ours = _averaged(found) if found else None
    if reported is None or any(stage is None for stage in stages.values()) or (found and ours is None):
        return None
    return Audited(
        f"mean of {len(whole)} rows", {name: stage for name, stage in stages.items() if stage}, reported, ours
    )


def _averaged(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The mean over rows, seed by seed and image by image; None if they have not the same seeds and images."""
    first = outcomes[0]
    if any(one.seeds != first.seeds or one.answers.keys() != first.answers.keys() for one in outcomes):
        return None
    answers = {}
    for name, own in first.answers.items():
        each = [one.answers[name] for one in outcomes]
        if len({(one.images, one.n) for one in each}) > 1:
            return None
        known = [one.right for one in each if one.right is not None]
        right = np.stack(known).mean(axis=0) if len(known) == len(each) else None
        answers[name] = Answered(np.mean([one.shares for one in each], axis=0), own.n, own.images, right)
    return Outcome(first.seeds, answers)


def unsteady_pairs(rows: Sequence[Audited]) -> tuple[int, int]:
    """Of how many pairs of rows the paper's numbers have another order with another seed, and of how many in all."""
    pairs = [
        (one.of_seeds, other.of_seeds) for one, other in itertools.combinations(rows, 2) if one.seeds == other.seeds
    ]
    signs = [{np.sign(round(a - b, 6)) for a, b in zip(*pair, strict=True)} for pair in pairs]
    return sum(len(found) > 1 for found in signs), len(pairs)
