"""Replay: a study's search, whose trials are answered from a recorded grid instead of being trained.

The proposals, their order, the lag and the pruning are the real ones (:class:`bench.cluster.search.InOrder` over
Optuna, :mod:`bench.cluster.pruning`); only the slots are simulated, in which a trial takes as long as it has optimizer
steps. Tune itself is left out: it takes seconds to start, and decides nothing here.
"""

from __future__ import annotations

import csv
import functools
import heapq
import itertools
import json
import math
from collections import defaultdict, deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from bench import records
from bench.cluster.pruning import Bar
from bench.cluster.search import InOrder, heard, last_result, nothing, pruner, searched
from bench.cluster.search_optuna import proposals
from bench.readings import HEAD, KNN, Reading
from bench.records import Record
from bench.spec import Benchmark, SpecError, Study, Trial, read_text, readable

COLUMNS = (
    "method",
    "values",
    "lr",
    "seed",
    "step",
    "steps",
    "target_accuracy",
    "source_accuracy",
    "source_accuracy_before",
)
"""A line of a grid is a reading of a trial: method, hyper-parameters but for the learning rate as JSON, and what
was read after a step of so many, in percent. ``source_accuracy_before`` is the untouched backbone's on the same images.
"""

LARGEST_FILE = 64 * 2**20

ALONG = "lr"
"""Between two recorded values of this hyper-parameter, curves are interpolated on a log scale; of all others a grid
knows exactly the values that it holds."""


BETWEEN = 20
"""The true front is looked for at so many places between two recorded values."""


class Read(NamedTuple):
    """What was read after a step, in percent."""

    target: float
    forgetting: float


@dataclass(frozen=True)
class Curve:
    """One recorded trial: its readings by step, the last of which is its end."""

    place: float
    before: float
    steps: int
    read: Mapping[int, Read]


@dataclass(frozen=True)
class Noise:
    """How much a measurement lies beside the truth: images of the target, queries of the source, and points a seed."""

    target: int
    source: int
    points: float


@dataclass(frozen=True)
class Grid:
    """Recorded trials, by method and values, and by seed."""

    curves: Mapping[tuple[str, str], Mapping[int, Sequence[Curve]]]

    @classmethod
    def read(cls, path: Path) -> Grid:
        """Read a CSV file with :data:`COLUMNS`.

        Raises:
            SpecError: it is none; the message names the line.
        """
        try:
            reader = csv.DictReader(read_text(path, most=LARGEST_FILE).splitlines())
            lines, columns = list(reader), reader.fieldnames or ()
        except (ValueError, csv.Error) as error:
            raise SpecError(f"--replay {path} cannot be read: {error}") from None
        if missing := [name for name in COLUMNS if name not in columns]:
            raise SpecError(
                f"--replay {path} is no recorded grid: it needs the columns {', '.join(COLUMNS)}, and lacks "
                f"{', '.join(missing)}"
            )
        if not lines:
            raise SpecError(f"--replay {path} has the columns of a grid, and no line below them: record some readings")
        found: defaultdict[tuple[str, str], defaultdict[tuple[int, float], list[_Line]]]
        found = defaultdict(lambda: defaultdict(list))
        for number, line in enumerate(lines, start=2):
            try:
                one = _Line.of(line)
            except (TypeError, ValueError) as error:
                raise SpecError(f"--replay {path}, line {number}: {error}") from None
            found[one.method, one.values][one.seed, one.place].append(one)
        return cls({key: _by_seed(trials, path) for key, trials in found.items()})

    def record(self, trial: Trial, *, seed: int = 0, index: int = 0, noise: Noise | None = None) -> Record:
        """The record of a trial at its end, as the grid knows it.

        Args:
            trial: whose steps are those of the grid.
            seed: of the search; the recorded seeds take turns in answering.
            index: of the trial, which has noise of its own.
            noise: what measurements lie beside the truth; None: not at all.

        Raises:
            SpecError: the grid does not hold such a trial.
        """
        curve = self._between(trial, seed)
        if curve.steps != trial.train.steps:
            raise SpecError(
                f"the grid was recorded with {curve.steps} steps: set train.steps={curve.steps} instead of "
                f"{trial.train.steps}"
            )
        draw = np.random.default_rng([seed, index])
        shift = draw.normal(0, noise.points, 2) if noise else np.zeros(2)
        readings = [_source(0, curve.before)]
        for step, one in sorted(curve.read.items()):
            target, source = one.target, min(100.0, max(0.0, curve.before - one.forgetting))
            if noise is not None:
                target = _measured(target + shift[0], noise.target, draw)
                source = _measured(source + shift[1], noise.source, draw)
            readings += [_target(step, target), _source(step, source)]
        return records.of(trial, status="ok", steps=curve.steps, readings=readings)

    def front(self, method: str, *, seed: int = 0) -> list[tuple[float, float]]:
        """Target and source accuracy at the end, in percent, all along the recorded curves of a method.

        Args:
            seed: of the search, as for :meth:`record`.
        """
        found = []
        for by_seed in (held for (of, _), held in self.curves.items() if of == method):
            for first, second in itertools.pairwise(_of_turn(by_seed, seed)):
                for share in range(BETWEEN + 1):
                    mixed = _mixed(first, second, share / BETWEEN)
                    last = mixed.read[mixed.steps]
                    found.append((last.target, mixed.before - last.forgetting))
        return found

    def check_read(self, trials: Sequence[Trial], step: int) -> None:
        """Refuse to compare trials after a step that some recorded curve among theirs was not read after.

        Args:
            trials: the corners of a space, whose learning rates a search may lie between.
        """
        groups: defaultdict[tuple[str, str], list[Trial]] = defaultdict(list)
        for trial in trials:
            groups[trial.method, _key(_beside_rate(trial))].append(trial)
        for key, group in groups.items():
            by_seed = self.curves[key]
            places = [math.log(trial.train.lr) for trial in group]
            for curve in _answering(by_seed[min(by_seed)], min(places), max(places)):
                _check_read(curve.read, step, key[0], math.exp(curve.place))

    def _between(self, trial: Trial, seed: int) -> Curve:
        """The curve at a trial's learning rate."""
        values = _beside_rate(trial)
        by_seed = self.curves.get((trial.method, _key(values)))
        if by_seed is None:
            held = [text for method, text in self.curves if method == trial.method]
            said = f"it holds {' and '.join(held)}" if held else "it holds none of this method"
            raise SpecError(f"the grid has no {trial.method} with {_key(values)} ({said}): search or fix what it holds")
        curves = _of_turn(by_seed, seed)
        place, low, high = math.log(trial.train.lr), curves[0].place, curves[-1].place
        if not low - 1e-9 <= place <= high + 1e-9:
            ends = f"{readable(math.exp(low), 3)} to {readable(math.exp(high), 3)}"
            raise SpecError(
                f"the grid of {trial.method} has learning rates from {ends}, not {readable(trial.train.lr, 3)}: set "
                f"search.lr.low and search.lr.high"
            )
        after = next((index for index, curve in enumerate(curves) if curve.place >= place), len(curves) - 1)
        first, second = curves[max(0, after - 1)], curves[after]
        width = second.place - first.place
        share = 0.0 if width == 0 else min(1.0, max(0.0, (place - first.place) / width))
        return _mixed(first, second, share)


