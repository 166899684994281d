"""Selection: from a study's search records to the configurations that are confirmed. Pure functions."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.launching.posterior import posterior_means
from bench.pareto import non_dominated, spread
from bench.readings import HEAD, KNN, scores
from bench.records import Record
from bench.spec import Quantity, Space, Study, Value, readable

LONGEST = 120
"""Bytes of a row's name, which is a part of a trial's: a file's name has a limit."""

RowKey = tuple[tuple[str, str, Value], ...]
"""A leaderboard row is known by its values: name, type and value of every row field."""


@dataclass(frozen=True)
class Choice:
    """What is confirmed of a row: the configuration of a search trial; None if none of the row's trials has a score."""

    row: Mapping[str, Value]
    winner: Record | None
    unmet: tuple[str, ...] = ()
    """Constraints that the winner exceeds: no trial of the row keeps all of them, and it exceeds them least."""
    highest: Record | None = None
    """The trial that was measured best, where the winner is another one (see :func:`_by_posterior`)."""
    step: int | None = None
    """After so many steps the winner was as good as it is chosen for, where its readings on the way were candidates."""

    @property
    def values(self) -> dict[str, Value]:
        """What is confirmed: the winner's hyper-parameters, and ``steps`` where they are a part of what was chosen.

        These are counted in full: a budget, which multiplies what a study asks for, has no part in them.
        """
        assert self.winner is not None
        values = dict(self.winner.hyperparameters)
        if self.step is not None:
            train = self.winner.config["train"]
            values["steps"] = self.step
            if warm_up := train["warmup_steps"]:
                values["warmup_steps"] = warm_up
            if train.get("budget", 1.0) != 1.0:
                values["budget"] = 1.0
        return values


Selection = Callable[[Study, Sequence[Record]], list[Choice]]
"""From a study's search records to what is confirmed."""


def row_key(row: Mapping[str, Value]) -> RowKey:
    """What two rows differ in, however alike they look when they are printed."""
    return tuple((name, type(value).__name__, value) for name, value in row.items())


def choose(study: Study, records: Sequence[Record]) -> list[Choice]:
    """What a study's objective asks for: the best of every row, or where it names several scores the front."""
    return front(study, records) if study.objective.others else best_of_rows(study, records)


def best_of_rows(study: Study, records: Sequence[Record]) -> list[Choice]:
    """The best trial of every row by the study's objective; of equals the earliest.

    With enough trials along one range the best is the one with the highest posterior mean, in which its neighbours'
    results count, too: the highest of many measurements was lucky. docs/search.md compares this with other rules.

    Under constraints it is the best of those that keep them. Where none does, it is the one whose excesses have the
    smallest sum.
    """
    return [_best(study, trials) for trials in _by_row(records)]


def front(study: Study, records: Sequence[Record]) -> list[Choice]:
    """The Pareto front of a study's trials, thinned to ``study.confirm`` that are spread along it.

    A row that has no trial on the front is not confirmed. The first choice is the best by the first score. With
    ``candidates: every`` each reading of a trial is a point: what is chosen is a configuration and a number of steps.
    """
    ordered = sorted(records, key=lambda record: _in_order(record.trial))
    points = list(_on_the_way(study, ordered) if study.candidates == "every" else _at_the_end(study, ordered))
    if not points:
        return [Choice(group[0].row, None) for group in _by_row(records)]
    best = non_dominated([point.values for point in points])
    chosen = [best[place] for place in spread([points[index].values for index in best], study.confirm)]
    kept = sorted((points[index] for index in chosen), key=lambda point: point.values, reverse=True)
    return [Choice(point.record.row, point.record, step=point.step) for point in kept]


class _Point(NamedTuple):
    """What may be on a front: a trial at its end, or as it was after a step."""

    values: tuple[float, ...]
    record: Record
    step: int | None = None


