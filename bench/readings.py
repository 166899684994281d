"""Readings: what was measured, when, on what, and how; and the scores that are read off them.

A *reading* is one measurement of a model: after some optimizer step (0: the untouched backbone), on a split of a
domain, by a probe. A record holds its trial's readings; the flat names that people know (``target_accuracy``,
``val_forgetting``, ...) are views of them, made here and nowhere else.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bench.spec import Name, Phase

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD, KNN = "head", "knn"
"""A probe is the model's own classification head, or weighted k-NN of the backbone's features."""

VAL = "val_"
"""This stands in front of the flat names of what chooses: a search trial's scores, and readings while training."""

EQUAL = 1e-6
"""Percentages that differ by no more are the same: rounding may do that."""

Percent = Annotated[float, Field(ge=0, le=100)]


class Answers(BaseModel):
    """Which images of a split a model got right (top-1, at the headline's k), one bit each, and their classes.

    They stay in the reading whose accuracy they make: 10,000 images take 1.7 kB, and whatever keeps, moves or checks a
    record does the same with them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    images: str
    """Identity of the images in their order (:meth:`bench.data.Split.identity`)."""
    right: str
    """Bits in base64; the first image is the highest bit of the first byte, and the last byte is filled up with 0."""
    classes: str | None = None
    """The class that each image has, by number (see :func:`packed_classes`).

    None where that was not kept. Of a source's queries it is kept with the untouched backbone's answers, and holds for
    all readings of the same ``images``.
    """
    called: str | None = None
    """The class that a head gave each image, likewise."""

    @classmethod
    def of(cls, images: str, right: NDArray[np.bool_]) -> Answers:
        """Answers to some images, bool ``[n]``."""
        return cls(images=images, right=packed(right))

    def labels(self, n: int) -> NDArray[np.int64] | None:
        """True class of each of the n images, int64 ``[n]``; None where that was not kept.

        Raises:
            ValueError: they are not those of n images.
        """
        return None if self.classes is None else _unpacked_classes(self.classes, n)

    def confusion(self, n: int) -> NDArray[np.int64] | None:
        """True and given class of each of the n images, int64 ``[2, n]``; None where the given one was not kept.

        Raises:
            ValueError: they are not those of n images with these answers, or the true ones were not kept.
        """
        import numpy as np

        true = self.labels(n)
        if self.called is None:
            return None
        if true is None:
            raise ValueError("answers hold called without classes: they belong together")
        pairs = np.stack([true, _unpacked_classes(self.called, n)])
        if not np.array_equal(pairs[0] == pairs[1], self.array(n)):
            raise ValueError("answers.called contradicts answers.right")
        return pairs

    def array(self, n: int) -> NDArray[np.bool_]:
        """Whether each of the n images was right, bool ``[n]``."""
        import numpy as np

        return np.unpackbits(np.frombuffer(self._bytes(), np.uint8), count=n).astype(np.bool_)

    def _bytes(self) -> bytes:
        try:
            return base64.b64decode(self.right, validate=True)
        except ValueError as error:
            raise ValueError(f"answers.right is not base64: {error}") from None

    def accuracy(self, n: int) -> float:
        """Share of the n images that are right, in percent.

        Raises:
            ValueError: these are not the answers to n images.
        """
        held, spare = self._bytes(), -n % 8
        bits = int.from_bytes(held, "big")
        if n == 0 or len(held) != (n + 7) // 8 or bits & ((1 << spare) - 1):
            raise ValueError(f"answers.right does not hold the answers to n = {n} images")
        return 100 * bits.bit_count() / n


def packed(right: NDArray[np.bool_]) -> str:
    """Bits as :attr:`Answers.right` has them."""
    import numpy as np

    return base64.b64encode(np.packbits(right).tobytes()).decode()


def packed_classes(numbers: NDArray[np.integer[Any]]) -> str:
    """Class numbers below 65,536, ``[n]``, as a record has them: two bytes each, little-endian, zlib and base64.

    10,000 images of 100 classes take 12 kB.

    Raises:
        ValueError: a number is not of two bytes.
    """
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < 2**16:
        raise ValueError(f"records hold class numbers from 0 to 65,535, and not {numbers.min()} to {numbers.max()}")
    return base64.b64encode(zlib.compress(numbers.astype("<u2").tobytes(), 9)).decode()


def _unpacked_classes(text: str, n: int) -> NDArray[np.int64]:
    import numpy as np

    unpacking = zlib.decompressobj()
    try:
        held = unpacking.decompress(base64.b64decode(text, validate=True), 2 * n + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the classes of answers are not packed as they should be: {error}") from None
    if len(held) != 2 * n or not unpacking.eof:
        raise ValueError(f"answers do not hold the classes of n = {n} images")
    return np.frombuffer(held, "<u2").astype(np.int64)


class Reading(BaseModel):
    """One measurement of one model; its key is (step, split, domain, probe, variant)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps that the model had seen; 0 is the untouched backbone."""
    split: Literal["val", "test"]
    domain: Literal["target", "source"]
    probe: str
    variant: Name | None = None
    """Which of the models that a method makes of the trained one (:meth:`bench.methods.Method.after`); None: itself."""
    n: Annotated[int, Field(ge=1)] | None
    """Images that were measured; None where that was not written down (records of schema 1)."""
    settings: dict[str, int] = Field(default_factory=dict)
    """What else the numbers depend on: ``k`` of the headline and the size of the ``bank``, for k-NN."""
    numbers: dict[str, Percent]
    """In percent: ``top1``, ``top5``, and those at other settings, such as ``k=10 top1``."""
    answers: Answers | None = None
    """Which of the n images were right; kept of what a confirmed trial is judged by (None: not kept)."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """What comes first is among the first five, the headline is the number at its k, and the answers' share."""
        for name, value in self.numbers.items():
            top5 = self.numbers.get(name.removesuffix("top1") + "top5", 100.0) if name.endswith("top1") else 100.0
            if value > top5 + EQUAL:
                raise ValueError(f"{name} = {value} is more than {top5} among the first five")
        k = self.settings.get("k")
        for top in ("top1", "top5"):
            at_k, headline = self.numbers.get(f"k={k} {top}"), self.numbers.get(top)
            if at_k is not None and headline is not None and abs(at_k - headline) > EQUAL:
                raise ValueError(f"{top} = {headline} contradicts k={k} {top} = {at_k}")
        if self.answers is not None:
            share, top1 = self.answers.accuracy(self.n or 0), self.numbers.get("top1")
            if top1 is None or abs(share - top1) > EQUAL:
                raise ValueError(f"top1 = {top1} contradicts answers, of which {share} percent are right")
            self.answers.confusion(self.n or 0)
        return self

    @property
    def key(self) -> tuple[int, str, str, str, str | None]:
        """What tells it from the other readings of a trial."""
        return (self.step, self.split, self.domain, self.probe, self.variant)

    @property
    def name(self) -> str:
        """Its key in words, for tables: ``source test knn``, ``source test knn before``."""
        parts = [self.domain, self.split, self.probe, "before" if self.step == 0 else None, self.variant]
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class Point:
    """What a running trial reports: a point of its curves. All ranks report the same numbers.

    ``values`` holds what training itself knows: ``train_loss`` and ``lr``.
    """

    step: int
    steps: int
    values: Mapping[str, float]
    readings: Sequence[Reading] = field(default=())


