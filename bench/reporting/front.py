"""The front of methods as a matter of chance: draws of what all rows' accuracies may truly be, and what follows.

A draw moves every row by what its images and its seeds leave open. Rows that answered the same images move together, as
far as they got the same ones right; their seeds move each on its own, target and source of a row together, with the
heavier tails of Student's t (a fiducial distribution, as in Behrens and Fisher's problem: Fisher 1935, Annals of
Eugenics 6:391). Probabilities are shares of the draws, and nothing of them is random: the draws have a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.reporting.outcomes import Outcome
from bench.reporting.statistics import LEVEL, Array

DRAWS = 10_000
"""A probability is off by one point at most."""

EQUAL = 1e-9
"""Shares that differ by no more are the same: rounding may do that."""

DOMAINS = ("target", "source")


@dataclass(frozen=True)
class Region:
    """An ellipse around a row's accuracies that holds the true ones at 95 %: half its width and height in points, and
    how target and source are correlated in it.

    With deviations x and y in units of those: x^2 - 2 r x y + y^2 <= 1 - r^2.
    """

    target: float
    source: float
    correlation: float


@dataclass(frozen=True)
class Draws:
    """Accuracies that rows may truly have, as shares: ``target`` and ``source``, ``[draws, rows]``."""

    target: Array
    source: Array

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], count: int = DRAWS, seed: int = 0) -> Draws:
        """Draws for some rows."""
        rng = np.random.default_rng(seed)
        target, source = (_by_images(outcomes, domain, count, rng) for domain in DOMAINS)
        for row, outcome in enumerate(outcomes):
            shifts = _by_seeds(outcome, count, rng)
            target[:, row] += shifts[:, 0]
            source[:, row] += shifts[:, 1]
        return cls(target.clip(0, 1), source.clip(0, 1))

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
        return [_region(self.target[:, row], self.source[:, row]) for row in range(self.target.shape[1])]


def _region(target: Array, source: Array) -> Region:
    """The shape is told by medians and signs, since Student's t of few seeds has no covariance."""
    off = np.stack([own - np.median(own) for own in (target, source)])
    scale = np.quantile(np.abs(off), LEVEL, axis=1)
    x, y = np.divide(off, scale[:, None], out=np.zeros_like(off), where=scale[:, None] > 0)
    r = float(np.clip(np.sin(np.pi / 2 * np.mean(np.sign(x) * np.sign(y))), -0.99, 0.99))
    stretch = np.sqrt(np.quantile((x**2 - 2 * r * x * y + y**2) / (1 - r**2), LEVEL))
    width, height = (100 * float(half) for half in stretch * scale)
    return Region(width, height, r)


def _by_images(outcomes: Sequence[Outcome], domain: str, count: int, rng: np.random.Generator) -> Array:
    """Normal draws around the accuracies on a domain, ``[count, rows]``: what its images leave open.

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
    deviations = np.sqrt([sum(part.variance for part in estimate.images) for estimate in estimates])
    normal = rng.standard_normal((count, len(outcomes))) @ _root(correlation).T
    return np.asarray([estimate.value for estimate in estimates] + normal * deviations)


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


def _by_seeds(outcome: Outcome, count: int, rng: np.random.Generator) -> Array:
    """Draws of what the seeds leave open of both accuracies, ``[count, 2]``; nothing is known of a single seed."""
    seeds = len(outcome.seeds)
    if seeds < 2:
        return np.zeros((count, 2))
    shares = np.stack([outcome.answers[domain].shares for domain in DOMAINS], axis=1)
    normal = rng.standard_normal((count, seeds)) @ (shares - shares.mean(axis=0)) / np.sqrt(seeds * (seeds - 1))
    return np.asarray(normal * np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, (count, 1))))


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

    After Zitzler and Thiele 1999 (IEEE Transactions on Evolutionary Computation 3:257). The interval is the basic one,
    mirrored at the value: of several rows that are moved by chance the best one lies too high.
    """
    values = [[outcome.estimate(f"{domain}_accuracy").value for outcome in outcomes] for domain in DOMAINS]
    found = []
    for method in dict.fromkeys(methods):
        rows = [row for row, own in enumerate(methods) if own == method]
        value = float(area(*(np.array([own])[:, rows] for own in values))[0])
        low, high = (
            (None, None) if draws is None else _mirrored(value, area(draws.target[:, rows], draws.source[:, rows]))
        )
        found.append(Hypervolume(method, 100 * value, low, high))
    return tuple(found)


def _mirrored(value: float, drawn: Array) -> tuple[float, float]:
    """The basic interval of a share, in percent, ``drawn`` ``[draws]``."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return 100 * max(0.0, 2 * value - float(high)), 100 * min(1.0, 2 * value - float(low))


def area(target: Array, source: Array) -> Array:
    """Area below the staircase of some points, ``[draws]`` of ``[draws, points]``."""
    order = np.argsort(-target, axis=1)
    right = np.take_along_axis(target, order, axis=1)
    height = np.maximum.accumulate(np.take_along_axis(source, order, axis=1), axis=1)
    width = right - np.append(right[:, 1:], np.zeros((len(right), 1)), axis=1)
    return np.asarray((width * height).sum(axis=1))
