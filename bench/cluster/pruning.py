"""Pruning: which trials of a search are not trained to their end. Pure functions, and what they need to know.

One score, or one under limits, is asked for by successive halving (ASHA, Li et al. 2020, arXiv 1810.05934). Where an
objective has several scores that would end half of the front, see :func:`outstripped`. ASHA compares a trial with
whatever has come to a rung before; here it is compared with the trials whose ends were known when it was proposed, so
that what is stopped depends on the study and its ``lag`` alone, and not on what happens to be ready first.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.readings import Reading, scores
from bench.records import Record
from bench.spec import Objective, Value

FACTOR = 2
"""A trial goes on if it is among the best one in so many at a rung, and so many times as far on lies the next one."""

BEHIND = 25.0
"""By more points a trial lies far behind: six times the deviation of the difference of two readings of 300 images."""

EQUAL = 3.0
"""Scores that differ by no more points are equal: twice that deviation of 1000 images at 92 %, and of two seeds."""


class Seen(NamedTuple):
    """What an objective saw of a trial at a rung: what is maximised, and the sum of what exceeds limits."""

    values: tuple[float, ...]
    excess: float = 0.0


def seen(objective: Objective, named: Mapping[str, float | None]) -> Seen | None:
    """What an objective sees in scores; None where it lacks one."""
    values, excesses = objective.values(named), objective.excesses(named)
    if values is None or excesses is None:
        return None
    return Seen(values, sum(max(0.0, excess) for excess in excesses))


def rungs(first: int, steps: int, factor: int = FACTOR) -> tuple[int, ...]:
    """Steps after which trials are compared: ``first``, ``factor`` times that, and so on, before the last one."""
    found = []
    while first < steps:
        found.append(first)
        first *= factor
    return tuple(found)


def order(trials: Sequence[Seen]) -> list[int]:
    """Indices of trials at a rung, the best first.

    Those that keep all limits come first, by their score; the others follow, by what they exceed them (constrained
    domination, Deb et al. 2002, IEEE Transactions on Evolutionary Computation 6:182).
    """
    return sorted(range(len(trials)), key=lambda index: (trials[index].excess, [-one for one in trials[index].values]))


def survives(own: Seen, rivals: Sequence[Seen], factor: int = FACTOR) -> bool:
    """Whether a trial is among the best one in ``factor`` of a rung, with all that has come there before it.

    Of n these are n / factor, rounded up: the better of two, the best two of three or four with a factor of 2. So the
    first goes on, as the best of those there are.
    """
    return order([*rivals, own]).index(len(rivals)) * factor < len(rivals) + 1


def outstripped(own: Seen, others: Sequence[Seen]) -> bool:
    """Whether a trial of several scores lies far behind one of some others and has nothing to show for it.

    It has to lie far behind by one score, to be equal by another one, and to be ahead by none: a trial that learns
    slowly, and has forgotten as little as one that learns fast. One that lies behind by all scores goes on, since so
    does what has a high learning rate at first, and it comes back as that falls. docs/search.md compares other rules.
    """
    return any(_far_ahead(other, own) for other in others)


def _far_ahead(one: Seen, other: Seen) -> bool:
    leads = [first - second for first, second in zip(one.values, other.values, strict=True)]
    return max(leads) > BEHIND and min(leads) >= -EQUAL and any(abs(lead) <= EQUAL for lead in leads)


@dataclass(frozen=True)
class Bar:
    """What a trial has to pass: by step, what others of its row had come to there.

    These are all that had; where the objective has several scores, those that went on to their end.
    """

    objective: Objective
    rivals: Mapping[int, tuple[Seen, ...]]

    def stops(self, step: int, readings: Iterable[Reading]) -> bool:
        """Whether a trial ends here, with what was read of it after a step."""
        rivals, own = self.rivals.get(step, ()), seen(self.objective, scores(readings))
        if not rivals or own is None:
            return False
        return outstripped(own, rivals) if self.objective.others else not survives(own, rivals)

    def end(self, record: Record) -> int | None:
        """After which step a trial would have ended by its readings; None: it would not."""
        for step in sorted(self.rivals):
            read = [reading for reading in record.readings if reading.step in (0, step)]
            if step < record.steps + (record.status == "stopped") and self.stops(step, read):
                return step
        return None


class Pruner:
    """Sets every trial of a search its bar: as long as none of its row has come to its end, there is none.

    So every row keeps trials that ran to their end, and none loses its trials to another row that learns faster.
    """

    def __init__(self, objective: Objective, rungs: Sequence[int]) -> None:
        """Know of no trial yet."""
        self._objective, self.rungs = objective, tuple(rungs)
        self._rows: dict[int, str] = {}
        self._seen: defaultdict[str, defaultdict[int, list[Seen]]] = defaultdict(lambda: defaultdict(list))
        self._finished: set[str] = set()

    def bar(self, index: int, row: Mapping[str, Value]) -> Bar | None:
        """What a trial has to pass that is proposed now."""
        name = self._rows[index] = json.dumps(dict(row), sort_keys=True)
        if name not in self._finished:
            return None
        return Bar(self._objective, {step: tuple(found) for step, found in self._seen[name].items()})

    def hear(self, index: int, curve: Mapping[int, Seen], *, finished: bool) -> None:
        """A trial has ended, after having been seen at some steps.

        Args:
            finished: it ran to its end, without having failed.
        """
        row = self._rows.pop(index)
        for step in self.rungs:
            if step in curve and (finished or not self._objective.others):
                self._seen[row][step].append(curve[step])
        if finished:
            self._finished.add(row)
