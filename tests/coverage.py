"""What the intervals of ``bench.reporting.statistics`` cover, where the truth is known.

``python -m tests.coverage`` prints the tables of docs/statistics.md (some minutes); a test runs a part of them.

Answers are drawn as of models and images on the benchmark tiny: a latent number for every seed and image, which is
right above 0, of a search's, a seed's, an image's and its own part. Rows share most of what makes an image hard, and a
little of what a search or a seed does; where more is learned, more is forgotten.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.reporting.front import Draws as FrontDraws
from bench.reporting.front import Hypervolume, Region, hypervolumes
from bench.reporting.outcomes import NAMES, Answered, Outcome, difference
from bench.reporting.statistics import Estimate

Array = NDArray[np.float32]

DOMAINS = ("target", "source")

BEFORE = 0.952
"""Source accuracy of the untouched backbone."""

SAME_IMAGE = 0.8
"""Correlation of an image's difficulty for two rows."""

SAME_SEED, TRADE = 0.3, -0.3
"""Correlations of a seed's effects: on two rows, on target and source."""

SAME_SEARCH, SEARCH_TRADE = 0.5, -0.7
"""The same of a search's effects."""


@dataclass(frozen=True)
class Row:
    """The truth of a row: accuracies, and their deviations between seeds (of the source 0: it is not changed), and
    between searches where these are repeated; all of them shares.
    """

    target: float
    target_std: float
    source: float
    source_std: float
    target_search: float = 0.0
    source_search: float = 0.0


@dataclass(frozen=True)
class World:
    """Two rows, and how much of an answer's latent variance is its image's (the rest is the single training's)."""

    first: Row
    second: Row
    image: float = 0.75


WORLDS: Mapping[str, World] = {
    "close": World(Row(0.94, 0.0072, 0.829, 0.0193), Row(0.9233, 0.0031, 0.8547, 0.0115)),
    "unsteady": World(Row(0.878, 0.014, 0.88, 0.0412), Row(0.9453, 0.0046, 0.7103, 0.0504)),
    "high": World(Row(0.968, 0.006, 0.467, 0.0271), Row(0.946, 0.0005, 0.7667, 0.033)),
    "unforgetful": World(Row(0.8567, 0.0012, 0.949, 0.0046), Row(0.8113, 0.007, BEFORE, 0.0)),
    "alike": World(Row(0.93, 0.003, 0.945, 0.002), Row(0.931, 0.003, 0.944, 0.002), image=0.95),
    "noisy": World(Row(0.9, 0.003, 0.8, 0.003), Row(0.91, 0.003, 0.81, 0.003), image=0.3),
}
"""Accuracies and deviations of rows of README.md and docs/benchmarks.md; of the last two, models agree or differ."""

SEARCHED: Mapping[str, World] = {
    "full, lora": World(
        Row(0.967, 0.0038, 0.717, 0.0286, 0.006, 0.065), Row(0.934, 0.0052, 0.818, 0.0107, 0.0211, 0.1047)
    ),
    "top_k, p=4": World(
        Row(0.919, 0.0086, 0.835, 0.0062, 0.003, 0.0196), Row(0.947, 0.0055, 0.832, 0.0213, 0.002, 0.0372)
    ),
    "p=3, linear": World(Row(0.92, 0.0062, 0.783, 0.0264, 0.023, 0.211), Row(0.846, 0.0043, BEFORE, 0.0, 0.0023, 0.0)),
    "p=1, p=2": World(Row(0.882, 0.01, 0.909, 0.0289, 0.0101, 0.016), Row(0.9, 0.0059, 0.9, 0.006, 0.0209, 0.0269)),
}
"""Rows of a study of three searches a method: what varies most are the searches."""

SEARCHED_SIZES = ((3, 3), (5, 3))
"""Searches, and seeds of each, as there; with as many test images and source queries."""

SEARCHED_IMAGES = (500, 5000)

SIZES = ((2, 1000), (3, 300), (3, 1000), (3, 10_000), (5, 1000), (10, 300), (10, 10_000))
"""Seeds and images."""

LARGEST = SIZES[-1]


