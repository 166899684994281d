"""What intervals over few repeated searches cover, and how wide they are: ours, and others that might be narrower.

``python -m tests.searches`` prints the table of docs/statistics.md (seconds). Searches are drawn for all rows of one
leaderboard, with accuracies and deviations of a study of three searches; what a search reaches is a normal number on
the probit scale, so that it stays between 0 and 1 and a row that varies much is as skewed as such rows are. With
``--lost`` one of so many searches fails, and keeps 40 points less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from bench.reporting.statistics import LEVEL

Array = NDArray[np.float64]

ROWS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "target": (
        (0.967, 0.0064),
        (0.919, 0.0058),
        (0.802, 0.0037),
        (0.846, 0.0034),
        (0.936, 0.0032),
        (0.935, 0.0073),
        (0.934, 0.0213),
        (0.882, 0.0116),
        (0.900, 0.0212),
        (0.920, 0.0233),
        (0.947, 0.0029),
    ),
    "source": (
        (0.717, 0.0671),
        (0.835, 0.0199),
        (0.748, 0.0525),
        (0.843, 0.0266),
        (0.818, 0.1049),
        (0.909, 0.0231),
        (0.900, 0.0271),
        (0.783, 0.2115),
        (0.832, 0.0392),
    ),
}
"""Accuracy and deviation between searches of its rows; of the source those that can forget."""

IMAGES = {"target": 500, "source": 5000}
SAME_IMAGE = 0.5
"""Share of p (1 - p) that the images make."""

LOST = 0.4
"""What a search that fails loses of an accuracy, as a share."""


@dataclass(frozen=True)
class Drawn:
    """Launches of one board: means ``[launches, rows]`` over the searches, their variance by the searches and by the
    images, and the truth ``[rows]``.
    """

    mean: Array
    searches: Array
    images: Array
    truth: Array
    df: int

    @classmethod
    def of(cls, domain: str, count: int, launches: int, lost: float = 0.0) -> Drawn:
        """Draw what so many searches a row reach, of which the share ``lost`` fails."""
        rng = np.random.default_rng([count, IMAGES[domain]])
        rows = np.array(ROWS[domain])
        slopes = np.array([slope(*row) for row in rows])
        centre = special.ndtri(rows[:, 0]) * np.sqrt(1 + slopes**2)
        reached = special.ndtr(centre + slopes * rng.standard_normal((launches, count, len(rows))))
        reached = reached - LOST * reached * (rng.random(reached.shape) < lost)
        images = SAME_IMAGE * rows[:, 0] * (1 - rows[:, 0]) / IMAGES[domain]
        mean = reached.mean(axis=1) + np.sqrt(images) * rng.standard_normal((launches, len(rows)))
        variance = reached.var(axis=1, ddof=1) / count
        return cls(mean.clip(0.001, 0.999), variance, images, rows[:, 0] * (1 - lost * LOST), count - 1)


def slope(accuracy: float, std: float) -> float:
    """By how much a normal effect moves the probit of an accuracy that it makes vary so much around its mean."""
    points, weights = special.roots_hermitenorm(60)
    weights = weights / weights.sum()

    def excess(b: float) -> float:
        shares = special.ndtr(special.ndtri(accuracy) * np.sqrt(1 + b * b) + b * points)
        return float(np.sqrt(weights @ (shares - accuracy) ** 2) - std)

    return float(optimize.brentq(excess, 1e-6, 10))


def plain(drawn: Drawn, searches: Array, df: Array | float) -> tuple[Array, Array]:
    """Student's t, cut at 0 and 1, for variances of such degrees of freedom."""
    half = half_width(searches, drawn.images, df)
    return (drawn.mean - half).clip(0, 1), (drawn.mean + half).clip(0, 1)


def half_width(searches: Array, images: Array, df: Array | float) -> Array:
    """Quantile of the harmonic mean of the parts' degrees of freedom times the deviation."""
    total = searches + images
    return np.asarray(special.stdtrit(df * total / searches, (1 + LEVEL) / 2) * np.sqrt(total))


def student(drawn: Drawn) -> tuple[Array, Array]:
    """Student's t, each row by its own searches."""
    return plain(drawn, drawn.searches, float(drawn.df))


def ours(drawn: Drawn) -> tuple[Array, Array]:
    """Wilson's distances with as many answers as would vary as much, of searches and images, joined by squares."""
    quantile = half_width(drawn.searches, drawn.images, drawn.df) / np.sqrt(drawn.searches + drawn.images)
    parts = [_wilson(drawn.mean, part, quantile) for part in (drawn.searches, drawn.images)]
    below, above = (np.hypot(*ends) for ends in zip(*parts, strict=True))
    return drawn.mean - below, drawn.mean + above


