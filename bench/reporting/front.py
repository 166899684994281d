"""The front of methods as a matter of chance: draws of what all rows' accuracies may truly be, and what follows.

A draw moves every row by what its images and its seeds leave open, as far as the ends of its intervals lie for a drawn
quantile (a fiducial distribution, as in Behrens and Fisher's problem: Fisher 1935, Annals of Eugenics 6:391): a normal
one for the images, Student's t for the seeds. Rows that answered the same images move together, as far as they got the
same ones right; rows of the same seeds move together as their seeds do, and target and source of a row too. So chances
are of the same pairs as the differences of rows. Probabilities are shares of the draws, and nothing of them is random:
the draws have a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.reporting.outcomes import Outcome
from bench.reporting.statistics import LEVEL, Array, shifts

DRAWS = 10_000
"""A probability is off by one point at most."""

EQUAL = 1e-9
"""Shares that differ by no more are the same: rounding may do that."""

DOMAINS = ("target", "source")


@dataclass(frozen=True)
class Region:
    """An ellipse around a row's accuracies that holds the true ones at 95 %: how far it goes to each side, in points,
    and how target and source are correlated in it.

    With deviations x and y in units of those, each of its own side: x^2 - 2 r x y + y^2 <= 1 - r^2.
    """

    target_below: float
    target_above: float
    source_below: float
    source_above: float
    correlation: float


@dataclass(frozen=True)
class Draws:
    """Accuracies that rows may truly have, as shares: ``target`` and ``source``, ``[draws, rows]``; around ``found``,
    ``[2, rows]``, those that were measured.
    """

    target: Array
    source: Array
    found: Array
    seeds: tuple[int, ...]
    """How many stand behind each row."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], count: int = DRAWS, seed: int = 0) -> Draws:
        """Draws for some rows."""
        rng = np.random.default_rng(seed)
        found = np.array([[own.estimate(f"{domain}_accuracy").value for own in outcomes] for domain in DOMAINS])
        by_images = [_by_images(outcomes, domain, count, rng) for domain in DOMAINS]
        by_seeds = _by_seeds(outcomes, count, rng)
        target, source = (
            (value + images + seeds).clip(0, 1) for value, images, seeds in zip(found, by_images, by_seeds, strict=True)
        )
        return cls(target, source, found, tuple(len(own.seeds) for own in outcomes))

    def best(self) -> Array:
        """How probably each row has the highest MEAN, ``[rows]``; of equal ones each has its part."""
        mean = self.target + self.source
        highest = mean >= mean.max(axis=1, keepdims=True) - EQUAL
        return np.asarray((highest / highest.sum(axis=1, keepdims=True)).mean(axis=0))

    def on_front(self) -> Array:
        """How probably no other row is at least as good in both accuracies and better in one, ``[rows]``."""
        found = np.empty(self.target.shape[1])
        for row in range(len(found)):
            target, source = self.target[:, [row]], self.source[:, [row]]
            as_good = (self.target >= target - EQUAL) & (self.source >= source - EQUAL)
            beaten = as_good & ((self.target > target + EQUAL) | (self.source > source + EQUAL))
            found[row] = 1 - beaten.any(axis=1).mean()
        return found

    def regions(self) -> list[Region]:
        """The region of each row: of the ellipses of its draws' shape the one that holds 95 % of them."""
        off = np.stack([self.target, self.source]) - self.found[:, None]
        return [_region(off[:, :, row], seeds) for row, seeds in enumerate(self.seeds)]


def _region(off: Array, seeds: int) -> Region:
    """The region of deviations, ``[2, draws]``.

    Signs tell how they are correlated, since Student's t of few seeds has no covariance. Three seeds lie near a line by
    chance: nothing counts of what they say of it, and all of what many seeds say. An ellipse without a correlation
    holds the truth as often whether there is none or a full one.
    """
    sides = np.array([[_reach(-own[own < 0]), _reach(own[own > 0])] for own in off])
    scale = np.where(off < 0, sides[:, :1], sides[:, 1:])
    x, y = np.divide(off, scale, out=np.zeros_like(off), where=scale > 0)
    known = max(0.0, (seeds - 3) / (seeds - 1)) if seeds > 1 else 1.0
    r = known * float(np.clip(np.sin(np.pi / 2 * np.mean(np.sign(x) * np.sign(y))), -0.99, 0.99))
    stretch = np.sqrt(np.quantile((x**2 - 2 * r * x * y + y**2) / (1 - r**2), LEVEL))
    (left, right), (below, above) = (100 * stretch * sides).tolist()
    return Region(left, right, below, above, r)


def _reach(off: Array) -> float:
    """How far most deviations to one side go; 0 if there are none."""
    return float(np.quantile(off, LEVEL)) if len(off) else 0.0


