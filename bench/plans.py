"""What a launch would do, in words: rows with exact parameter counts, trials, images."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench import backbones, data, methods, studies
from bench.spec import Benchmark, Space, Study, Suite, Trial, Value


def describe(suite: Suite, benchmark: Benchmark) -> Iterator[str]:
    """The plan, line by line."""
    yield f"Benchmark: {benchmark.name} ({benchmark.summary})"
    blocks = backbones.depth(benchmark.backbone)
    yield f"           {benchmark.backbone}, {blocks} blocks: {benchmark.source.name} -> {benchmark.target.name}"
    for study in suite.studies:
        yield from _study(study, benchmark)
    count = sum(study.trials + study.confirmations for study in suite.studies)
    yield f"In all:    {count} trials of {_sizes(suite, benchmark)}"


def _study(study: Study, benchmark: Benchmark) -> Iterator[str]:
    rows = study.row_count
    yield (
        f"Study:     {study.name}: {study.trials} search trials for the best {study.objective}, then "
        f"{rows} row{'s' * (rows > 1)} x {len(study.seeds)} seeds = {study.confirmations} confirmations"
    )
    if study.trials < rows:
        yield f"           (trials = {study.trials} is less than one a row: only so many rows are tried)"
    for name, space in study.search.items():
        yield f"             {name}: {_space(space)}"
    yield from (f"             {line}" for line in _rows(study, benchmark))


def _sizes(suite: Suite, benchmark: Benchmark) -> str:
    """Steps and batch of a trial, with overrides; several of them where studies or their spaces differ."""
    trials = [trial for study in suite.studies for trial in studies.corners(study, benchmark)]
    found = dict.fromkeys(f"{trial.train.steps:,} steps x {trial.train.batch_size} images" for trial in trials)
    return " or ".join(found)


def _space(space: Space) -> str:
    if space.choices is not None:
        return "one of " + ", ".join(map(str, space.choices))
    return f"{space.low} .. {space.high}{', log scale' if space.log else ''}"


def _rows(study: Study, benchmark: Benchmark) -> Iterator[str]:
    for row in study.row_values:
        name = " ".join([study.method, *(f"{key}={value}" for key, value in row.items())])
        counts = sorted({parameters(trial) for trial in _corners(study, benchmark, row)})
        text = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        yield f"{name:<28} {text:>12} trainable parameters"


def _corners(study: Study, benchmark: Benchmark, row: dict[str, Value]) -> list[Trial]:
    """The row's trials that may differ in size: one for each combination of the method's own fields."""
    found = {str(t.fields): t for t in studies.corners(study, benchmark) if t.row == row}
    return list(found.values())


def parameters(trial: Trial) -> int:
    """Trainable parameters of a trial's model, counted on the real one."""
    benchmark = trial.benchmark
    with torch.random.fork_rng(devices=[]):
        vit = backbones.create(benchmark.backbone, num_classes=data.num_classes(benchmark.target.name))
    return methods.trainable_parameters(methods.load(trial.method, **trial.fields).apply(vit))
