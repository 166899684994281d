"""Selection: from a study's search records to the configurations that are confirmed. Pure functions."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.records import Record
from bench.spec import Study, Value, readable

LONGEST = 120
"""Bytes of a row's name, which is a part of a trial's: a file's name has a limit."""

RowKey = tuple[tuple[str, str, Value], ...]
"""A leaderboard row is known by its values: name, type and value of every row field."""


@dataclass(frozen=True)
class Choice:
    """What is confirmed of a row: the configuration of a search trial; None if none of the row's trials has a score."""

    row: Mapping[str, Value]
    winner: Record | None


Selection = Callable[[Study, Sequence[Record]], list[Choice]]
"""Every row that was tried has at least one choice; a row may have several."""


def row_key(row: Mapping[str, Value]) -> RowKey:
    """What two rows differ in, however alike they look when they are printed."""
    return tuple((name, type(value).__name__, value) for name, value in row.items())


def best_of_rows(study: Study, records: Sequence[Record]) -> list[Choice]:
    """The best trial of every row by the study's objective; of equals the earliest."""
    rows: dict[RowKey, list[Record]] = {}
    for record in sorted(records, key=lambda record: _in_order(record.trial)):
        rows.setdefault(row_key(record.row), []).append(record)
    return [Choice(trials[0].row, _best(study, trials)) for trials in rows.values()]


def _in_order(trial: str) -> list[tuple[int, str]]:
    """A key that sorts trials by their numbers: ``search-99`` before ``search-100``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", trial)]


def _best(study: Study, trials: Sequence[Record]) -> Record | None:
    """Of the trials that ran to their end, or if there is none, by their last reading of those that were stopped."""
    for status in ("ok", "stopped"):
        best, highest = None, None
        for record in trials:
            value = study.objective.value(record.scores) if record.status == status else None
            if value is not None and (highest is None or value > highest):
                best, highest = record, value
        if best is not None:
            return best
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
        scale = math.log if space.log else float
        place = (scale(value) - scale(low)) / (scale(high) - scale(low))
        natural = low == 0 or (isinstance(low, int) and low == 1)
        if place > 1 - EDGE or (place < EDGE and not natural):
            side = "upper" if place > EDGE else "lower"
            yield (
                f"the best {name} = {readable(value, 3)} lies at the {side} end of its range, {readable(low, 3)} to "
                f"{readable(high, 3)}: widen search.{name}"
            )
