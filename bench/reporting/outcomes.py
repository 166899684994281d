"""Outcomes: what the records of a row say, image by image where they do, and the estimates that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.readings import HEAD, KNN, Reading
from bench.records import Record
from bench.reporting.statistics import Array, Estimate, Images, Seeds, changed, of_answers, one_answer

NAMES = ("target", "source", "before")
DOMAINS = {HEAD: "target", KNN: "source"}
"""Accuracies of the trained model are read on these; ``before`` is the untouched backbone's on the source."""

WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "target_accuracy": {"target": 1.0},
    "source_accuracy": {"source": 1.0},
    "forgetting": {"before": 1.0, "source": -1.0},
    "mean": {"target": 0.5, "source": 0.5},
}
"""A quantity is a sum of accuracies: of the model on both domains, of the untouched backbone on the source."""


@dataclass(frozen=True)
class Answered:
    """One accuracy of a row over its seeds: shares ``[s]``, of n images that are known by ``images``.

    ``right`` is ``[s, n]``, bool, or from 0 to 1 where seeds were averaged; None where the records do not hold it for
    every seed, or for different images.
    """

    shares: Array
    n: int | None
    images: str | None = None
    right: NDArray[np.bool_] | Array | None = None

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Answered:
        """What some seeds read of the same images."""
        shares = np.array([reading.numbers["top1"] for reading in readings]) / 100
        counts, answers = {reading.n for reading in readings}, [reading.answers for reading in readings]
        n = counts.pop() if len(counts) == 1 else None
        known = {own.images if own else None for own in answers}
        images = known.pop() if len(known) == 1 else None
        if n is None or images is None:
            return cls(shares, n)
        return cls(shares, n, images, np.stack([own.array(n) for own in answers if own]))

    def of_seeds(self, places: Sequence[int]) -> Answered:
        """The same of some of the seeds."""
        right = None if self.right is None else self.right[list(places)]
        return Answered(self.shares[list(places)], self.n, self.images, right)

    def averaged(self, groups: Sequence[Sequence[int]]) -> Answered:
        """The same of groups of seeds, each with the mean of its seeds: shares ``[g]``, ``right`` float ``[g, n]``."""
        shares = np.array([self.shares[list(group)].mean() for group in groups])
        right = None
        if self.right is not None:
            right = np.stack([self.right[list(group)].mean(axis=0) for group in groups])
        return Answered(shares, self.n, self.images, right)

    @property
    def binomial(self) -> float:
        """Variance of the accuracy through its images, if nothing but the accuracy is known."""
        if not self.n:
            return 0.0
        return one_answer(self.n) if self.at_an_end else self.share * (1 - self.share) / self.n

    @property
    def share(self) -> float:
        """Mean over the seeds."""
        return float(self.shares.mean())

    @property
    def at_an_end(self) -> bool:
        """Whether every seed's answers were all right, or all wrong."""
        return self.share in (0.0, 1.0)


def of_searches(records: Sequence[Record]) -> bool:
    """Whether some records of one row are of several searches, so that these stand where otherwise seeds do.

    Of a single search, where others are still to come or have failed, the seeds are what is known.
    """
    repeats = {record.repeat for record in records}
    return len(repeats) > 1 and None not in repeats


def by_search(records: Sequence[Record]) -> list[list[int]]:
    """Places of the records of each search, where the search was repeated; otherwise each place on its own.

    Whatever a row says of itself, mean, deviation or interval, counts each of these once: a search that has lost a seed
    counts as much as the others.
    """
    if not of_searches(records):
        return [[place] for place in range(len(records))]
    repeats = [record.repeat for record in records]
    return [[place for place, one in enumerate(repeats) if one == number] for number in dict.fromkeys(repeats)]


