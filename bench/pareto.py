"""Points of several scores, all of which are to be large: which are not beaten, and which stand for the others."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence


def non_dominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other one is at least as good as everywhere and better somewhere.

    Args:
        points: larger is better, in every score. Of equal points the first one counts.
    """
    first = {tuple(point): index for index, point in reversed(list(enumerate(points)))}

    def beaten(point: tuple[float, ...]) -> bool:
        return any(other != point and all(map(operator.ge, other, point)) for other in first)

    return sorted(index for point, index in first.items() if not beaten(point))


def spread(points: Sequence[Sequence[float]], count: int) -> list[int]:
    """Indices of at most so many points that stand for all of a front.

    They are the best by each score, and then again and again the point that is farthest from those there are, with
    every score's range as its unit. A single one is that with the highest sum of scores in these units.

    Args:
        points: larger is better, in every score.
    """
    lows, highs = ([end(column) for column in zip(*points, strict=True)] for end in (min, max))
    scaled = [
        tuple((value - low) / ((high - low) or 1.0) for value, low, high in zip(point, lows, highs, strict=True))
        for point in points
    ]
    indices = range(len(points))
    if count == 1:
        return [max(indices, key=lambda index: sum(scaled[index]))]
    ends = (max(indices, key=lambda index: (scaled[index][axis], sum(scaled[index]))) for axis in range(len(lows)))
    chosen = list(dict.fromkeys(ends))[:count]
    nearest = {
        one: min(math.dist(scaled[one], scaled[other]) for other in chosen) for one in indices if one not in chosen
    }
    while nearest and len(chosen) < count:
        farthest = max(nearest, key=lambda one: nearest[one])
        del nearest[farthest]
        chosen.append(farthest)
        nearest = {one: min(known, math.dist(scaled[one], scaled[farthest])) for one, known in nearest.items()}
    return chosen


def ranked(points: Sequence[Sequence[float]]) -> list[int]:
    """All indices, from the point to be kept the longest: by non-dominated sorting, and within a front spread along it.

    Source: Schmucker et al. 2021, "Multi-objective Asynchronous Successive Halving", arXiv 2106.12639, whose
    epsilon-net begins anywhere; here it begins with the best by each score (see :func:`spread`).

    Args:
        points: larger is better, in every score. Of equal points the first one comes first.
    """
    order: list[int] = []
    for front in _fronts(points):
        order += [front[place] for place in spread([points[index] for index in front], max(2, len(front)))]
    return order


def _fronts(points: Sequence[Sequence[float]]) -> Iterator[list[int]]:
    """Fronts one after another, by fast non-dominated sorting (Deb et al. 2002); of equal points the first beats."""
    indices = range(len(points))
    beaten: list[list[int]] = [
        [other for other in indices if other != one and _beats(one, other, points)] for one in indices
    ]
    better = Counter(other for others in beaten for other in others)
    front = [one for one in indices if not better[one]]
    while front:
        yield front
        after = []
        for other in (other for one in front for other in beaten[one]):
            better[other] -= 1
            if not better[other]:
                after.append(other)
        front = sorted(after)


def _beats(one: int, other: int, points: Sequence[Sequence[float]]) -> bool:
    first, second = points[one], points[other]
    return all(map(operator.ge, first, second)) and (one < other or first != second)
