"""Line ``knn``: our streaming search against a straightforward evaluation loop, over a growing bank."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from bench import resources
from tests.performance.children import measured
from tests.performance.table import Goal, Line

WAYS = ("ours", "straightforward")


def lines(*, quick: bool, repeats: int) -> Iterator[Line]:
    """Seconds and peak memory for every size, and how the seconds grow with the bank."""
    sizes, queries, width = sizes_of(quick)
    per_pair: list[list[float]] = []
    for size in sizes:
        runs = {way: [measured("one_knn", way=way, bank=size, queries=queries, width=width)] for way in WAYS}
        for _ in range(repeats - 1):
            for way in WAYS:
                runs[way].append(measured("one_knn", way=way, bank=size, queries=queries, width=width))
        work = f"{queries:,} queries in {size:,} x {width}"
        ours, theirs = runs["ours"], runs["straightforward"]
        seconds = [[run["seconds"] for run in side] for side in (ours, theirs)]
        memory = [[run["mib"] for run in side] for side in (ours, theirs)]
        apart = difference(ours[0]["scores"], theirs[0]["scores"])
        equal = "all accuracies equal" if apart == 0 else f"accuracies differ by up to {apart:.3g} points"
        goal: Goal | None = None if quick else (">=", 3.0)
        yield Line("knn", work, "s", seconds[0], "DINO's loop", seconds[1], goal=goal, note=equal)
        beside = f"beside the sets' {ours[0]['sets_mib']:,.0f} MiB"
        yield Line("knn", work, "MiB, peak", memory[0], "DINO's loop", memory[1], note=beside)
        per_pair.append([1e9 * value / (size * queries) for value in seconds[0]])
    work = f"bank {sizes[-1]:,} against {sizes[0]:,}"
    yield Line("knn", work, "ns a pair", per_pair[-1], "ours, smallest bank", per_pair[0], ratio_of="cost")


def sizes_of(quick: bool) -> tuple[list[int], int, int]:
    """Bank sizes, queries, width of the features."""
    if quick:
        return [1000, 4000], 100, 64
    if resources.gpus():
        return [10_000, 100_000, 1_000_000], 10_000, 768
    return [10_000, 50_000, 200_000], 5000, 384


def difference(first: list[list[float]], second: list[list[float]]) -> float:
    """The largest between two lists of accuracies, in points."""
    return max(abs(a - b) for a, b in zip(chain(*first), chain(*second), strict=True))
