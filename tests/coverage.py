"""What the intervals of ``bench.reporting.statistics`` cover, where the truth is known.

``python -m tests.coverage`` prints the table of docs/statistics.md (some minutes); a test runs a part of it.

Answers are drawn as of models and images on the benchmark tiny: a latent number for every seed and image, which is
right above 0, of a seed's, an image's and its own part. Rows share most of what makes an image hard, and a little of
what a seed does; a seed that learns more forgets more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.reporting.statistics import Estimate, of_answers

Array = NDArray[np.float32]

BEFORE = 0.952
"""Source accuracy of the untouched backbone."""

SAME_IMAGE, SAME_SEED, TRADE = 0.8, 0.3, -0.3
"""Correlations: of an image's difficulty for two rows, of a seed's effect on two rows, on target and source."""


@dataclass(frozen=True)
class Row:
    """The truth of a row: accuracies, and the deviation of the seeds' (shares; 0 of the source: it is not changed)."""

    target: float
    target_std: float
    source: float
    source_std: float


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

SIZES = ((3, 300), (3, 1000), (3, 10_000), (5, 1000), (10, 300), (10, 10_000))
"""Seeds and images."""


class Draws:
    """One drawn launch: answers ``[seeds, images]`` of two rows on two domains, and of the untouched backbone."""

    def __init__(self, world: World, seeds: int, images: int, rng: np.random.Generator) -> None:
        self._world, self._rng, self._shape = world, rng, (seeds, images)
        common = {domain: self._normal(images) for domain in ("target", "source")}
        effects = self._seed_effects()
        hard = self._difficulty(common["source"])
        own = np.sqrt(1 - world.image) * self._normal(images)
        self.before = _right(BEFORE, np.sqrt(world.image) * hard + own)[None]
        self.rows = [
            {domain: self._answers(row, domain, common[domain], effects[index][domain]) for domain in common}
            for index, row in enumerate((world.first, world.second))
        ]

    def _normal(self, *shape: int) -> Array:
        return self._rng.standard_normal(shape, dtype=np.float32)

    def _difficulty(self, common: Array) -> Array:
        mixed: Array = np.sqrt(SAME_IMAGE) * common + np.sqrt(1 - SAME_IMAGE) * self._normal(len(common))
        return mixed

    def _seed_effects(self) -> list[dict[str, Array]]:
        """Standard normal effects of every seed on both rows and domains."""
        across_rows = np.array([[1, SAME_SEED], [SAME_SEED, 1]])
        across_domains = np.array([[1, TRADE], [TRADE, 1]])
        factor = np.linalg.cholesky(np.kron(across_rows, across_domains)).astype(np.float32)
        drawn = factor @ self._normal(4, self._shape[0])
        return [{"target": drawn[2 * index], "source": drawn[2 * index + 1]} for index in range(2)]

    def _answers(self, row: Row, domain: str, common: Array, effect: Array) -> NDArray[np.float64]:
        accuracy, std = getattr(row, domain), getattr(row, f"{domain}_std")
        if std == 0:
            return np.repeat(self.before, self._shape[0], axis=0)
        density = np.exp(-(special.ndtri(accuracy) ** 2) / 2) / np.sqrt(2 * np.pi)
        of_seed = (std / density) ** 2  # of the latent variance 1
        of_image = self._world.image * (1 - of_seed)
        latent = self._normal(*self._shape)
        latent *= np.float32(np.sqrt(1 - of_seed - of_image))
        latent += np.float32(np.sqrt(of_image)) * self._difficulty(common)
        latent += np.float32(np.sqrt(of_seed)) * effect[:, None]
        return _right(accuracy, latent)

    def estimates(self) -> Iterator[tuple[str, Estimate, float]]:
        """Every quantity: its name, its estimate, the truth."""
        (a, b), first, second = self.rows, self._world.first, self._world.second
        yield "target", of_answers([a["target"]], shares=True), first.target
        yield "source", of_answers([a["source"]], shares=True), first.source
        yield "forgetting", of_answers([self.before - a["source"]], shares=False), BEFORE - first.source
        means = [(row.target + row.source) / 2 for row in (first, second)]
        yield "MEAN", of_answers([a["target"] / 2, a["source"] / 2], shares=True), means[0]
        apart = {domain: a[domain] - b[domain] for domain in a}
        yield "difference of targets", of_answers([apart["target"]], shares=False), first.target - second.target
        halves = [values / 2 for values in apart.values()]
        yield "difference of MEANs", of_answers(halves, shares=False), means[0] - means[1]


def _right(accuracy: float, latent: Array) -> NDArray[np.float64]:
    """Right where a standard normal latent number is above what so many are above."""
    return (latent > -special.ndtri(accuracy)).astype(np.float64)


def coverage(world: World, seeds: int, images: int, *, repeats: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """How often the 95 % intervals hold the truth, in percent, and their mean width in points, by quantity."""
    rng = np.random.default_rng([seed, seeds, images])
    held: dict[str, list[tuple[bool, float]]] = {}
    for _ in range(repeats):
        for name, estimate, truth in Draws(world, seeds, images, rng).estimates():
            low, high = estimate.interval()
            held.setdefault(name, []).append((low - 1e-12 <= truth <= high + 1e-12, high - low))
    found = {name: np.mean(pairs, axis=0) for name, pairs in held.items()}
    return {name: (100 * float(share), 100 * float(width)) for name, (share, width) in found.items()}


def main() -> None:
    """Print a Markdown table: coverage in percent for every world, number of seeds and of images."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    print("| world | seeds | images | target | source | forgetting | MEAN | target A − B | MEAN A − B |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, world in WORLDS.items():
        for seeds, images in SIZES:
            found = coverage(world, seeds, images, repeats=repeats)
            cells = [f"{share:.1f} ({width:.1f})" for share, width in found.values()]
            print(f"| {name} | {seeds} | {images:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
