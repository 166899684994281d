"""A trial's readings: target accuracy of the head, source accuracy of the features, before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from bench import data
from bench.measuring.features import target_score
from bench.measuring.retention import SourceScore, source_score, untouched_score
from bench.methods import Method, has_variants
from bench.models import Setting, Tail, same_features, untouched
from bench.readings import HEAD, KNN, Answers, Reading, headline_of, knn_numbers, packed_classes
from bench.spec import Benchmark, Phase, Trial
from bench.training import Shared, Use, measuring_use, tensor_cores
from bench.vit import Vit

SplitName = Literal["val", "test"]

_before: dict[tuple[object, ...], SourceScore] = {}
"""Scores of untouched backbones are the same for all trials: a process looks each up once."""


def computing(benchmark: Benchmark, device: torch.device) -> AbstractContextManager[None]:
    """Forward passes within are computed in the precision that a benchmark measures in, whatever is set elsewhere."""
    return tensor_cores(device, allowed=benchmark.measure_precision == "tf32")


class Meter:
    """Takes the readings of one trial, each of them once.

    A search trial is measured on validation data, a confirmation on test data; under the paper's protocol the target is
    measured on test data either way.

    Attributes:
        notes_validation: whether a reading that chooses on test data has one on validation data beside it.
    """

    def __init__(self, trial: Trial, setting: Setting) -> None:
        """Measure nothing yet."""
        self.source_split: SplitName = "val" if trial.phase == "search" else "test"
        self.target_split: SplitName = "test" if trial.protocol == "paper" else self.source_split
        self.choosing_split: SplitName = "test" if trial.protocol == "paper" else "val"
        self.notes_validation = self.choosing_split == "test" and trial.phase == "confirm"
        self._trial, self._setting = trial, setting
        self._readings: dict[tuple[int, str, str, str, str | None], Reading] = {}
        self._shared: Shared | None = None

    def computing(self) -> AbstractContextManager[None]:
        """Forward passes within are computed in the precision that the benchmark measures in."""
        return computing(self._trial.benchmark, self._setting.device)

    def uses(self, vit: Vit, tail: Tail) -> list[Use]:
        """What the readings of a trial's model need of its frozen blocks, before training.

        Args:
            vit: the model.
            tail: what comes after the frozen blocks.
        """
        place, precision = self._setting, self._trial.benchmark.measure_precision
        way: list[SplitName] = ["val"] if self._trial.reads_on_the_way else []
        names = [self.target_split, *(self._choosing if self._trial.train.keep == "best" else []), *way]
        target = [
            measuring_use(f"target_{name}", getattr(place.target, name), place.preprocess, "logits", precision)
            for name in dict.fromkeys(names)
        ]
        if tail.whole and same_features(vit, self.untouched()):
            return target  # the source is not measured again
        source: dict[str, data.Split] = {}
        for split in dict.fromkeys([self.source_split, *way]):
            domain, queries = self._domain(split)
            of = "" if split == self.source_split else f"_{split}"
            source |= {f"source_queries{of}": queries}
            if all(domain.bank is not other for other in source.values()):
                source |= {f"source_bank{of}": domain.bank}
        return target + [
            measuring_use(name, images, place.source_preprocess, "features", precision)
            for name, images in source.items()
        ]

    @property
    def _choosing(self) -> list[SplitName]:
        """What is read of the target where the best model is kept."""
        noted: list[SplitName] = ["val"] if self.notes_validation else []
        return [self.choosing_split, *noted]

    def share(self, shared: Shared) -> None:
        """From now on compute only what comes after the frozen blocks of the trial's own model."""
        self._shared = shared

    def _shared_by(self, vit: Vit) -> Shared | None:
        return self._shared if self._shared is not None and self._shared.tail.vit is vit else None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All that was read so far, by step."""
        return tuple(sorted(self._readings.values(), key=lambda reading: reading.step))

    def know(self, readings: Iterable[Reading]) -> None:
        """Take readings of the same trial as read."""
        self._readings |= {reading.key: reading for reading in readings}

    def measure(self, vit: Vit, step: int, variant: str | None = None) -> list[Reading]:
        """All readings of a model; what was read of it already is not read again.

        Args:
            step: after which the model is as it is.
            variant: what a method has made of it, if it has.
        """
        return [
            self.target(vit, step, self.target_split, variant),
            self.before(self.source_split),
            self.source(vit, step, self.source_split, variant),
        ]

    def measure_on_the_way(self, vit: Vit, step: int) -> list[Reading]:
        """All readings of a model before the end of its training, on validation data in either phase.

        A confirmation reads as much of the source then as a search trial does.
        """
        return [self.target(vit, step, "val"), self.before("val"), self.source(vit, step, "val")]

    def measure_all(self, vit: Vit, step: int, method: Method) -> None:
        """Measure a trained model, and the models that its method makes of it."""
        self.measure(vit, step)
        if has_variants(method):
            for name, variant in method.after(vit, self.untouched()):
                self.measure(variant, step, name)

    def target(self, vit: Vit, step: int, split: SplitName, variant: str | None = None) -> Reading:
        """Top-1 and top-5 accuracy of the model's own head."""
        key = (step, split, "target", HEAD, variant)
        if key not in self._readings:
            images = getattr(self._setting.target, split)
            place, shared = self._setting, self._shared_by(vit)
            with self.computing():
                score = target_score(vit, images, place.preprocess, place.device, shared)
            self._keep(key, images, score.answers, {"top1": score.top1, "top5": score.top5})
        return self._readings[key]

    def source(self, vit: Vit, step: int, split: SplitName, variant: str | None = None) -> Reading:
        """Weighted k-NN accuracy of the features."""
        key = (step, split, "source", KNN, variant)
        if key not in self._readings:
            self._keep_score(key, self._source_score(vit, split))
        return self._readings[key]

    def before(self, split: SplitName) -> Reading:
        """The same of the untouched backbone, as step 0."""
        key = (0, split, "source", KNN, None)
        if key not in self._readings:
            _, queries = self._domain(split)
            judged = self._is_judged_by(split)
            told = {"classes": packed_classes(queries.labels.numpy())} if judged else {}
            self._keep_score(key, self._score_before(split), **told)
        return self._readings[key]

    def images(self) -> dict[str, Any]:
        """How many images the numbers come from, and what is to be known of the files that they lie in.

        Beside the number of images of every split: ``skipped``, how many cannot be read; ``per_class``, images of each
        class (of a source: of its smallest and largest); ``source_classes``, of a confirmation the names of the
        source's classes; ``identity``, a text that is the same for the same images in the same order; ``left_out``,
        files that do not count, by reason; ``identical``, files with the content of one in another split, None if too
        many to look.
        """
        target, source = self._setting.target, self._setting.source
        learned, domain = (target.train, target.val, target.test), (source.bank, source.val, source.test)
        splits = {
            "target_train": target.train,
            f"target_{self.target_split}": getattr(target, self.target_split),
            "source_bank": source.bank,
            "source_queries": getattr(source, self.source_split),
        }
        names = target.class_names or [str(label) for label in range(target.num_classes)]
        same = {"target": data.identical(*learned), "source": data.identical(*domain)}
        of_source = list(source.class_names) if self._trial.phase == "confirm" else []
        return {
            **{name: len(split) for name, split in splits.items()},
            "skipped": len(data.skipped(*splits.values())),
            "per_class": {
                name: _by_name(names, split) if name.startswith("target") else _least_and_most(split)
                for name, split in splits.items()
            },
            **({"source_classes": of_source} if of_source else {}),
            "identity": {name: split.identity() for name, split in splits.items()},
            "left_out": dict(data.left_out(*learned, *domain)),
            "identical": {name: None if pairs is None else len(pairs) for name, pairs in same.items()},
        }

    def _domain(self, split: SplitName) -> tuple[data.Source, data.Split]:
        """The source that is read with a split's queries, and these."""
        place = self._setting
        source = place.source if split == self.source_split else place.on_the_way
        queries: data.Split = getattr(source, split)
        return source, queries

    def untouched(self) -> Vit:
        """The backbone as it was before any training."""
        return untouched(self._trial.benchmark.backbone, self._setting.device)

    def _score_before(self, split: SplitName) -> SourceScore:
        benchmark, place = self._trial.benchmark, self._setting
        phase: Phase = "search" if split == "val" else "confirm"
        key = (benchmark.backbone, benchmark.source, benchmark.measure_precision, phase, place.device)
        if key not in _before:
            domain, queries = self._domain(split)
            with self.computing():
                _before[key] = untouched_score(self.untouched(), domain, queries, place.source_preprocess, place.device)
        return _before[key]

    def _source_score(self, vit: Vit, split: SplitName) -> SourceScore:
        if same_features(vit, self.untouched()):
            return self._score_before(split)  # the same weights give the same features: nothing is to be measured again
        domain, queries = self._domain(split)
        place, shared = self._setting, self._shared_by(vit)
        with self.computing():
            return source_score(vit, domain, queries, place.source_preprocess, place.device, shared)

    def _keep_score(self, key: tuple[int, Any, Any, str, str | None], score: SourceScore, **answers: str) -> None:
        domain, queries = self._domain(key[1])
        settings = {"bank": len(domain.bank), "k": headline_of(score.by_k)}
        self._keep(key, queries, {"right": score.right, **answers}, knn_numbers(score.by_k), settings)

    def _keep(
        self,
        key: tuple[int, Any, Any, str, str | None],
        images: data.Split,
        answers: Mapping[str, str],
        numbers: dict[str, float],
        settings: dict[str, int] | None = None,
    ) -> None:
        step, split, domain, probe, variant = key
        self._readings[key] = Reading(
            step=step,
            split=split,
            domain=domain,
            probe=probe,
            variant=variant,
            n=len(images),
            settings=settings or {},
            numbers=numbers,
            answers=Answers(images=images.identity(), **answers) if self._is_judged_by(split) else None,
        )

    def _is_judged_by(self, split: str) -> bool:
        """Whether a leaderboard shows what is read there: only of that it is kept which images were right."""
        return self._trial.phase == "confirm" and split == "test"


def _by_name(names: Sequence[str], split: data.Split) -> dict[str, int]:
    return dict(zip(names, data.counts(split, len(names)), strict=True))


def _least_and_most(split: data.Split) -> dict[str, int]:
    counts = data.counts(split)
    return {"classes": len(counts), "least": min(counts), "most": max(counts)}
