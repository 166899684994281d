"""Curves over steps: what the confirmed trials of a row had learned and forgotten on the way, on validation data."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.readings import scores
from bench.records import Record
from bench.reporting.markup import escaped, one_decimal
from bench.reporting.outcomes import by_search

if TYPE_CHECKING:
    import pandas as pd

    from bench.reporting.rows import Leaderboard

QUANTITIES = ("target_accuracy", "source_accuracy", "forgetting", "mean")


@dataclass(frozen=True)
class CurvePoint:
    """A quantity after so many steps: mean and sample standard deviation over ``n`` seeds, in percent; where the search
    was repeated over ``n`` searches, each with the mean of its seeds.

    ``target_images`` and ``source_images`` say of how many validation images and queries; None where that is not known.
    """

    step: int
    quantity: str
    mean: float
    std: float | None
    n: int
    target_images: int | None = None
    source_images: int | None = None


def of(records: Sequence[Record]) -> tuple[CurvePoint, ...]:
    """The curves of repeats of one configuration; empty if nothing was read before their end.

    Step 0 is the untouched backbone, which has forgotten nothing, and has no head to learn with.
    """
    read = [[one for one in record.readings if one.split == "val" and one.variant is None] for record in records]
    steps = sorted({one.step for own in read for one in own if one.domain == "source"})
    if len([step for step in steps if step > 0]) < 2:
        return ()
    return tuple(point for step in steps for point in _after(step, read, by_search(records)))


def _after(step: int, read: Sequence[Sequence[Any]], together: Sequence[Sequence[int]]) -> Iterator[CurvePoint]:
    """The points after a step.

    Args:
        together: places of the records that count as one.
    """
    named = [scores([one for one in own if one.step in (0, step)]) for own in read]
    if step == 0:
        before = [own.get("source_accuracy_before") for own in named]
        named = [{} if value is None else {"source_accuracy": value, "forgetting": 0.0} for value in before]
    counts = {domain: _images(read, step, domain) for domain in ("target", "source")}
    for quantity in QUANTITIES:
        groups = [[own[quantity] for place in places if quantity in (own := named[place])] for places in together]
        if values := [statistics.fmean(group) for group in groups if group]:
            std = statistics.stdev(values) if len(values) > 1 else None
            images = {"target_images": counts["target"], "source_images": counts["source"]}
            yield CurvePoint(step, quantity, statistics.fmean(values), std, len(values), **images)


def _images(read: Sequence[Sequence[Any]], step: int, domain: str) -> int | None:
    counts = {one.n for own in read for one in own if (one.step, one.domain) == (step, domain)}
    return counts.pop() if len(counts) == 1 else None


COLUMNS = 10
"""A table for people shows forgetting after so many steps at most."""


def markdown(board: Leaderboard) -> list[str]:
    """Forgetting over steps as a table, with a column a step; no lines if nothing was read on the way."""
    steps = sorted({point.step for row in board.rows for point in row.curve if point.step > 0})
    if not steps:
        return []
    parts = max(1, min(COLUMNS, len(steps)) - 1)
    shown = list(dict.fromkeys(steps[round(part * (len(steps) - 1) / parts)] for part in range(parts + 1)))
    table = [["Forgetting after step", *map(str, shown)], ["---", *["---:"] * len(shown)]]
    for row in board.rows:
        means = {point.step: point.mean for point in row.curve if point.quantity == "forgetting"}
        if means:
            table.append(
                [
                    escaped(row.label),
                    *(one_decimal(means[step]) if step in means else "–" for step in shown),
                ]
            )
    over = "searches" if any(row.repeated for row in board.rows) else "seeds"
    said = f"On the way, on validation data, in points (means over {over}; all steps are in curves.csv):"
    return ["", said, "", *("| " + " | ".join(line) + " |" for line in table), "", "![curves over steps](curves.png)"]


def tidy(board: Leaderboard) -> pd.DataFrame:
    """The curves of all rows as one table: a line for every row, step and quantity.

    Columns: ``study``, ``benchmark``, ``method``, ``label``, ``row`` and ``hyperparameters`` (as JSON), and those of
    :class:`CurvePoint`.
    """
    import pandas as pd

    lines = [
        {
            "study": board.study,
            "benchmark": board.benchmark,
            "method": row.method,
            "label": row.label,
            "row": json.dumps(dict(row.row)),
            "hyperparameters": json.dumps(dict(row.hyperparameters)),
            **vars(point),
        }
        for row in board.rows
        for point in row.curve
    ]
    counts = dict.fromkeys(("step", "n", "target_images", "source_images"), "Int64")
    return pd.DataFrame(lines).astype(counts) if lines else pd.DataFrame()