def _at_the_end(study: Study, trials: Sequence[Record]) -> Iterator[_Point]:
    for record in _measured(study, trials):
        if (values := study.objective.values(record.scores)) is not None:
            yield _Point(values, record)


def _on_the_way(study: Study, trials: Sequence[Record]) -> Iterator[_Point]:
    """Every reading after the warm-up, also of trials that were stopped: with a constant learning rate a training of so
    many steps ends there.

    Source: trajectory-based multi-objective search, Wang et al. 2024, arXiv 2405.15303.
    """
    for record in trials:
        if record.status == "failed":
            continue
        first = record.config["train"]["warmup_steps"] + 1
        for step in sorted({reading.step for reading in record.readings if reading.step >= first}):
            values = study.objective.values(scores(record.readings, step=step))
            if values is not None:
                yield _Point(values, record, step)


def _in_order(trial: str) -> list[tuple[int, str]]:
    """A key that sorts trials by their numbers: ``search-99`` before ``search-100``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", trial)]


def _by_row(records: Sequence[Record]) -> list[list[Record]]:
    """The trials of every row, rows and trials in the order of the search."""
    rows: dict[RowKey, list[Record]] = {}
    for record in sorted(records, key=lambda record: _in_order(record.trial)):
        rows.setdefault(row_key(record.row), []).append(record)
    return list(rows.values())


def _measured(study: Study, trials: Sequence[Record]) -> list[Record]:
    """The trials that ran to their end, or if there is none, those that were stopped after a reading."""
    for status in ("ok", "stopped"):
        found = [
            record
            for record in trials
            if record.status == status
            and study.objective.values(record.scores) is not None
            and study.objective.excesses(record.scores) is not None
        ]
        if found:
            return found
    return []


def _best(study: Study, trials: Sequence[Record]) -> Choice:
    """The best of a row's trials; of equals the first."""

    def merit(record: Record) -> tuple[float, float]:
        found = study.objective.merit(record.scores)
        assert found is not None  # it is measured
        return found

    measured = _measured(study, trials)
    if not measured:
        return Choice(trials[0].row, None)
    best = max(measured, key=merit)
    likeliest = _by_posterior(study, measured)
    if likeliest is not None and likeliest is not best:
        return Choice(trials[0].row, likeliest, highest=best)
    excesses = study.objective.excesses(best.scores) or ()
    limits = zip(study.objective.subject_to, excesses, strict=True)
    return Choice(trials[0].row, best, tuple(str(limit) for limit, excess in limits if excess > 0))


ENOUGH = 8
"""Of fewer trials a row's best is the one that was measured best: a posterior gains nothing (docs/search.md)."""

SEED_POINTS = 0.7
"""Standard deviation of an accuracy between seeds, in points, as on benchmark tiny away from the range's ends."""

PARTS: Mapping[Quantity, Mapping[Literal["target", "source"], float]] = {
    "mean": {"target": 0.5, "source": 0.5},
    "target_accuracy": {"target": 1.0},
    "source_accuracy": {"source": 1.0},
    "forgetting": {"source": 1.0},
}
"""So much a score moves with the accuracy in either domain."""


def _by_posterior(study: Study, trials: Sequence[Record]) -> Record | None:
    """Of a row's trials the one with the highest posterior mean along the range that is searched within the row.

    Returns:
        None where that was not shown to be better: of few trials, of several ranges or none, under constraints; where
        the protocol asks for the highest; where trials have not run to their end, or do not say how many images they
        read.
    """
    spaces = [(name, space) for name, space in study.search.items() if name not in study.rows]
    plain = len(spaces) == 1 and not study.objective.subject_to and study.protocol == "clean"
    if not plain or len(trials) < ENOUGH or trials[0].status != "ok":
        return None
    ((name, space),) = spaces
    places = [_place(space, trial.hyperparameters.get(name)) for trial in trials]
    values = [study.objective.value(trial.scores) for trial in trials]
    errors = [_error(study.objective.quantity, trial) for trial in trials]
    known = [(p, v, e) for p, v, e in zip(places, values, errors, strict=True) if None not in (p, v, e)]
    if len(known) < len(trials):
        return None
    means = posterior_means(*zip(*known, strict=True))
    return trials[max(range(len(trials)), key=lambda index: means[index])]


