"""How much narrower target intervals would be if every image of the target were a test image once.

``python -m tests.crossfit FOLDER`` prints the table of docs/statistics.md for a launch that repeated its search
(seconds): widths in points with the fixed test split, and cross-fitted in two ways.

- *A fold a seed*: each seed of a search holds out another fold of all images, so that every search answers each image
  once. The search itself has no images that are tested nowhere.
- *A fold a search*: each search chooses and trains without another fold, and its seeds answer that one.

What images, seeds and searches contribute is estimated from the answers in the records. What other training images do
to a model is not in them, and counts as nothing here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting.outcomes import by_search
from bench.reporting.rows import build
from bench.reporting.statistics import LEVEL, image_variance, student

DIGITS = 1797
"""Images of the target of benchmark tiny; 500 of them are its test split."""


@dataclass(frozen=True)
class Components:
    """Variances of single answers of a row: what is of the search, of the seed, of the image, and of all of them."""

    search: float
    seed: float
    image: float
    rest: float

    @classmethod
    def of(cls, answers: NDArray[np.float64]) -> Components:
        """Of answers ``[searches, seeds, images]``, 0 or 1, by the mean squares of a nested and crossed design."""
        searches, seeds, n = answers.shape
        flat = answers.reshape(searches * seeds, n)
        image = image_variance(flat) * n
        centred = flat - flat.mean(axis=1, keepdims=True) - flat.mean(axis=0) + flat.mean()
        rest = float((centred**2).sum()) / ((len(flat) - 1) * (n - 1))
        means = answers.mean(axis=2)
        of_seeds = float(means.var(axis=1, ddof=1).mean())
        of_searches = float(means.mean(axis=1).var(ddof=1)) if searches > 1 else 0.0
        return cls(max(0.0, of_searches - of_seeds / seeds), max(0.0, of_seeds - rest / n), image, rest)

    def fixed(self, searches: int, seeds: int, n: int) -> float:
        """Width of a mean's 95 % interval if all seeds answer the same n images."""
        if searches == 1:
            return _width(self.seed / seeds + self.rest / (seeds * n), seeds - 1, self.image / n)
        return _width(
            (self.search + self.seed / seeds + self.rest / (seeds * n)) / searches, searches - 1, self.image / n
        )

    def of_seeds(self, searches: int, seeds: int, n: int) -> float:
        """The same if each seed of a search answers another fold of n images: of one search folds and seeds are one."""
        if searches == 1:
            return _width(self.seed / seeds + (self.image + self.rest) / n, seeds - 1, 0.0)
        return _width((self.search + self.seed / seeds + self.rest / n) / searches, searches - 1, self.image / n)

    def of_searches(self, searches: int, seeds: int, n: int) -> float:
        """The same if all seeds of a search answer another fold of n images: folds and searches are one."""
        own = (self.image + self.rest / seeds) / (n / searches)
        return _width((self.search + self.seed / seeds + own) / searches, searches - 1, 0.0)


def _width(luck: float, df: int, images: float) -> float:
    """Of variances of a mean, as in ``bench.reporting.statistics``."""
    variance = luck + images
    return 2 * student(df * variance / luck if luck > 0 else math.inf, LEVEL) * math.sqrt(variance)


def answers_of(records: Sequence[Record]) -> NDArray[np.float64]:
    """Which test images of the target each search's seeds got right, ``[searches, seeds, images]``."""
    table = []
    for record in records:
        (reading,) = [
            own
            for own in record.readings
            if (own.split, own.domain, own.step, own.variant) == ("test", "target", record.measured_step, None)
        ]
        if reading.answers is None or reading.n is None:
            raise ValueError(f"{record.trial} does not say which images it got right")
        table.append(reading.answers.array(reading.n))
    return np.array([[table[place] for place in places] for places in by_search(records)], dtype=np.float64)


def widths(found: Components, seeds: int, n: int, images: int) -> str:
    """A line's cells: of one, three and five searches the width now, and what cross-fitting takes away of it."""
    cells = []
    for searches in (1, 3, 5):
        now = found.fixed(searches, seeds, n)
        cells += [f"{100 * now:.1f}", f"{1 - found.of_seeds(searches, seeds, images) / now:.0%}"]
        cells += [f"{1 - found.of_searches(searches, seeds, images) / now:.0%}"] if searches > 1 else []
    return " | ".join(cells)


def main() -> None:
    """Print a Markdown table of the rows' target accuracies, and of their paired differences from the highest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="a launch with repeats, as an archive of results/reference unpacked")
    parser.add_argument("--images", type=int, default=DIGITS, help="images that the target has in all")
    asked = parser.parse_args()
    records = {one.trial: one for one in LaunchFolder(asked.folder).read_records() if one.status == "ok"}
    rows = {
        row.label: [records[name] for name in row.trials if name in records] for row in build([*records.values()]).rows
    }
    answers = {label: answers_of(own) for label, own in rows.items()}
    best = max(answers, key=lambda label: float(answers[label].mean()))
    tables = answers | {f"{label} − {best}": own - answers[best] for label, own in answers.items() if label != best}
    print("| row | one search | seed | three | seed | search | five | seed | search |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for label, table in tables.items():
        print(f"| {label} | {widths(Components.of(table), *table.shape[1:], asked.images)} |")


if __name__ == "__main__":
    main()
