"""Comparisons of rows: which ones cannot be told from the best, how far they lie behind it, what would separate two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.reporting.front import Draws, Hypervolume, hypervolumes
from bench.reporting.outcomes import Outcome, difference
from bench.reporting.statistics import LEVEL, Estimate, holm, seeds_needed

ALPHA = 1 - LEVEL

GROUPS = ("target_accuracy", "source_accuracy", "mean")
"""For each of these the rows are found that cannot be told from the best one."""

CONSTRAINED = "constrained"
"""The same for target accuracy among the rows that may keep to the limit of forgetting."""

FRONT, MAYBE_ON_FRONT = 0.95, 0.05
"""A row is on the Pareto front from the first probability on, and may be from the second."""

FORGETTING_LIMIT = 10.0
"""Points of source accuracy that a row may lose under the constraint, if nothing else is said."""


@dataclass(frozen=True)
class Difference:
    """One row minus another in points: value, 95 % interval, and a p-value that counts its family's comparisons."""

    value: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, estimate: Estimate, p: float) -> Difference:
        """An estimate as it is shown."""
        low, high = estimate.interval()
        return cls(100 * estimate.value, 100 * low, 100 * high, p)

    @property
    def told_apart(self) -> bool:
        """Whether the two rows differ, at 95 % of such families."""
        return self.p < ALPHA


@dataclass(frozen=True)
class Standing:
    """Where a row stands among the others: probabilities of having the best MEAN and of lying on the Pareto front; in
    which comparisons it cannot be told from the best row; how far its MEAN lies from that of the row with the best."""

    best_probability: float
    pareto_probability: float
    groups: tuple[str, ...]
    behind: Difference


@dataclass(frozen=True)
class Separation:
    """The two rows with the highest MEAN by label: their difference, and the seeds a row that would tell them apart.

    ``seeds`` is None if no number would, since the images leave too much open; or if a single seed was trained.
    """

    first: str
    second: str
    difference: Difference
    seeds: int | None


@dataclass(frozen=True)
class Comparisons:
    """All that a leaderboard says of its rows together; ``standings`` in their order."""

    standings: tuple[Standing, ...]
    hypervolumes: tuple[Hypervolume, ...]
    separation: Separation | None


def compare_all(
    outcomes: Sequence[Outcome], labels: Sequence[str], methods: Sequence[str], limit: float = FORGETTING_LIMIT
) -> Comparisons:
    """Compare rows that have succeeded.

    Args:
        labels: of the rows.
        methods: of the rows, whose hypervolumes are found.
        limit: points that a row may forget under the constraint.
    """
    draws = Draws.of(outcomes)
    best, front = draws.best(), draws.on_front()
    everybody = range(len(outcomes))
    against = {quantity: against_best(outcomes, quantity, everybody) for quantity in GROUPS}
    against[CONSTRAINED] = _constrained(outcomes, limit / 100)
    standings = tuple(
        Standing(
            best_probability=float(best[row]),
            pareto_probability=float(front[row]),
            groups=tuple(name for name, found in against.items() if row in found and not found[row].told_apart),
            behind=against["mean"][row],
        )
        for row in everybody
    )
    return Comparisons(standings, hypervolumes(outcomes, methods, draws), _separation(outcomes, labels))


def against_best(outcomes: Sequence[Outcome], quantity: str, rows: Sequence[int]) -> dict[int, Difference]:
    """Every row minus the best of some rows.

    Which row is the best is known from the same answers, so that every pair of the rows might have been compared:
    Holm's p-values are over all pairs.
    """
    if not rows:
        return {}
    best = max(rows, key=lambda row: outcomes[row].estimate(quantity).value)
    return _differences(outcomes, quantity, best, rows)


def _differences(outcomes: Sequence[Outcome], quantity: str, best: int, rows: Sequence[int]) -> dict[int, Difference]:
    estimates = {row: difference(outcomes[row], outcomes[best], quantity) for row in rows if row != best}
    pairs = len(rows) * (len(rows) - 1) // 2
    p_values = dict(zip(estimates, holm([estimate.p_value() for estimate in estimates.values()], pairs), strict=True))
    found = {row: Difference.of(estimate, p_values[row]) for row, estimate in estimates.items()}
    return {best: Difference(0.0, 0.0, 0.0, 1.0), **found}


def _constrained(outcomes: Sequence[Outcome], limit: float) -> dict[int, Difference]:
    """Target accuracies of the rows that may keep to the limit, against the best of those that do by their means."""
    forgotten = [outcome.estimate("forgetting") for outcome in outcomes]
    kept = [row for row, own in enumerate(forgotten) if own.value <= limit]
    able = [row for row, own in enumerate(forgotten) if own.value <= limit or own.p_value(limit) >= ALPHA]
    if not kept:
        return {}
    best = max(kept, key=lambda row: outcomes[row].estimate("target_accuracy").value)
    return _differences(outcomes, "target_accuracy", best, able)


def _separation(outcomes: Sequence[Outcome], labels: Sequence[str]) -> Separation | None:
    """The first two rows by MEAN; None if there are no two."""
    ranked = sorted(range(len(outcomes)), key=lambda row: -outcomes[row].estimate("mean").value)
    if len(ranked) < 2:
        return None
    first, second = ranked[:2]
    apart = difference(outcomes[first], outcomes[second], "mean")
    found = Difference.of(apart, apart.p_value())
    return Separation(labels[first], labels[second], found, seeds_needed(apart))