class Draws:
    """One drawn launch: what two rows have answered, of searches with so many seeds each.

    Args:
        images: of the target and of the source.
    """

    def __init__(
        self, world: World, seeds: int, images: tuple[int, int], rng: np.random.Generator, searches: int = 1
    ) -> None:
        self._world, self._rng, self._shape = world, rng, (searches, seeds)
        common = {domain: self._normal(n) for domain, n in zip(DOMAINS, images, strict=True)}
        of_seeds = self._effects(searches * seeds, SAME_SEED, TRADE)
        of_searches = np.repeat(self._effects(searches, SAME_SEARCH, SEARCH_TRADE), seeds, axis=1)
        hard = self._difficulty(common["source"])
        own = np.sqrt(1 - world.image) * self._normal(images[1])
        self.before = np.repeat(_right(BEFORE, np.sqrt(world.image) * hard + own)[None], searches * seeds, axis=0)
        self.rows = []
        for row in (world.first, world.second):
            effects = [(of_searches[place], of_seeds[place]) for place in (2 * len(self.rows), 2 * len(self.rows) + 1)]
            pairs = zip(DOMAINS, effects, strict=True)
            self.rows.append(self._outcome({name: self._answers(row, name, common[name], own) for name, own in pairs}))

    def _normal(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape, dtype=np.float32)

    def _difficulty(self, common: Array) -> Array:
        mixed: Array = np.sqrt(SAME_IMAGE) * common + np.sqrt(1 - SAME_IMAGE) * self._normal(len(common))
        return mixed

    def _effects(self, count: int, same: float, trade: float) -> Array:
        """Standard normal effects on both rows' target and source, ``[4, count]``."""
        factor = np.linalg.cholesky(np.kron([[1, same], [same, 1]], [[1, trade], [trade, 1]])).astype(np.float32)
        drawn: Array = factor @ self._normal(4, count)
        return drawn

    def _answers(self, row: Row, domain: str, common: Array, effects: tuple[Array, Array]) -> NDArray[np.bool_]:
        accuracy = getattr(row, domain)
        stds = getattr(row, f"{domain}_search"), getattr(row, f"{domain}_std")
        if not any(stds):
            return self.before
        density = np.exp(-(special.ndtri(accuracy) ** 2) / 2) / np.sqrt(2 * np.pi)
        parts = [(std / density) ** 2 for std in stds]  # of the latent variance 1
        of_image = self._world.image * (1 - sum(parts))
        latent = self._normal(len(effects[0]), len(common))
        latent *= np.float32(np.sqrt(1 - sum(parts) - of_image))
        latent += np.float32(np.sqrt(of_image)) * self._difficulty(common)
        for part, effect in zip(parts, effects, strict=True):
            latent += np.float32(np.sqrt(part)) * effect[:, None]
        return _right(accuracy, latent)

    def _outcome(self, right: Mapping[str, NDArray[np.bool_]]) -> Outcome:
        searches, seeds = self._shape
        tables = [right["target"], right["source"], self.before]
        answers = {
            name: Answered(table.mean(axis=1), table.shape[1], name.replace("before", "source"), table)
            for name, table in zip(NAMES, tables, strict=True)
        }
        if searches == 1:
            return Outcome(tuple(range(seeds)), answers)
        groups = [list(range(seeds * search, seeds * (search + 1))) for search in range(searches)]
        averaged = {name: own.averaged(groups) for name, own in answers.items()}
        return Outcome(tuple(-1 - search for search in range(searches)), averaged)

    def estimates(self) -> Iterator[tuple[str, Estimate, float]]:
        """Every quantity: its name, its estimate, the truth."""
        (a, b), first, second = self.rows, self._world.first, self._world.second
        yield "target", a.estimate("target_accuracy"), first.target
        yield "source", a.estimate("source_accuracy"), first.source
        yield "forgetting", a.estimate("forgetting"), BEFORE - first.source
        means = [(row.target + row.source) / 2 for row in (first, second)]
        yield "MEAN", a.estimate("mean"), means[0]
        yield "difference of targets", difference(a, b, "target_accuracy"), first.target - second.target
        yield "difference of MEANs", difference(a, b, "mean"), means[0] - means[1]


def _right(accuracy: float, latent: Array) -> NDArray[np.bool_]:
    """Right where a standard normal latent number is above what so many are above."""
    right: NDArray[np.bool_] = latent > -special.ndtri(accuracy)
    return right


