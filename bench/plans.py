"""What a launch would do, in words: rows with exact parameter counts, trials, images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bench import backbones, data, methods, prefix, studies, training
from bench.spec import Benchmark, Space, SpecError, Study, Suite, Trial, Value
from bench.trial import source_of, target_of


def describe(suite: Suite, benchmark: Benchmark) -> Iterator[str]:
    """The plan, line by line."""
    yield f"Benchmark: {benchmark.name} ({benchmark.summary})"
    blocks = backbones.depth(benchmark.backbone)
    yield f"           {benchmark.backbone}, {blocks} blocks: {benchmark.source.name} -> {benchmark.target.name}"
    for study in suite.studies:
        yield from _study(study, benchmark)
    count = sum(study.trials + study.confirmations for study in suite.studies)
    yield f"In all:    {count} trials of {_sizes(suite, benchmark)}; {_seen(suite, benchmark):,} training images seen"
    if torch.cuda.is_available():
        yield from estimate(suite, benchmark, torch.device("cuda"))


def _seen(suite: Suite, benchmark: Benchmark) -> int:
    """Images in all optimizer steps; where a space holds several lengths, those of its last corner count."""
    seen = 0
    for study in suite.studies:
        trial = studies.corners(study, benchmark)[-1]
        seen += (study.trials + study.confirmations) * _steps(trial) * trial.train.batch_size
    return seen


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
    found = dict.fromkeys(f"{_steps(trial):,} steps x {trial.train.batch_size} images" for trial in trials)
    return " or ".join(found)


def _steps(trial: Trial) -> int:
    """Optimizer steps of a trial; to know those of an epoch, the target's images have to be counted."""
    if trial.train.epochs is None:
        return trial.train.steps
    return training.resolve(trial.train, images=len(target_of(trial.benchmark).train)).steps


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


def check(suite: Suite, benchmark: Benchmark) -> None:
    """Try what can only be known with the target's images at hand: the steps of epochs, and the room for views.

    Raises:
        SpecError: a trial could not be carried out.
    """
    for study in suite.studies:
        for trial in studies.corners(study, benchmark):
            if trial.train.epochs is None and trial.train.views is None:
                continue
            images = len(target_of(benchmark).train)
            config = training.resolve(trial.train, images=images)
            if config.views is not None:
                with torch.device("meta"):
                    tail = prefix.Tail(_model(trial))
                if not torch.cuda.is_available():  # a GPU's memory is known where the trial runs
                    prefix.make_room(tail, config, images=images, device=torch.device("cpu"))


def decode_kept(benchmark: Benchmark) -> None:
    """Decode what is to be kept decoded, before workers start: they find it done, and a full disk is found here.

    Raises:
        SpecError: there is too little room on the disk.
    """
    if benchmark.target.keep_decoded:
        target = target_of(benchmark)
        data.decode_kept(target.train, target.val, target.test)
    if benchmark.source.keep_decoded:
        search, confirm = source_of(benchmark, "search"), source_of(benchmark, "confirm")
        data.decode_kept(search.bank, search.val, confirm.bank, confirm.test)


def parameters(trial: Trial) -> int:
    """Trainable parameters of a trial's model, counted on one without weights and without memory."""
    with torch.device("meta"):
        return methods.trainable_parameters(_model(trial))


def _model(trial: Trial) -> Any:
    """The architecture of a trial, prepared by its method; its weights do not matter here."""
    benchmark = trial.benchmark
    vit = backbones.plain(benchmark.backbone, num_classes=_classes(benchmark))
    if benchmark.head_norm:
        backbones.add_head_norm(vit)
    return methods.load(trial.method, **trial.fields).apply(vit)


def _classes(benchmark: Benchmark) -> int:
    return data.num_classes(benchmark.target.name, bad_images=benchmark.target.bad_images)


def estimate(suite: Suite, benchmark: Benchmark, device: torch.device) -> Iterator[str]:
    """What the training of a suite would take on a device, from a few steps of every row on random images."""
    total = 0.0
    for study in suite.studies:
        share = (study.trials + study.confirmations) / study.row_count
        for row in study.row_values:
            trial = _corners(study, benchmark, row)[-1]
            seconds, peak = time_steps(trial, device)
            total += share * _steps(trial) * seconds
            memory = f", {peak / 2**30:.1f} GiB at most" if peak else ""
            name = " ".join([study.method, *(f"{key}={value}" for key, value in row.items())])
            yield f"             {name:<28} {1000 * seconds:>9.1f} ms a step{memory}"
    yield f"Estimate:  {total / 3600:.2f} hours of one {device.type} in training steps; readings come on top"


def time_steps(trial: Trial, device: torch.device, *, steps: int = 5) -> tuple[float, int]:
    """Seconds of one optimizer step, and the device's peak memory in bytes (0 on a CPU).

    Raises:
        SpecError: the batch does not fit into the device's memory.
    """
    changed = {"steps": steps, "epochs": None, "warmup_steps": 0, "val_every": 0}
    config, classes = trial.train.model_copy(update=changed), _classes(trial.benchmark)
    preprocess = backbones.preprocess(trial.benchmark.backbone)
    size = (config.batch_size, 3, preprocess.size, preprocess.size)
    images = data.Images(torch.zeros(size, dtype=torch.uint8), torch.zeros(config.batch_size, dtype=torch.int64))
    try:
        model = _model(trial).to(device)
        for _ in range(2):  # the first round warms the device up
            run = training.train(
                model, images, preprocess, config, classes=classes, seed=0, device=device, report=lambda metrics: None
            )
    except torch.OutOfMemoryError:
        raise SpecError(
            f"{trial.method} with {config.batch_size} images a step does not fit into the memory of one {device.type}: "
            f"lower train.batch_size, or raise --num-workers"
        ) from None
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return run.seconds / steps, peak