class _Line(NamedTuple):
    method: str
    values: str
    place: float
    seed: int
    step: int
    steps: int
    before: float
    read: Read

    @classmethod
    def of(cls, line: Mapping[str, str]) -> _Line:
        values = json.loads(line["values"])
        if not isinstance(values, dict):
            raise ValueError("values is no JSON object")
        target, source, before = (
            float(line[name]) for name in ("target_accuracy", "source_accuracy", "source_accuracy_before")
        )
        rate = float(line["lr"])
        if not (all(0 <= number <= 100 for number in (target, source, before)) and 0 < rate < math.inf):
            raise ValueError("accuracies are from 0 to 100, and the learning rate is above 0")
        read = Read(target, before - source)
        step, steps, seed = (int(line[name]) for name in ("step", "steps", "seed"))
        if not 0 < step <= steps:
            raise ValueError(f"step {step} is not from 1 to {steps}")
        return cls(line["method"], _key(values), math.log(rate), seed, step, steps, before, read)


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)


def _beside_rate(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.hyperparameters.items() if name != ALONG}


def _of_turn(by_seed: Mapping[int, Sequence[Curve]], seed: int) -> Sequence[Curve]:
    """The curves that answer a search: the recorded seeds take turns."""
    return by_seed[sorted(by_seed)[seed % len(by_seed)]]


def _answering(curves: Sequence[Curve], low: float, high: float) -> Sequence[Curve]:
    """Those of some curves, in the order of their places, that answer for places from one to another."""
    first = max((index for index, curve in enumerate(curves) if curve.place < low), default=0)
    last = next((index for index, curve in enumerate(curves) if curve.place >= high), len(curves) - 1)
    return curves[first : last + 1]


def _by_seed(trials: Mapping[tuple[int, float], Sequence[_Line]], path: Path) -> dict[int, list[Curve]]:
    """Curves by seed, in the order of their learning rates."""
    found: defaultdict[int, list[Curve]] = defaultdict(list)
    for (seed, place), lines in sorted(trials.items()):
        read, last = {line.step: line.read for line in lines}, max(lines, key=lambda line: line.step)
        if len(read) < len(lines) or last.step != last.steps:
            raise SpecError(
                f"--replay {path}: {last.method} with {last.values} at lr = {readable(math.exp(place), 3)} lacks its "
                f"last step, or has one twice"
            )
        found[seed].append(Curve(place, last.before, last.steps, read))
    return dict(found)