@dataclass(frozen=True)
class Outcome:
    """What the successful seeds of a row have answered: of ``target`` and ``source``, and ``before`` on the source.

    Where the search was repeated, what varies is the search with all that follows from it, the seeds of its
    confirmation too: the searches stand where otherwise the seeds do, each with the mean of its seeds' answers.
    """

    seeds: tuple[int, ...]
    """The seeds; of repeated searches -1, -2, ..., which are never taken for seeds."""
    answers: Mapping[str, Answered]

    @classmethod
    def of(cls, records: Sequence[Record], variant: str | None = None) -> Outcome | None:
        """The outcome of successful confirmations of one configuration; None if there are none."""
        judged = [(record, own) for record in records if len(own := _judged(record, variant)) == len(NAMES)]
        read = {record.seed: own for record, own in judged}
        if not read:
            return None
        answers = {name: Answered.of([own[name] for own in read.values()]) for name in NAMES}
        counted = [record for record, _ in judged]
        if not of_searches(counted):
            return cls(tuple(read), answers)
        averaged = {name: answered.averaged(by_search(counted)) for name, answered in answers.items()}
        numbers = dict.fromkeys(record.repeat for record in counted)
        return cls(tuple(-1 - number for number in numbers if number is not None), averaged)

    @property
    def repeated(self) -> bool:
        """Whether searches stand where otherwise the seeds do."""
        return self.seeds[0] < 0

    @property
    def by_image(self) -> bool:
        """Whether it is known which images were right."""
        return all(answered.right is not None for answered in self.answers.values())

    def estimate(self, quantity: str) -> Estimate:
        """A quantity (see ``WEIGHTS``) with its uncertainty over seeds and images, as a share."""
        weights = WEIGHTS[quantity]
        shares, accuracies = min(weights.values()) > 0, self.accuracies(quantity)
        seeds = Seeds.of(accuracies)
        if self.by_image:
            tables = self.tables(quantity)
            return of_answers(tables, seeds, shares=shares, least=None if shares else _least(tables, quantity, self))
        value = float(np.sum([weight * own.mean() for weight, own in accuracies]))
        images = tuple(self._approximate(weights))
        counted = self._same_features(weights) or all(self.answers[name].n is not None for name in weights)
        return Estimate(value, images, seeds, share=shares, counted=counted)

    def accuracies(self, quantity: str) -> list[tuple[float, Array]]:
        """The accuracies whose sum a quantity is: weight, and shares of the seeds, ``[s]``."""
        return [(weight, self.answers[name].shares) for name, weight in WEIGHTS[quantity].items()]

    def tables(self, quantity: str) -> list[Array]:
        """The weighted answers that make a quantity, ``[seeds, images]``, one table a data set; needs ``by_image``."""
        tables: dict[bool, Array] = {}
        for name, weight in WEIGHTS[quantity].items():
            right = self.answers[name].right
            assert right is not None
            of_target = name == "target"
            tables[of_target] = tables.get(of_target, np.zeros(right.shape)) + weight * right
        return list(tables.values())

    def _approximate(self, weights: Mapping[str, float]) -> list[Images]:
        """What images contribute by the binomial distribution; of a difference, as if its images were not the same."""
        if self._same_features(weights):
            return [Images(0.0, self.answers["source"].n or 0)]
        parts = [(own, weight) for name, weight in weights.items() if (own := self.answers[name]).n]
        if min(weights.values()) > 0:
            return [Images(own.binomial, own.n or 0, own.share, weight) for own, weight in parts]
        return [Images(own.binomial, own.n or 0) for own, _ in parts]

    def _same_features(self, weights: Mapping[str, float]) -> bool:
        """Whether a quantity is forgetting, and source accuracies equal the untouched backbone's in every seed: they
        are of the same features then, and no image can change that.
        """
        return "before" in weights and bool((self.answers["before"].shares == self.answers["source"].shares).all())


def _judged(record: Record, variant: str | None) -> dict[str, Reading]:
    """The readings that a confirmation is judged by, as far as there are any."""
    test = [reading for reading in record.readings if reading.split == "test"]
    ended = [reading for reading in test if (reading.step, reading.variant) == (record.measured_step, variant)]
    found = {DOMAINS[reading.probe]: reading for reading in ended if reading.probe in DOMAINS}
    before = [reading for reading in test if (reading.step, reading.probe) == (0, KNN)]
    return found | ({"before": before[0]} if before else {})


def counted_in(first: Outcome, second: Outcome) -> str:
    """What more of would tell two rows apart: ``seeds``, ``searches``, or either where the rows differ in it."""
    return " or ".join(sorted({"searches" if outcome.repeated else "seeds" for outcome in (first, second)}))


def of_one_seed(*outcomes: Outcome) -> bool:
    """Whether one of some rows has a single seed, or search, which does not say how much these differ."""
    return min(len(outcome.seeds) for outcome in outcomes) < 2