SCORES = ("target_accuracy", "source_accuracy", "source_accuracy_before", "forgetting", "mean")
"""Readings are summed up to these, all in percent."""

FLAT = (*SCORES, *(VAL + name for name in SCORES))
"""The flat names of a record: a confirmation has the first half, a search trial the second."""


def scores(
    readings: Iterable[Reading], *, split: str | None = None, step: int | None = None, variant: str | None = None
) -> dict[str, float]:
    """Scores of a model, as far as readings tell them.

    ``forgetting = source_accuracy_before - source_accuracy``; ``mean = (target_accuracy + source_accuracy) / 2``.

    Args:
        readings: of one trial; of several of a kind the last one counts.
        split: that counts; all if None.
        step: the model's; the last one that was measured if None.
        variant: see :attr:`Reading.variant`.
    """
    chosen = {
        (reading.domain, reading.probe, reading.step == 0): reading.numbers["top1"]
        for reading in sorted(readings, key=lambda reading: reading.step)
        if split in (None, reading.split)
        and (reading.step == 0 or (reading.variant == variant and step in (None, reading.step)))
    }
    named = {
        "target_accuracy": chosen.get(("target", HEAD, False)),
        "source_accuracy": chosen.get(("source", KNN, False)),
        "source_accuracy_before": chosen.get(("source", KNN, True)),
    }
    return with_derived({name: value for name, value in named.items() if value is not None})


