"""Line ``growth``: what the harness itself adds to a trial, as a study grows."""

from __future__ import annotations

from collections.abc import Iterator

from tests.performance.launches import launch
from tests.performance.table import Goal, Line

SIZES = (4, 16, 64)
NEAR_EMPTY = ["--slots", "1", "--seeds", "0", "--set", "train.steps=1"]


def lines(*, quick: bool, repeats: int) -> Iterator[Line]:
    """Seconds a trial beside training and evaluating: the smallest study against the larger ones."""
    costs: dict[int, list[float]] = {size: [] for size in ((2, 4) if quick else SIZES)}
    for _ in range(repeats):
        for size, found in costs.items():
            # A study ends with one confirmation, which is a trial like the others.
            run = launch("linear", "--trials", str(size - 1), *NEAR_EMPTY)
            found.append(run.own_cost_per_trial)
    (smallest, base), *larger = costs.items()
    for size, found in larger:
        work = f"linear on tiny, one step, {size} trials"
        goal: Goal | None = None if quick else ("<=", 1.2)
        yield Line("growth", work, "s a trial", found, f"{smallest} trials", base, ratio_of="cost", goal=goal)
