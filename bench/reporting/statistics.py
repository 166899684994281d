"""Intervals and comparisons that hold over seeds and images: answers in, numbers out.

A row is trained with a few seeds, and every seed's model answers the same images. With y = 1 for a right answer,
``y[seed, image] = accuracy + seed effect + image effect + both``: two crossed random effects (Searle, Casella and
McCulloch 1992, chapter 4). The mean over all answers therefore has two variances:

- of the seeds: that of the seeds' means divided by their number. It holds what is of seed and image together as well,
  and has only as many degrees of freedom as there are seeds but one.
- of the images: what the images' means vary beyond that, divided by their number.

The interval is a Student's t of their sum, whose degrees of freedom are the harmonic mean of those of the parts,
weighted by their variances: 2 / x for three seeds that make x of the variance. (Satterthwaite's 1946, 2 / x^2, count on
x itself being known; of three seeds they cover 92 %.) An accuracy that varies much is skewed, since it ends at 0 and
100 %: each part is Wilson's (1927, JASA 22:209) with the number of answers that would vary as much, and the parts'
distances are joined by their squares (Zou and Donner 2008, Statistics in Medicine 27:1693). So is, in a quantity that
is made of several accuracies, a mean or a difference, what seeds do to each. Paired differences vary at least as one
changed answer does.

All quantities here are shares: 1 is 100 percent. ``docs/statistics.md`` shows what is covered.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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

POWER = 0.8
"""Seeds are enough if so many studies with as many tell two rows apart that differ as these do."""

MOST_SEEDS = 1000
"""Nobody trains a row with more seeds."""


@dataclass(frozen=True)
class Moved:
    """One accuracy of those that a quantity is made of: its mean, its weight in the quantity, and the variance of what
    the quantity has of it, over the seeds.
    """

    share: float
    weight: float
    variance: float

    def distances(self, quantile: float) -> tuple[float, float]:
        """How far what the quantity has of it may lie below and above, for such a quantile."""
        below, above = _distances(self.share, self.variance / self.weight**2, quantile)
        ends = (below, above) if self.weight > 0 else (above, below)
        return abs(self.weight) * ends[0], abs(self.weight) * ends[1]


@dataclass(frozen=True)
class Seeds:
    """What the seeds contribute: the variance of the mean over them, and its degrees of freedom.

    ``moved``: the accuracies that it comes from; without them nothing is known of its shape, and it is symmetric.
    """

    variance: float
    df: int
    moved: tuple[Moved, ...] = ()

    @classmethod
    def of(cls, accuracies: Sequence[tuple[float, Array]]) -> tuple[Seeds, ...]:
        """The contribution of seeds to a sum of accuracies; of a single seed nothing can be known.

        Args:
            accuracies: the weight of each, and the seeds' shares, ``[s]``.
        """
        count = len(accuracies[0][1])
        if count < 2:
            return ()
        total = np.sum([weight * shares for weight, shares in accuracies], axis=0)
        moved = (Moved(float(own.mean()), weight, weight**2 * _of_mean(own)) for weight, own in accuracies)
        return (cls(_of_mean(total), count - 1, tuple(moved)),)

    def distances(self, quantile: float) -> tuple[float, float]:
        """How far the quantity may lie below and above by the seeds alone, for such a quantile.

        The accuracies' distances, joined by their squares, are longer where seeds move accuracies together and shorter
        where they move them against each other, as the deviation is.
        """
        apart = sum(one.variance for one in self.moved)
        if apart == 0:
            return (quantile * math.sqrt(self.variance),) * 2
        each = [one.distances(quantile) for one in self.moved]
        together = math.sqrt(self.variance / apart)
        return together * math.hypot(*(low for low, _ in each)), together * math.hypot(*(high for _, high in each))

    def of_so_many(self, count: int) -> Seeds:
        """What so many seeds would contribute that vary as these do."""
        part = (self.df + 1) / count
        moved = tuple(replace(one, variance=part * one.variance) for one in self.moved)
        return Seeds(part * self.variance, count - 1, moved)


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
        if self.share is None:
            return (quantile * math.sqrt(self.weighted),) * 2
        below, above = _distances(self.share, self.variance, quantile, self.n)
        return self.weight * below, self.weight * above


def _distances(share: float, variance: float, quantile: float, n: int | None = None) -> tuple[float, float]:
    """How far Wilson's ends lie from a share of such a variance; ``n`` as for :func:`shifts`."""
    answers = _effective(share, variance, n)
    if answers is None:
        return 0.0, 0.0
    low, high = wilson(share, answers, quantile)
    return share - low, high - share


def shifts(share: float, variance: float, quantiles: Array, n: int | None = None) -> Array:
    """How far from a share of such a variance Wilson's end lies, for quantiles with a sign, as long as these.

    Of quantiles that are drawn from a normal or t distribution it makes draws whose quantiles are the intervals' ends.

    Args:
        n: so many answers were all right, or all wrong, if no variance is seen at the end of the scale; None: that is
            certain.
    """
    answers = _effective(share, variance, n)
    return np.zeros(len(quantiles)) if answers is None else np.asarray(_end(share, answers, quantiles) - share)