def _wilson(share: Array, variance: Array, quantile: Array) -> tuple[Array, Array]:
    n = share * (1 - share) / variance
    centre = (share + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    spread = quantile * np.sqrt(variance + (quantile / (2 * n)) ** 2) / (1 + quantile**2 / n)
    return share - centre + spread, centre + spread - share


def logit(drawn: Drawn) -> tuple[Array, Array]:
    """Student's t on the scale of log odds."""
    half = half_width(drawn.searches, drawn.images, drawn.df) / (drawn.mean * (1 - drawn.mean))
    return special.expit(special.logit(drawn.mean) - half), special.expit(special.logit(drawn.mean) + half)


def arcsine(drawn: Drawn) -> tuple[Array, Array]:
    """Student's t on the scale of the arcsine of the root."""
    half = half_width(drawn.searches, drawn.images, drawn.df) / (2 * np.sqrt(drawn.mean * (1 - drawn.mean)))
    angle = np.arcsin(np.sqrt(drawn.mean))
    return np.sin((angle - half).clip(0, np.pi / 2)) ** 2, np.sin((angle + half).clip(0, np.pi / 2)) ** 2


def pooled(drawn: Drawn) -> tuple[Array, Array]:
    """The searches' variances of all rows shrunk to a common one (Smyth 2004, the moderated t)."""
    variance, df = moderated(drawn.searches, drawn.df)
    return plain(drawn, variance, df)


def pooled_upward(drawn: Drawn) -> tuple[Array, Array]:
    """The same, where no row's variance becomes smaller than its own."""
    variance, df = moderated(drawn.searches, drawn.df)
    return plain(drawn, np.maximum(variance, drawn.searches), df)


KINDS: Mapping[str, Callable[[Drawn], tuple[Array, Array]]] = {
    "ours": ours,
    "Student's t": student,
    "log odds": logit,
    "arcsine": arcsine,
    "pooled": pooled,
    "pooled upward": pooled_upward,
}


def moderated(variances: Array, df: int) -> tuple[Array, Array]:
    """Variances ``[launches, rows]`` moved to their rows' common one, and degrees of freedom ``[launches, 1]``.

    True variances are taken for scaled inverse chi-squares with d degrees of freedom; d and the scale follow from mean
    and variance of the logarithms (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3, 6.2).
    """
    logs = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    beyond = logs.var(axis=1, ddof=1) - special.polygamma(1, df / 2)
    half = inverse_trigamma(beyond.clip(1e-3))[:, None]
    scale = np.exp(logs.mean(axis=1, keepdims=True) + special.digamma(half) - np.log(half))
    return (2 * half * scale + df * variances) / (2 * half + df), 2 * half + df


def inverse_trigamma(values: Array) -> Array:
    """By Newton's method, as Smyth's appendix has it."""
    found = 0.5 + 1 / values
    for _ in range(20):
        now = special.polygamma(1, found)
        found = found + now * (1 - now / values) / special.polygamma(2, found)
    return np.asarray(found)


def found(domain: str, count: int, launches: int, lost: float = 0.0) -> Iterator[tuple[str, Array, Array]]:
    """Of every kind of interval the coverage in percent and the mean width in points, ``[rows]``."""
    drawn = Drawn.of(domain, count, launches, lost)
    for name, kind in KINDS.items():
        low, high = kind(drawn)
        held = (low <= drawn.truth) & (drawn.truth <= high)
        yield name, 100 * held.mean(axis=0), 100 * (high - low).mean(axis=0)


def main() -> None:
    """Print a Markdown table: coverage of every kind of interval, over the rows and of the row that varies most."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--launches", type=int, default=4000)
    parser.add_argument("--lost", type=float, default=0.0, help="share of searches that fail")
    asked = parser.parse_args()
    print("| accuracy | searches | interval | all rows | least covered row | row that varies most |")
    print("|---|---:|---|---:|---:|---:|")
    for domain, rows in ROWS.items():
        most = max(range(len(rows)), key=lambda row: rows[row][1])
        for count in (3, 5):
            for name, covered, width in found(domain, count, asked.launches, asked.lost):
                cells = [f"{covered.mean():.1f} ({width.mean():.1f})", f"{covered.min():.1f}"]
                cells += [f"{covered[most]:.1f} ({width[most]:.1f})"]
                print(f"| {domain} | {count} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
