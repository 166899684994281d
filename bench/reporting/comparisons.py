"""Comparisons of rows: which ones cannot be told from the best, how far they lie behind it, what would separate two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.reporting.front import EQUAL, Draws, Hypervolume, Region, hypervolumes
from bench.reporting.outcomes import Outcome, alike, counted_in, difference, of_one_seed
from bench.reporting.statistics import LEVEL, Estimate, holm, seeds_needed

ALPHA = 1 - LEVEL

GROUPS = ("target_accuracy", "source_accuracy", "mean")
"""For each of these the rows are found that cannot be told from the best one."""

BREAKS_TIES = {
    "target_accuracy": ("target_accuracy", "source_accuracy"),
    "source_accuracy": ("source_accuracy", "target_accuracy"),
    "mean": ("mean",),
}
"""The best row has the highest of the first; of equals, as linear probes are on the source, the highest of the next. So
no other row is at least as good in both accuracies and better in one.
"""

CONSTRAINED = "constrained"
"""The same for target accuracy among the rows that may keep to the limit of forgetting."""

FRONT, MAYBE_ON_FRONT = 0.95, 0.05
"""A row is on the Pareto front from the first probability on, and may be from the second."""

FORGETTING_LIMIT = 10.0
"""Points of source accuracy that a row may lose under the constraint, if nothing else is said."""


@dataclass(frozen=True)
class Difference:
    """One row minus another in points: value, 95 % interval, and a p-value that counts its family's comparisons.

    Where nothing is known of the uncertainty there is no interval, and p is 1.
    """

    value: float
    low: float | None
    high: float | None
    p: float

    @classmethod
    def of(cls, estimate: Estimate, p: float) -> Difference:
        """An estimate as it is shown."""
        return cls(*estimate.percent(), p)

    @property
    def told_apart(self) -> bool:
        """Whether the two rows differ, at 95 % of such families."""
        return self.p < ALPHA


@dataclass(frozen=True)
class Standing:
    """Where a row stands among the others: probabilities of having the best MEAN and of lying on the Pareto front; in
    which comparisons it cannot be told from the best row; how far its MEAN lies from that of the row with the best.

    There are no probabilities and no ``region`` where nothing is known of some row's uncertainty.
    """

    best_probability: float | None
    pareto_probability: float | None
    groups: tuple[str, ...]
    behind: Difference
    region: Region | None = None


@dataclass(frozen=True)
class Separation:
    """The two rows with the highest MEAN by label: their difference, and the seeds a row that would tell them apart.

    Both count all pairs of rows, as ``Standing.behind`` does. ``seeds`` is None if no number would, since the images
    leave too much open; or if one of the two has a single seed (``of_one_seed``), which does not say. Where searches
    were repeated, both are of searches: ``counted_in`` says what is counted, see :func:`outcomes.counted_in`, and
    ``shared`` whether some are left out that only one of the two has.
    """

    first: str
    second: str
    difference: Difference
    seeds: int | None
    of_one_seed: bool
    counted_in: str = "seeds"
    shared: bool = False


@dataclass(frozen=True)
class UnderLimit:
    """Of the rows whose means keep to the limit of forgetting the one with the highest target accuracy, by label, and
    all ``others`` that may keep to it. ``best`` is None if no mean does.
    """

    best: str | None
    others: tuple[str, ...]


@dataclass(frozen=True)
class Comparisons:
    """All that a leaderboard says of its rows together; ``standings`` in their order.

    ``separation`` is None if there are no two rows.
    """

    standings: tuple[Standing, ...]
    hypervolumes: tuple[Hypervolume, ...]
    separation: Separation | None
    under_limit: UnderLimit


def compare_all(
    outcomes: Sequence[Outcome], labels: Sequence[str], methods: Sequence[str], limit: float = FORGETTING_LIMIT
) -> Comparisons:
    """Compare rows that have succeeded.

    Args:
        labels: of the rows.
        methods: of the rows, whose hypervolumes are found.
        limit: points that a row may forget under the constraint.
    """
    draws = Draws.of(outcomes) if all(outcome.estimate("mean").known for outcome in outcomes) else None
    everybody = range(len(outcomes))
    against = {quantity: against_best(outcomes, quantity, everybody) for quantity in GROUPS}
    kept, able = _within(outcomes, limit / 100)
    constrained = _highest(outcomes, "target_accuracy", kept) if kept else None
    against[CONSTRAINED] = {} if constrained is None else _differences(outcomes, "target_accuracy", constrained, able)
    chances = _chances(draws, len(outcomes))
    regions = draws.regions() if draws is not None else [None] * len(outcomes)
    standings = tuple(
        Standing(
            best_probability=chances[row][0],
            pareto_probability=chances[row][1],
            groups=tuple(name for name, found in against.items() if row in found and not found[row].told_apart),
            behind=against["mean"][row],
            region=regions[row],
        )
        for row in everybody
    )
    return Comparisons(
        standings,
        hypervolumes(outcomes, methods, draws),
        _separation(outcomes, labels, against["mean"]),
        UnderLimit(
            None if constrained is None else labels[constrained],
            tuple(labels[row] for row in able if row != constrained),
        ),
    )


def _chances(draws: Draws | None, rows: int) -> list[tuple[float | None, float | None]]:
    """How probably each row has the best MEAN, and lies on the Pareto front."""
    if draws is None:
        return [(None, None)] * rows
    return [(float(best), float(front)) for best, front in zip(draws.best(), draws.on_front(), strict=True)]


def against_best(outcomes: Sequence[Outcome], quantity: str, rows: Sequence[int]) -> dict[int, Difference]:
    """Every row minus the best of some rows.

    Which row is the best is known from the same answers, so that every pair of the rows might have been compared:
    Holm's p-values are over all pairs.
    """
    if not rows:
        return {}
    return _differences(outcomes, quantity, _highest(outcomes, quantity, rows), rows)


def _highest(outcomes: Sequence[Outcome], quantity: str, rows: Sequence[int]) -> int:
    """The row with the highest value of a quantity, see ``BREAKS_TIES``; of rows that are equal in all, the first."""
    for name in BREAKS_TIES[quantity]:
        values = {row: outcomes[row].estimate(name).value for row in rows}
        rows = [row for row, value in values.items() if value >= max(values.values()) - EQUAL]
    return rows[0]


def _differences(outcomes: Sequence[Outcome], quantity: str, best: int, rows: Sequence[int]) -> dict[int, Difference]:
    estimates = {row: difference(outcomes[row], outcomes[best], quantity) for row in rows if row != best}
    alone = [estimate.p_value() for estimate in estimates.values()]
    p_values = dict(zip(estimates, holm(alone, _pairs(len(rows))), strict=True))
    found = {row: Difference.of(estimate, p_values[row]) for row, estimate in estimates.items()}
    return {best: Difference(0.0, 0.0, 0.0, 1.0), **found}


def _within(outcomes: Sequence[Outcome], limit: float) -> tuple[list[int], list[int]]:
    """Rows that forget at most such a share by their means, and those that may: these, and all not told from it."""
    forgotten = [outcome.estimate("forgetting") for outcome in outcomes]
    kept = [row for row, own in enumerate(forgotten) if own.value <= limit + EQUAL]
    able = [row for row, own in enumerate(forgotten) if row in kept or own.p_value(limit) >= ALPHA]
    return kept, able


def _separation(
    outcomes: Sequence[Outcome], labels: Sequence[str], behind: Mapping[int, Difference]
) -> Separation | None:
    """The first two rows by MEAN; None if there are no two.

    Args:
        behind: how far every row's MEAN lies from the highest.
    """
    if len(outcomes) < 2:
        return None
    first = _highest(outcomes, "mean", range(len(outcomes)))
    second = _highest(outcomes, "mean", [row for row in range(len(outcomes)) if row != first])
    pair = outcomes[first], outcomes[second]
    apart = difference(*pair, "mean")
    return Separation(
        first=labels[first],
        second=labels[second],
        difference=Difference.of(apart, behind[second].p),
        seeds=None if of_one_seed(*pair) else seeds_needed(apart, _pairs(len(outcomes))),
        of_one_seed=of_one_seed(*pair),
        counted_in=counted_in(*pair),
        shared=[len(own.seeds) for own in alike(*pair)] != [len(own.seeds) for own in pair],
    )


def _pairs(rows: int) -> int:
    """How many pairs there are of so many rows."""
    return rows * (rows - 1) // 2
