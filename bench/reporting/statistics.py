"""Intervals and comparisons that hold over seeds and images: answers in, numbers out.

A row is trained with a few seeds, and every seed's model answers the same images. With y = 1 for a right answer,
``y[seed, image] = accuracy + seed effect + image effect + both``: two crossed random effects (Searle, Casella and
McCulloch 1992, chapter 4). The mean over all answers therefore has two variances:

- of the seeds: that of the seeds' means divided by their number. It holds what is of seed and image together as well,
  and has only as many degrees of freedom as there are seeds but one.
- of the images: what the images' means vary beyond that, divided by their number.

The interval is a Student's t of their sum, whose degrees of freedom are the harmonic mean of those of the parts,
weighted by their variances: 2 / x for three seeds that make x of the variance. (Satterthwaite's 1946, 2 / x^2, count on
x itself being known; of three seeds they cover 92 %.) Near 0 and 100 % the images' part is Wilson's (1927, JASA 22:209)
with the effective number of images, and the parts' distances are joined by their squares (Zou and Donner 2008,
Statistics in Medicine 27:1693). Paired differences vary at least as one changed answer does.

All quantities here are shares: 1 is 100 percent. ``docs/statistics.md`` shows what is covered.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.95
"""Intervals cover the truth so often."""

ROUNDING = 1e-12
"""Shares that differ by no more are the same."""

SMALLEST, BISECTIONS = 1e-12, 50
"""A p-value is found between this and 1, in so many steps."""

MOST_SEEDS = 1000
"""Nobody trains a row with more seeds."""


@dataclass(frozen=True)
class Seeds:
    """What the seeds contribute: the variance of the mean over them, and its degrees of freedom."""

    variance: float
    df: int

    @classmethod
    def of(cls, means: Array) -> tuple[Seeds, ...]:
        """The contribution of seeds with such means, ``[s]``; of a single seed nothing can be known."""
        return (cls(float(means.var(ddof=1)) / len(means), len(means) - 1),) if len(means) > 1 else ()


@dataclass(frozen=True)
class Images:
    """What the images of one data set contribute: the variance of the mean over them.

    ``share`` is the accuracy that the mean is, unweighted as the variance is; None: it is a difference of two.
    ``weight`` is its weight in the quantity.
    """

    variance: float
    n: int
    share: float | None = None
    weight: float = 1.0

    @property
    def weighted(self) -> float:
        """Variance of what the quantity has of it."""
        return self.weight**2 * self.variance

    def distances(self, quantile: float) -> tuple[float, float]:
        """How far what the quantity has of it may lie below and above, for such a quantile."""
        if self.share is None or (0 < self.share < 1 and self.variance == 0):
            return quantile * math.sqrt(self.weighted), quantile * math.sqrt(self.weighted)
        each = self.share * (1 - self.share)
        effective = each / self.variance if each > 0 else self.n  # independent answers that vary as much (Kish 1965)
        low, high = wilson(self.share, effective, quantile)
        return self.weight * (self.share - low), self.weight * (high - self.share)


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share of n answers."""
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