def _error(quantity: Quantity, record: Record) -> float | None:
    """The standard error of a trial's score, in points, from its images and its seed; None if these are not known."""
    variance = 0.0
    for domain, weight in PARTS[quantity].items():
        probe = HEAD if domain == "target" else KNN
        key = (record.measured_step, "val", domain, probe, None)
        (reading,) = (one for one in record.readings if one.key == key)
        if reading.n is None:
            return None
        share = min(max(reading.numbers["top1"] / 100, 0.01), 0.99)
        variance += weight**2 * (100**2 * share * (1 - share) / reading.n + SEED_POINTS**2)
    return math.sqrt(variance)


def _place(space: Space, value: Value) -> float | None:
    """Where a value lies in its range, from 0 to 1; None where there is no range, or no number."""
    if space.low is None or space.high is None or not isinstance(value, int | float):
        return None
    scale = math.log if space.log else float
    return (scale(value) - scale(space.low)) / (scale(space.high) - scale(space.low))


def remark_on(study: Study, choice: Choice) -> str | None:
    """What to say of a choice, if it is not what one would expect."""
    if choice.winner is None:
        return "no search trial succeeded, nothing to confirm"
    quantity, winner = study.objective.quantity, choice.winner
    if choice.highest is not None:
        scores = [readable(one.scores[quantity], 3) for one in (choice.highest, winner)]
        return (
            f"{choice.highest.trial} was measured best ({quantity} {scores[0]}); by all trials of the row "
            f"{winner.trial} ({scores[1]}) is more likely to be, and is confirmed"
        )
    if choice.unmet:
        limits = study.objective.subject_to
        known = dict.fromkeys(limit.quantity for limit in limits)
        found = ", ".join(f"{name} {readable(winner.scores[name], 3)}" for name in known)
        return (
            f"no search trial keeps {' and '.join(map(str, limits))}; the one that comes nearest is confirmed, "
            f"{winner.trial} with {found}"
        )
    return None


def names(choices: Sequence[Choice]) -> list[str]:
    """A name for every choice that can be a part of a file's name, each once: ``rank8``, ``k3``."""
    unique: list[str] = []
    for choice in choices:
        plain = "-".join(re.sub(r"[^\w.+-]+", "_", f"{name}{readable(value)}") for name, value in choice.row.items())
        plain = plain.encode()[:LONGEST].decode(errors="ignore")
        numbered = (f"{plain}-{number}".lstrip("-") for number in itertools.count(2))
        unique.append(next(name for name in itertools.chain([plain], numbered) if name not in unique))
    return unique


EDGE = 0.1
"""A value that lies in the outermost tenth of its range is at its edge: better ones may lie beyond."""


def at_edges(study: Study, values: Mapping[str, Value]) -> Iterator[str]:
    """What to say of searched values that lie at an edge of their range, one sentence each.

    Nothing lies beyond a range that begins at 0, or a range of whole numbers that begins at 1.
    """
    for name, space in study.search.items():
        low, high, value = space.low, space.high, values.get(name)
        if low is None or high is None or not isinstance(value, int | float):
            continue
        place = _place(space, value)
        assert place is not None
        natural = low == 0 or (isinstance(low, int) and low == 1)
        if place > 1 - EDGE or (place < EDGE and not natural):
            side = "upper" if place > EDGE else "lower"
            yield (
                f"the best {name} = {readable(value, 3)} lies at the {side} end of its range, {readable(low, 3)} to "
                f"{readable(high, 3)}: widen search.{name}"
            )