def one_of(counted: str) -> str:
    """The singular of what :func:`counted_in` says."""
    return counted.replace("seeds", "seed").replace("searches", "search")


def same_images(first: Outcome, second: Outcome, quantity: str) -> bool:
    """Whether both are known to have answered the same images of all that a quantity depends on."""
    pairs = [(first.answers[name], second.answers[name]) for name in WEIGHTS[quantity]]
    return all((one.images, one.n) == (other.images, other.n) and one.images is not None for one, other in pairs)


def different_images(first: Outcome, second: Outcome, quantity: str) -> str | None:
    """The data set (``target`` or ``source``) of which two rows are known to have answered different images, if any."""
    for name in WEIGHTS[quantity]:
        one, other = first.answers[name], second.answers[name]
        known = None not in (one.images, other.images) and one.images != other.images
        if known or (None not in (one.n, other.n) and one.n != other.n):
            return "target" if name == "target" else "source"
    return None


def alike(first: Outcome, second: Outcome) -> tuple[Outcome, Outcome]:
    """Two rows over the seeds, or searches, that both have; over all of their own if they do not share two of them."""
    common = sorted(set(first.seeds) & set(second.seeds))
    if len(common) < 2 and first.seeds != second.seeds:
        return first, second
    return of_seeds(first, common), of_seeds(second, common)


def difference(first: Outcome, second: Outcome, quantity: str) -> Estimate:
    """First minus second: paired by images where they are known to be the same, by seeds where both have two or more.

    Seeds that only one of them has do not count then (see :func:`alike`). Without images in common each has its own
    uncertainty.
    """
    first, second = alike(first, second)
    if not same_images(first, second, quantity):
        return _apart(first, second, quantity)
    one, other, seeds = first.tables(quantity), second.tables(quantity), _seeds_apart(first, second, quantity)
    if first.seeds == second.seeds:
        tables = [a - b for a, b in zip(one, other, strict=True)]
    else:
        pairs = zip(one, other, strict=True)
        tables = [a.mean(axis=0, keepdims=True) - b.mean(axis=0, keepdims=True) for a, b in pairs]
    return of_answers(tables, seeds, shares=False, least=_least(tables, quantity, first, second))


def _least(tables: Sequence[Array], quantity: str, *compared: Outcome) -> list[float]:
    """What one answer changes in each table of differences: what one did; if none did it is certain that none does, but
    where all were right, or all wrong, as different models' may be by chance.
    """
    weights, found = WEIGHTS[quantity], []
    for table, of_target in zip(tables, dict.fromkeys(name == "target" for name in weights), strict=True):
        names = [name for name in weights if (name == "target") is of_target]
        at_an_end = all(outcome.answers[name].at_an_end for outcome in compared for name in names)
        found.append(changed(table) or (abs(weights[names[0]]) if at_an_end else 0.0))
    return found


def _seeds_apart(first: Outcome, second: Outcome, quantity: str) -> tuple[Seeds, ...]:
    """What the seeds contribute to a difference: paired if they are equal; of a row with one seed nothing is known."""
    one = first.accuracies(quantity)
    other = [(-weight, shares) for weight, shares in second.accuracies(quantity)]
    if first.seeds == second.seeds:
        return Seeds.of([*one, *other])
    return (*Seeds.of(one), *Seeds.of(other))


def of_seeds(outcome: Outcome, seeds: Sequence[int]) -> Outcome:
    """The same of some of its seeds."""
    places = [outcome.seeds.index(seed) for seed in seeds]
    return Outcome(tuple(seeds), {name: own.of_seeds(places) for name, own in outcome.answers.items()})


def _apart(first: Outcome, second: Outcome, quantity: str) -> Estimate:
    """The difference of two rows that are not known to have images in common; their seeds are paired if equal."""
    one, other = first.estimate(quantity), second.estimate(quantity)
    images = tuple(Images(part.weighted, part.n) for estimate in (one, other) for part in estimate.images)
    counted = one.counted and other.counted
    known = counted or not of_one_seed(first, second)  # of a row without either, no interval would hold anything
    seeds = _seeds_apart(first, second, quantity) if known else ()
    return Estimate(one.value - other.value, images, seeds, counted=counted)