def with_derived(measured: Mapping[str, float]) -> dict[str, float]:
    """The measured scores, with forgetting and mean as far as they follow from them."""
    target, source, before = (measured.get(name) for name in SCORES[:3])
    derived = dict(measured)
    if source is not None and before is not None:
        derived["forgetting"] = before - source
    if source is not None and target is not None:
        derived["mean"] = (target + source) / 2
    return derived


def flat(named: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """Scores by the flat names that they have in a phase: ``val_`` in front of a search trial's."""
    prefix = VAL if phase == "search" else ""
    return {prefix + name: value for name, value in named.items()}


def curve(point: Point) -> dict[str, float]:
    """All numbers of a point by name, as curves are called; what is read while training always chooses."""
    return {**point.values, **flat(scores(point.readings), "search")}


def of_schema_1(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Readings of a record of schema 1, whose measurements were the flat names and nested details."""
    phase: Phase = values.get("phase", "confirm")
    details = values.get("details") or {}
    images = details.get("images") or {}
    split = "val" if phase == "search" else "test"
    given = {name: values.get(flat_name) for name in SCORES for flat_name in flat({name: None}, phase)}
    step = details.get("kept_step", values.get("steps", 0))
    readings = []
    if given["target_accuracy"] is not None:
        numbers = {"top1": given["target_accuracy"]}
        numbers |= {"top5": details["target_top5"]} if "target_top5" in details else {}
        measured = "test" if values.get("protocol") == "paper" else split
        counted = {"n": images.get(f"target_{measured}"), "numbers": numbers}
        readings.append({"step": step, "split": measured, "domain": "target", "probe": HEAD, **counted})
    for name, at, by_k in (("source_accuracy_before", 0, "knn_before"), ("source_accuracy", step, "knn")):
        top1 = given[name]
        if top1 is not None:
            reading = _knn_of_schema_1(top1, details.get(by_k) or {}, images)
            readings.append({"step": at, "split": split, "domain": "source", "probe": KNN, **reading})
    return readings


def _knn_of_schema_1(top1: float, by_k: Mapping[str, Mapping[str, float]], images: Mapping[str, int]) -> dict[str, Any]:
    settings = {"bank": images["source_bank"]} if "source_bank" in images else {}
    accuracies = {int(k): (both["top1"], both["top5"]) for k, both in by_k.items()}
    headline = headline_of(accuracies) if accuracies else None
    settings |= {} if headline is None else {"k": headline}
    return {
        "n": images.get("source_queries"),
        "settings": settings,
        "numbers": {**knn_numbers(accuracies), "top1": top1},
    }


HEADLINE_K = 20
"""A k-NN accuracy that is named without its k has this one (Caron et al. 2021)."""


def headline_of(ks: Collection[int]) -> int:
    """The k of the headline: the usual one, or the largest that a small bank allows."""
    return HEADLINE_K if HEADLINE_K in ks else max(ks)


def knn_numbers(by_k: Mapping[int, tuple[float, float]]) -> dict[str, float]:
    """k-NN accuracies at every k by name, those at the headline's k without it: ``top1``, ``k=10 top1``, ..."""
    numbers: dict[str, float] = {}
    if by_k:
        numbers["top1"], numbers["top5"] = by_k[headline_of(by_k)]
    for k, (top1, top5) in by_k.items():
        numbers |= {f"k={k} top1": top1, f"k={k} top5": top5}
    return numbers