def coverage(
    world: World, seeds: int, images: tuple[int, int], *, repeats: int, searches: int = 1
) -> dict[str, tuple[float, float]]:
    """How often the 95 % intervals hold the truth, in percent, and their mean width in points, by quantity."""
    rng = np.random.default_rng([0, searches, seeds, *images])
    held: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(repeats):
        for name, estimate, truth in Draws(world, seeds, images, rng, searches).estimates():
            low, high = estimate.interval()
            held.setdefault(name, []).append((low - 1e-12 <= truth <= high + 1e-12, high - low))
    found = {name: np.mean(pairs, axis=0) for name, pairs in held.items()}
    return {name: (100 * float(share), 100 * float(width)) for name, (share, width) in found.items()}


def joint(
    world: World, seeds: int, images: tuple[int, int], *, repeats: int, searches: int = 1
) -> list[tuple[float, float]]:
    """How often a row's 95 % region, and its hypervolume's interval, hold the truth, in percent; of both rows."""
    rng = np.random.default_rng([1, searches, seeds, *images])
    held = np.zeros((2, 2))
    for _ in range(repeats):
        rows = Draws(world, seeds, images, rng, searches).rows
        draws = FrontDraws.of(rows, 2000)
        volumes = hypervolumes(rows, ["a", "b"], draws)
        regions = draws.regions()
        for place, row in enumerate((world.first, world.second)):
            truth = np.array([row.target, row.source])
            held[place] += holds(regions[place], 100 * (truth - draws.found[:, place])), _within(volumes[place], truth)
    return [(float(region), float(volume)) for region, volume in 100 * held / repeats]


def holds(region: Region, off: NDArray[np.float64]) -> bool:
    """Whether a region holds what lies so many points from its row."""
    sides = ((region.target_below, region.target_above), (region.source_below, region.source_above))
    x, y = (
        0.0 if abs(own) < 1e-9 else own / max(side[int(own > 0)], 1e-12) for own, side in zip(off, sides, strict=True)
    )
    return bool(x * x - 2 * region.correlation * x * y + y * y <= 1 - region.correlation**2)


def _within(volume: Hypervolume, truth: NDArray[np.float64]) -> bool:
    assert volume.low is not None
    assert volume.high is not None
    return bool(volume.low - 1e-9 <= 100 * truth.prod() <= volume.high + 1e-9)


HEAD = "target | source | forgetting | MEAN | target A − B | MEAN A − B |"


def main() -> None:
    """Print Markdown tables: coverage in percent for every world and size, of seeds, and of repeated searches."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=600, help="launches; a third as many of the largest ones")
    repeats = parser.parse_args().repeats
    print(f"| rows | seeds | images | {HEAD}\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, world in WORLDS.items():
        for seeds, images in SIZES:
            found = coverage(
                world, seeds, (images, images), repeats=repeats // 3 if (seeds, images) == LARGEST else repeats
            )
            print(f"| {name} | {seeds} | {images:,} | {_cells(found)} |", flush=True)
    print(f"\n| rows | searches | seeds of each | {HEAD}\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, world in SEARCHED.items():
        for searches, seeds in SEARCHED_SIZES:
            found = coverage(world, seeds, SEARCHED_IMAGES, repeats=repeats, searches=searches)
            print(f"| {name} | {searches} | {seeds} | {_cells(found)} |", flush=True)
    print(
        "\n| rows | searches | seeds of each | region A | B | hypervolume A | B |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    for name, world in (SEARCHED | WORLDS).items():
        for searches, seeds in SEARCHED_SIZES if name in SEARCHED else ((1, 3), (1, 10)):
            (region_a, volume_a), (region_b, volume_b) = joint(
                world, seeds, SEARCHED_IMAGES, repeats=repeats // 3, searches=searches
            )
            cells = " | ".join(f"{share:.1f}" for share in (region_a, region_b, volume_a, volume_b))
            print(f"| {name} | {searches} | {seeds} | {cells} |", flush=True)


def _cells(found: Mapping[str, tuple[float, float]]) -> str:
    return " | ".join(f"{share:.1f} ({width:.1f})" for share, width in found.values())


if __name__ == "__main__":
    main()