def _effective(share: float, variance: float, n: int | None) -> float | None:
    """Independent answers that vary as much (Kish 1965); None if it is certain."""
    each = share * (1 - share)
    if each <= 0 and n is not None:
        return n
    return None if each <= 0 or variance <= 0 else each / variance


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share of n answers."""
    return max(0.0, float(_end(share, n, -z))), min(1.0, float(_end(share, n, z)))


def _end(share: float, n: float, z: Any) -> Any:
    """The upper end of Wilson's interval for a quantile, or an array of them; the lower one where it is negative."""
    centre, spread = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return (centre + spread) / (1 + z * z / n)


@dataclass(frozen=True)
class Estimate:
    """A quantity, and what makes it uncertain. Without ``seeds`` there was one seed: the images' uncertainty alone.

    ``share``: it is an accuracy or a mean of some, and lies between 0 and 1; otherwise it is a difference of two.
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
        below, above = self._joined([student(self._df, level)] * (len(self.seeds) + len(self.images)))
        low, high = self.value - below, self.value + above
        return max(0.0 if self.share else -1.0, low), min(1.0, high)

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
        """Degrees of freedom of the variance; those of the images are so many that they count as infinite.

        Seeds of two rows that are not paired have together what Welch (1947) and Satterthwaite give them.
        """
        of_seeds = sum(part.variance for part in self.seeds)
        if of_seeds <= 0:
            return math.inf
        df = of_seeds**2 / sum(part.variance**2 / part.df for part in self.seeds)
        return self.variance * df / of_seeds

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
        side = 0 if null < self.value else 1
        ends = self._joined([student(self._df, LEVEL)] * (len(self.seeds) + len(self.images)))
        scale = ends[side] / self._joined(self._own_quantiles(LEVEL))[side]
        low, high = math.log(SMALLEST), 0.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            reached = scale * self._joined(self._own_quantiles(1 - math.exp(middle)))[side]
            low, high = (low, middle) if reached < distance else (middle, high)
        return math.exp(high)

    def _joined(self, quantiles: Sequence[float]) -> tuple[float, float]:
        """The parts' distances below and above, each with its quantile, joined by their squares."""
        parts: tuple[Seeds | Images, ...] = (*self.seeds, *self.images)
        each = [part.distances(quantile) for part, quantile in zip(parts, quantiles, strict=True)]
        return math.hypot(*(below for below, _ in each)), math.hypot(*(above for _, above in each))

    def _own_quantiles(self, level: float) -> list[float]:
        """Of each part by itself: of the seeds, then of the images."""
        return [*(student(part.df, level) for part in self.seeds), *[student(math.inf, level)] * len(self.images)]


def _of_mean(values: Array) -> float:
    """Variance of the mean of some values."""
    return float(values.var(ddof=1)) / len(values)


def student(df: float, level: float) -> float:
    """Quantile of Student's t (of the normal distribution if ``df`` is infinite), two-sided."""
    return float(special.ndtri((1 + level) / 2) if math.isinf(df) else special.stdtrit(df, (1 + level) / 2))


def of_answers(
    tables: Sequence[Array], seeds: tuple[Seeds, ...], *, shares: bool, least: Sequence[float] | None = None
) -> Estimate:
    """The sum of the means of some tables of answers, weighted as they are; each has images of its own.

    Args:
        tables: ``[seeds, images]`` of equal seeds: 0 or 1 for accuracies, -1 to 1 for differences, times a weight.
        seeds: what the seeds contribute, see :meth:`Seeds.of`.
        shares: the tables are accuracies, times ``1 / len(tables)``.
        least: of tables of differences what one answer would change; by default what one did change, and nothing if
            none did in any seed, which is certain then.
    """
    value = float(np.sum([table.mean() for table in tables]))
    if shares:
        images = [_of_accuracy(table, 1 / len(tables)) for table in tables]
    else:
        changes = [changed(table) for table in tables] if least is None else least
        images = [_of_difference(*each) for each in zip(tables, changes, strict=True)]
    return Estimate(value, tuple(images), seeds, share=shares)


def changed(table: Array) -> float:
    """What one answer changes at most in a table of differences."""
    return float(np.abs(table).max(initial=0.0))


def _of_accuracy(table: Array, weight: float) -> Images:
    variance, n, share = image_variance(table) / weight**2, table.shape[1], min(1.0, float(table.mean()) / weight)
    return Images(variance if 0 < share < 1 else one_answer(n), n, share, weight)


def _of_difference(table: Array, change: float) -> Images:
    n = table.shape[1]
    return Images(max(image_variance(table), change**2 * one_answer(n)), n)


def one_answer(n: int) -> float:
    """Variance of an accuracy that one of n answers may change: where all were right or all were wrong."""
    return 1 / n**2


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
    """Seeds a row with which a paired difference as large as this one would be told from 0 in ``POWER`` of studies;
    searches where these stand for seeds.

    None: no number would, since the images are too few; or a single seed does not say how much seeds differ.

    Args:
        family: among how many comparisons, whichever of Holm's places it takes.
    """
    if not difference.seeds:
        return None

    def enough(count: int) -> bool:
        planned = replace(difference, seeds=tuple(part.of_so_many(count) for part in difference.seeds))
        least = abs(difference.value) - float(special.ndtri(POWER)) * math.sqrt(planned.variance)
        return (
            least > 0 and replace(planned, value=math.copysign(least, difference.value)).p_value() * family < 1 - LEVEL
        )

    counts = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(counts, True, key=enough)
    return counts[place] if place < len(counts) else None