@dataclass(frozen=True)
class Estimate:
    """A quantity, and what makes it uncertain. Without ``seeds`` there was one seed: the images' uncertainty alone.

    ``share``: it is an accuracy or a mean of some, and lies between 0 and 1; otherwise it is a difference.
    ``counted``: the numbers of all images are known; otherwise ``images`` lacks some.
    """

    value: float
    images: tuple[Images, ...]
    seeds: tuple[Seeds, ...]
    share: bool = False
    counted: bool = True

    @property
    def known(self) -> bool:
        """Whether anything says how uncertain it is: seeds that differ, or the images, if all were counted."""
        varied = any(part.variance > ROUNDING**2 for part in self.seeds)
        return varied or (self.counted and bool(self.images))

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Between which values the quantity lies; None if nothing is known of that."""
        if not self.known:
            return None
        quantile = student(self._df, level)
        seeds = [quantile * math.sqrt(part.variance) for part in self.seeds]
        images = [part.distances(quantile) for part in self.images]
        low = self.value - math.hypot(*seeds, *(below for below, _ in images))
        high = self.value + math.hypot(*seeds, *(above for _, above in images))
        return (max(0.0, low), min(1.0, high)) if self.share else (low, high)

    def percent(self) -> tuple[float, float | None, float | None]:
        """Value and ends of the interval times 100, as they are shown."""
        ends = self.interval()
        return (100 * self.value, None, None) if ends is None else (100 * self.value, 100 * ends[0], 100 * ends[1])

    @property
    def variance(self) -> float:
        """Of the value."""
        return sum(part.variance for part in self.seeds) + sum(part.weighted for part in self.images)

    @property
    def _df(self) -> float:
        """Degrees of freedom of the variance; those of the images are so many that they count as infinite."""
        lost = sum(part.variance / part.df for part in self.seeds)
        return self.variance / lost if lost > 0 else math.inf

    def p_value(self, null: float = 0.0) -> float:
        """Of a difference: how probable one so far from ``null`` were if that were the truth, two-sided.

        At 5 % it says what the interval says. Below, where comparisons are many, a small variance of few seeds may be
        luck: the distance grows with the parts' own quantiles there, of the seeds and of the images. 1 if nothing is
        known of the uncertainty.
        """
        if not self.known:
            return 1.0
        distance = abs(self.value - null)
        if self.variance <= ROUNDING**2:
            return float(distance <= ROUNDING)
        scale = student(self._df, LEVEL) * math.sqrt(self.variance) / self._joined(LEVEL)
        low, high = math.log(SMALLEST), 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if scale * self._joined(1 - math.exp(middle)) < distance else (middle, high)
        return math.exp(high)

    def _joined(self, level: float) -> float:
        """The parts' distances, each with its own quantile, joined by their squares."""
        images = math.sqrt(sum(part.weighted for part in self.images))
        return math.hypot(
            student(math.inf, level) * images,
            *(student(part.df, level) * math.sqrt(part.variance) for part in self.seeds),
        )


def student(df: float, level: float) -> float:
    """Quantile of Student's t (of the normal distribution if ``df`` is infinite), two-sided."""
    return float(special.ndtri((1 + level) / 2) if math.isinf(df) else special.stdtrit(df, (1 + level) / 2))


def of_answers(tables: Sequence[Array], *, shares: bool) -> Estimate:
    """The sum of the means of some tables of answers, weighted as they are; each has images of its own.

    Args:
        tables: ``[seeds, images]`` of equal seeds: 0 or 1 for accuracies, -1 to 1 for differences, times a weight.
        shares: the tables are accuracies, times ``1 / len(tables)``.
    """
    means = sum(table.mean(axis=1) for table in tables)
    weight = 1 / len(tables) if shares else None
    parts = tuple(_images(table, weight) for table in tables)
    return Estimate(float(np.mean(means)), parts, Seeds.of(np.asarray(means)), share=shares)


def _images(table: Array, weight: float | None) -> Images:
    variance, n = image_variance(table), table.shape[1]
    if weight is None:
        change = float(np.abs(table).max(initial=0.0))  # 0 if no answer changed in any seed: that is certain
        return Images(max(variance, (change / n) ** 2), n)
    return Images(variance / weight**2, n, min(1.0, float(table.mean()) / weight), weight)


def image_variance(table: Array) -> float:
    """Of the mean of ``[seeds, images]``, what comes from the images: Henderson's method III, not below 0."""
    seeds, n = table.shape
    if n == 1:
        return 0.0
    means = table.mean(axis=0)
    between: float = float(((means - means.mean()) ** 2).sum()) * seeds
    if seeds == 1:
        return float(between / (n - 1) / n)
    total: float = float(((table - table.mean(axis=1, keepdims=True)) ** 2).sum())
    both = (total - between) / ((seeds - 1) * (n - 1))
    return float(max(0.0, between / (n - 1) - both) / (seeds * n))


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """p-values of several comparisons at once (Holm 1979): in 5 % of such families one is below 5 % by chance.

    Args:
        family: how many comparisons there are if these were picked out of more.
    """
    every = len(p_values) if family is None else family
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    raised = ((every - place) * p_values[index] for place, index in enumerate(order))
    adjusted = dict(zip(order, itertools.accumulate(raised, max), strict=True))
    return [min(1.0, adjusted[index]) for index in range(len(p_values))]


def seeds_needed(difference: Estimate, family: int = 1) -> int | None:
    """Seeds a row with which a paired difference as large as this one would be told from 0; searches where these stand
    for seeds.

    None: no number would, since the images are too few; or a single seed does not say how much seeds differ.

    Args:
        family: among how many comparisons, whichever of Holm's places it takes.
    """
    if not difference.seeds:
        return None
    each = sum(part.variance * (part.df + 1) for part in difference.seeds)

    def enough(count: int) -> bool:
        return replace(difference, seeds=(Seeds(each / count, count - 1),)).p_value() * family < 1 - LEVEL

    counts = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None
