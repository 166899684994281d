"""What a rule for choosing a learning rate costs: ``python -m tests.performance.choosing``.

The recorded curves of docs/learning-rates.csv are taken for the truth. A search draws learning rates from its study's
range and measures them with the noise of 300 target images, 1000 source queries and a seed; a rule chooses one of them.
Its regret is how much better the best of the drawn ones truly is, in points. docs/search.md holds the table.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.launching import studies
from bench.launching.posterior import posterior_means

Array = NDArray[np.float64]
Rule = Callable[[Array, Array, Array], int]
"""From places in the range (0 to 1), what was measured there and its standard error to the index that is chosen."""

CURVES = Path(__file__).parents[2] / "docs" / "learning-rates.csv"
TARGET_IMAGES, SOURCE_QUERIES, SEED_POINTS = 300, 1000, 0.7
SEARCHES = 150
"""Searches of each curve."""


def highest(place: Array, measured: Array, error: Array) -> int:
    """What was measured best."""
    return int(np.argmax(measured))


def one_standard_error(place: Array, measured: Array, error: Array) -> int:
    """The smallest rate that is within one standard error of the best."""
    best = int(np.argmax(measured))
    return int(min(np.flatnonzero(measured >= measured[best] - error[best]), key=lambda index: place[index]))


def smoothed(width: float) -> Rule:
    """The best after averaging over neighbours, with a Gaussian kernel of so much of the range."""

    def rule(place: Array, measured: Array, error: Array) -> int:
        weights = np.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
        return int(np.argmax(weights @ measured / weights.sum(axis=1)))

    return rule


def posterior_mean(place: Array, measured: Array, error: Array) -> int:
    """The highest posterior mean."""
    return int(np.argmax(posterior_means(list(place), list(measured), list(error))))


RULES: Mapping[str, Rule] = {
    "highest": highest,
    "one standard error": one_standard_error,
    "smoothed, 0.05": smoothed(0.05),
    "smoothed, 0.1": smoothed(0.1),
    "posterior mean": posterior_mean,
}


def curves() -> Iterator[tuple[str, Array, Array, Array]]:
    """Backbone, places in the study's range, target and source accuracy of every row."""
    rows: defaultdict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
    with CURVES.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["status"] == "ok":
                own = rows[line["backbone"], line["method"], line["row"]]
                own.append((float(line["lr"]), float(line["target"]), float(line["source"])))
    for (backbone, method, _), points in rows.items():
        rates, target, source = (np.array(column) for column in zip(*sorted(points), strict=True))
        space = studies.load(method).studies[0].search["lr"]
        low, high = math.log(space.low or 1), min(math.log(space.high or 1), math.log(rates[-1]))
        yield backbone, (np.log(rates) - low) / (high - low), target, source


def searches(trials: int, objective: str, draw: np.random.Generator) -> Iterator[tuple[str, dict[str, float]]]:
    """The backbone and every rule's regret, search by search."""
    for backbone, rates, target, source in curves():
        for _ in range(SEARCHES):
            place = draw.uniform(size=trials)
            true, seen, variance = [], [], []
            for curve, images in ((target, TARGET_IMAGES), (source, SOURCE_QUERIES)):
                true.append(np.interp(place, rates, curve))
                counted = 100 * draw.binomial(images, true[-1] / 100) / images
                seen.append(counted + draw.normal(0, SEED_POINTS, trials))
                variance.append(np.maximum(counted * (100 - counted), 100) / images + SEED_POINTS**2)
            weights = np.array([0.5, 0.5] if objective == "mean" else [1.0, 0.0])
            value, measured, error = weights @ true, weights @ seen, np.sqrt(weights**2 @ variance)
            yield backbone, {name: value.max() - value[rule(place, measured, error)] for name, rule in RULES.items()}


def main() -> None:
    """Print the table."""
    print(f"| objective | backbone | trials | {' | '.join(RULES)} |\n|---|---|---|{'---|' * len(RULES)}")
    for objective in ("mean", "target_accuracy"):
        for trials in (4, 8, 16):
            regrets = defaultdict(list)
            for backbone, found in searches(trials, objective, np.random.default_rng(0)):
                regrets[backbone].append(list(found.values()))
            for backbone, all_of_them in regrets.items():
                means = " | ".join(f"{mean:.2f}" for mean in np.mean(all_of_them, axis=0))
                print(f"| {objective} | {backbone.split(',')[0]} | {trials} | {means} |")


if __name__ == "__main__":
    main()
