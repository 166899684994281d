"""A trial's setting: everything that it looks up by name, looked up once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench import data
from bench.data import InFiles, Source, Target
from bench.models.preprocess import Preprocess, preprocess
from bench.spec import Benchmark, Phase, Size, Trial

PAPER_NORM = (0.5, 0.5, 0.5)
"""arXiv 2404.17245 fine-tuned with this mean and deviation, whatever the backbone was trained with, and tested on
pictures that were squashed to the backbone's size, whatever shape they have."""


@dataclass(frozen=True)
class Setting:
    """Data sets at the backbone's resolution, in the size that the trial's phase reads, and where it runs.

    ``preprocess`` makes the model's input of the target's images, ``source_preprocess`` of the source's: the paper's
    protocol fine-tunes with a normalisation of its own, and on pictures that are squashed instead of cropped.
    """

    target: Target
    source: Source
    on_the_way: Source
    """What readings before the end look at: as much of the source as a search trial reads, whatever the phase is."""
    preprocess: Preprocess
    source_preprocess: Preprocess
    device: torch.device

    @classmethod
    def of(cls, trial: Trial, device: torch.device) -> Setting:
        """Look up what a trial needs.

        Raises:
            SpecError: a data set or the backbone's preprocessing cannot be had.
        """
        own = preprocess(trial.benchmark.backbone)
        learned = own
        if trial.papers_preprocess:
            learned = replace(own, mean=PAPER_NORM, std=PAPER_NORM, crop_mode="squash", crop_pct=1.0)
        target = target_of(trial.benchmark, learned.files)
        source = source_of(trial.benchmark, trial.phase, own.files)
        sizes = [trial.benchmark.source.size(phase) for phase in ("search", trial.phase)]
        other = trial.reads_on_the_way and sizes[0] != sizes[1]
        return cls(
            target=target,
            source=source,
            on_the_way=source_of(trial.benchmark, "search", own.files) if other else source,
            preprocess=replace(learned, whole=not isinstance(target.test, InFiles)),
            source_preprocess=own,
            device=device,
        )


def target_of(benchmark: Benchmark, size: Size) -> Target:
    """A benchmark's target, at its backbone's resolution."""
    own = benchmark.target
    return data.target(
        own.name, size=size, samples=own.samples, bad_images=own.bad_images, keep_decoded=own.keep_decoded
    )


def source_of(benchmark: Benchmark, phase: Phase, size: Size) -> Source:
    """A benchmark's source, at its backbone's resolution, in the size that a phase reads."""
    own = benchmark.source
    per_class, queries = own.size(phase)
    return data.source(
        own.name,
        size=size,
        per_class=per_class,
        queries=queries,
        bad_images=own.bad_images,
        keep_decoded=own.keep_decoded,
    )