def _mixed(first: Curve, second: Curve, share: float) -> Curve:
    """What lies between two curves, at the steps that both have."""
    steps = sorted(set(first.read) & set(second.read))
    read = {
        step: Read(*((1 - share) * a + share * b for a, b in zip(first.read[step], second.read[step], strict=True)))
        for step in steps
    }
    return replace(first, before=(1 - share) * first.before + share * second.before, read=read)


def _measured(accuracy: float, images: int, draw: np.random.Generator) -> float:
    """An accuracy as so many images show it."""
    return 100 * float(draw.binomial(images, min(1.0, max(0.0, accuracy / 100)))) / images


def _target(step: int, top1: float) -> Reading:
    return Reading(step=step, split="val", domain="target", probe=HEAD, n=None, numbers={"top1": top1})


def _source(step: int, top1: float) -> Reading:
    return Reading(step=step, split="val", domain="source", probe=KNN, n=None, numbers={"top1": top1})


class Replayed(NamedTuple):
    """A trial of a replayed search: its record, and when it ended, in optimizer steps since the search began."""

    record: Record
    ended: int


def replay(
    study: Study, benchmark: Benchmark, grid: Grid, *, slots: int, seed: int = 0, noise: Noise | None = None
) -> list[Replayed]:
    """Search a study over a grid.

    Args:
        slots: trials at once.
        seed: of what is measured (see :meth:`Grid.record`); that of the proposals is the study's.

    Returns:
        All trials, in the order in which they were proposed.

    Raises:
        SpecError: the grid does not hold a trial that was proposed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruning = pruner(study, benchmark)
    queue, running = deque[tuple[int, Record]](), list[tuple[int, int]]()

    def submit(number: int, values: Mapping[str, Any]) -> None:
        trial = searched(study, benchmark, values, index=number, launch=study.name)
        record = grid.record(trial, seed=seed, index=number, noise=noise)
        bar = None
        if pruning is not None:
            _check_read({one.step for one in record.readings}, pruning.rungs[0], record.method, trial.train.lr)
            bar = pruning.bar(number, trial.row)
        queue.append((number, _until(record, bar)))

    hear = nothing if pruning is None else functools.partial(heard, pruning)
    search = InOrder(proposals(study), submit, lambda number: {}, hear, lag=study.lag)
    found: dict[int, Replayed] = {}
    clock = asked = 0
    for over in range(study.trials):
        while asked < min(study.trials, over + slots):
            search.suggest(str(asked))
            asked += 1
        while queue:
            number, record = queue.popleft()
            found[number] = Replayed(record, clock + record.steps)
            heapq.heappush(running, (clock + record.steps, number))
        clock, number = heapq.heappop(running)
        search.on_trial_complete(str(number), last_result(study.objective, found[number].record))
    search.finish()
    return [found[number] for number in sorted(found)]


def _check_read(steps: Container[int], step: int, method: str, rate: float) -> None:
    """Refuse to compare trials that were not read where they would be compared; later rungs may be missing."""
    if step not in steps:
        raise SpecError(
            f"the grid was not read after {step} steps, where scheduler asha compares {method} at lr = "
            f"{readable(rate, 3)}: set train.val_every to a step that it was read after, or scheduler=none"
        )


def _until(record: Record, bar: Bar | None) -> Record:
    """A trial's record, as it is where its bar ends it."""
    end = None if bar is None else bar.end(record)
    if end is None:
        return record
    readings = tuple(reading for reading in record.readings if reading.step <= end)
    return record.model_copy(update={"status": "stopped", "steps": end, "readings": readings})


def check(trials: Sequence[Trial], grid: Grid, *, pruned: bool = False) -> None:
    """Refuse a search whose trials a grid does not hold.

    Args:
        trials: the corners of its space.
        pruned: whether trials are compared on the way.

    Raises:
        SpecError: it lacks one of them, or readings at the first rung.
    """
    for trial in trials:
        grid.record(trial)
    if pruned:
        for step in sorted({trial.train.val_every for trial in trials}):
            grid.check_read(trials, step)


def ends(replayed: Sequence[Replayed]) -> Iterator[tuple[float, float]]:
    """Target and source accuracy of the trials that ran to their end, in percent."""
    for record, _ in replayed:
        target, source = (record.scores[name] for name in ("target_accuracy", "source_accuracy"))
        if record.status == "ok" and target is not None and source is not None:
            yield target, source