def _by_images(outcomes: Sequence[Outcome], domain: str, count: int, rng: np.random.Generator) -> Array:
    """Draws of what its images leave open of the accuracies on a domain, ``[count, rows]``.

    Rows are correlated as their images' means are, which what is of single seeds makes a little less than they should.
    """
    answered = [outcome.answers[domain] for outcome in outcomes]
    estimates = [outcome.estimate(f"{domain}_accuracy") for outcome in outcomes]
    correlation = np.eye(len(outcomes))
    for images in dict.fromkeys((own.images, own.n) for own in answered if own.right is not None):
        rows = [row for row, own in enumerate(answered) if (own.images, own.n) == images]
        means = np.stack([right.mean(axis=0) for row in rows if (right := answered[row].right) is not None])
        centred = means - means.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)
        correlation[np.ix_(rows, rows)] = unit @ unit.T
    np.fill_diagonal(correlation, 1)  # also of a row whose images' means do not vary
    normal = rng.standard_normal((count, len(outcomes))) @ _root(correlation).T
    moved = [
        sum((shifts(part.share or 0.0, part.variance, own, part.n) for part in estimate.images), np.zeros(count))
        for estimate, own in zip(estimates, normal.T, strict=True)
    ]
    return np.stack(moved, axis=1)


def _root(correlation: Array) -> Array:
    """The Cholesky factor; a row that follows from those before it, as one that equals another, adds nothing."""
    root = np.zeros_like(correlation)
    for row in range(len(root)):
        for column in range(row):
            rest = correlation[row, column] - root[row, :column] @ root[column, :column]
            root[row, column] = rest / root[column, column] if root[column, column] > 0 else 0.0
        left = correlation[row, row] - root[row, :row] @ root[row, :row]
        root[row, row] = np.sqrt(left) if left > EQUAL else 0.0
    return root


def _by_seeds(outcomes: Sequence[Outcome], count: int, rng: np.random.Generator) -> Array:
    """Draws of what the seeds leave open of both accuracies, ``[2, count, rows]``; nothing is known of a single seed.

    A seed's draw is the same for all rows that have it, and so is how much seeds differ for rows of the same seeds.
    """
    moved = np.zeros((2, count, len(outcomes)))
    every = sorted({seed for outcome in outcomes for seed in outcome.seeds})
    drawn = dict(zip(every, rng.standard_normal((len(every), count)), strict=True))
    several = dict.fromkeys(_key(outcome) for outcome in outcomes if len(outcome.seeds) > 1)
    tails = {key: np.sqrt((len(key) - 1) / rng.chisquare(len(key) - 1, count)) for key in several}
    for row, outcome in enumerate(outcomes):
        for place, domain in enumerate(DOMAINS):
            shares = outcome.answers[domain].shares
            off = shares - shares.mean()
            if (length := float(np.linalg.norm(off))) > 0:
                quantiles = off @ np.stack([drawn[seed] for seed in outcome.seeds]) / length * tails[_key(outcome)]
                variance = length**2 / (len(off) * (len(off) - 1))
                moved[place, :, row] = shifts(float(shares.mean()), variance, quantiles)
    return moved


def _key(outcome: Outcome) -> tuple[int, ...]:
    return tuple(sorted(outcome.seeds))


@dataclass(frozen=True)
class Hypervolume:
    """Share of all pairs of target and source accuracy, in percent, that a method's rows reach, and its interval; that
    is None if nothing is known of what the accuracies may truly be.
    """

    method: str
    value: float
    low: float | None
    high: float | None


def hypervolumes(outcomes: Sequence[Outcome], methods: Sequence[str], draws: Draws | None) -> tuple[Hypervolume, ...]:
    """Hypervolume of every method's rows, in the order of the methods; 0 and 0 percent are the reference point.

    After Zitzler and Thiele 1999 (IEEE Transactions on Evolutionary Computation 3:257). The interval holds 95 % of the
    draws, moved by what these lie too high: of several rows that are moved by chance the best one lies too high, in the
    value once and in the draws around it once more.
    """
    values = [[outcome.estimate(f"{domain}_accuracy").value for outcome in outcomes] for domain in DOMAINS]
    found = []
    for method in dict.fromkeys(methods):
        rows = [row for row, own in enumerate(methods) if own == method]
        value = float(area(*(np.array([own])[:, rows] for own in values))[0])
        low, high = (
            (None, None) if draws is None else _corrected(value, area(draws.target[:, rows], draws.source[:, rows]))
        )
        found.append(Hypervolume(method, 100 * value, low, high))
    return tuple(found)


def _corrected(value: float, drawn: Array) -> tuple[float, float]:
    """The interval of a share, in percent, ``drawn`` ``[draws]``."""
    low, middle, high = np.quantile(drawn, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    bias = 2 * (float(middle) - value)
    return 100 * max(0.0, float(low) - bias), 100 * min(1.0, float(high) - bias)


def area(target: Array, source: Array) -> Array:
    """Area below the staircase of some points, ``[draws]`` of ``[draws, points]``."""
    order = np.argsort(-target, axis=1)
    right = np.take_along_axis(target, order, axis=1)
    height = np.maximum.accumulate(np.take_along_axis(source, order, axis=1), axis=1)
    width = right - np.append(right[:, 1:], np.zeros((len(right), 1)), axis=1)
    return np.asarray((width * height).sum(axis=1))
