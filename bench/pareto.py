"""Points of several scores, all of which are to be large: which are not beaten, and which stand for the others."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence


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
