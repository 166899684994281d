"""What a launch would do, in words: rows with exact parameter counts, trials, images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import torch

from bench import data, methods, models, training
from bench.cluster.pruning import rungs
from bench.launching import studies
from bench.launching.launch import Launch
from bench.reporting.mlflow_store import without_password
from bench.spec import Benchmark, Phase, Space, SpecError, Study, Suite, Trial, Value, readable, row_label
from bench.vit import as_module


def describe(launch: Launch) -> str:
    """What would run, and on what: the text of ``--dry-run``. Builds the models to count their parameters."""
    where = f"the Ray cluster at {launch.options.address}, as large as it is then"
    if launch.plan is not None:
        where = launch.plan.describe() + launch.idle(launch.plan)
    return "\n".join(
        [
            *launch.said,
            *_work(launch.suite, launch.benchmark),
            *_images(launch.benchmark),
            f"Resources: {where}",
            f"Results:   {launch.folder.path}",
            f"MLflow:    {without_password(launch.tracking_uri)}",
            "Nothing was started (--dry-run).",
        ]
    )


def _work(suite: Suite, benchmark: Benchmark) -> Iterator[str]:
    """Trials and rows, line by line."""
    yield f"Benchmark: {benchmark.name} ({benchmark.summary})"
    blocks = models.depth(benchmark.backbone)
    yield f"           {benchmark.backbone}, {blocks} blocks: {benchmark.source.name} -> {benchmark.target.name}"
    for study in suite.studies:
        yield from _study(study, benchmark)
    count = sum(study.all_trials for study in suite.studies)
    target = benchmark.target.name
    if _in_epochs(suite, benchmark) and not data.at_hand(target):
        yield f"In all:    {count} trials; how many steps their epochs take is known when {target} is here"
        return
    yield f"In all:    {count} trials of {_sizes(suite, benchmark)}; {_seen(suite, benchmark):,} training images seen"
    if torch.cuda.is_available():
        yield from estimate(suite, benchmark, torch.device("cuda"))


def _in_epochs(suite: Suite, benchmark: Benchmark) -> bool:
    """Whether a trial's length is asked for in epochs, so that its steps depend on the images."""
    trials = (trial for study in suite.studies for trial in studies.corners(study, benchmark))
    return any(trial.train.epochs is not None for trial in trials)


NAMED_CLASSES = 50
"""Of so many classes each is shown with its images; of more only the smallest and the largest."""


def _images(benchmark: Benchmark) -> Iterator[str]:
    """Images of every split and class of the data sets that need no download, and which files do not count."""
    size = models.preprocess(benchmark.backbone).files
    for name in dict.fromkeys((benchmark.target.name, benchmark.source.name)):
        if not data.at_hand(name):
            yield f"Images:    {name} is not here yet; it is counted and checked when the launch has fetched it"
    if data.at_hand(benchmark.target.name):
        target = models.target_of(benchmark, size)
        splits = {"train": target.train, "val": target.val, "test": target.test}
        yield f"Target:    {_of_splits(splits)}, {target.num_classes} classes"
        yield from _of_classes(target.class_names, splits)
        yield from (f"           {remark}" for remark in data.remarks(*splits.values()))
    if data.at_hand(benchmark.source.name):
        source = models.source_of(benchmark, "confirm", size)
        splits = {"bank": source.bank, "val": source.val, "test": source.test}
        counts = data.counts(source.bank)
        yield f"Source:    {_of_splits(splits)}, {min(counts):,} to {max(counts):,} of a class in the bank"
        yield from (f"           {remark}" for remark in data.remarks(*splits.values()))


def _of_splits(splits: Mapping[str, data.Split]) -> str:
    return ", ".join(f"{len(split):,} {name}" for name, split in splits.items()) + " images"


def _of_classes(names: Sequence[str], splits: Mapping[str, data.Split]) -> Iterator[str]:
    """A line a class: its images in every split."""
    counts = list(zip(*(data.counts(split, len(names)) for split in splits.values()), strict=True))
    order = list(range(len(names)))
    if len(names) > NAMED_CLASSES:
        by_size = sorted(order, key=lambda label: counts[label])
        order = [by_size[0], by_size[-1]]
        yield "             the smallest and the largest class:"
    for label in order:
        shares = ", ".join(f"{count:,} {part}" for part, count in zip(splits, counts[label], strict=True))
        yield f"             {names[label]}: {shares}"


def _seen(suite: Suite, benchmark: Benchmark) -> int:
    """Images in all optimizer steps; where a space holds several lengths, those of its last corner count."""
    seen = 0
    for study in suite.studies:
        trial = studies.corners(study, benchmark)[-1]
        seen += study.all_trials * _steps(trial) * trial.train.batch_size
    return seen


def _study(study: Study, benchmark: Benchmark) -> Iterator[str]:
    rows = study.row_count
    what = f"{rows} row{'s' * (rows > 1)}"
    if study.objective.others:
        what = f"at most {study.confirmations // len(study.seeds)} of their front"
    again = f", and all of that {study.repeats} times" if study.repeats > 1 else ""
    yield (
        f"Study:     {study.name}: {study.trials} search trials for the best {study.objective}, then {what} x "
        f"{len(study.seeds)} seeds = {study.confirmations} confirmations{again}"
    )
    if methods.has_variants(methods.load(study.method)):
        yield "           (what the method makes of the trained models besides is measured, too, in rows of its own)"
    least, most = min(study.trials_by_row), max(study.trials_by_row)
    if least < most:
        yield f"           (some rows get {most} of them and some {least}: trials_per_row={most} gives each {most})"
    yield from (f"           {line}" for line in _how(study, studies.corners(study, benchmark)))
    for name, space in study.search.items():
        yield f"             {name}: {_space(space)}"
    yield from (f"             {line}" for line in _rows(study, benchmark))


def _how(study: Study, trials: Sequence[Trial]) -> Iterator[str]:
    """What decides which trials there are, which of them are trained to their end, and which models count.

    Args:
        trials: the corners of the study's space.
    """
    yield f"sampler {study.sampler}, lag {study.lag}: proposal n knows the results of trials 0 to n - {study.lag}"
    for belief in study.beliefs:
        yield f"believed at first: {belief}{f', {belief.source}' if belief.source else ''}"
    if study.scheduler == "asha":
        train = trials[0].train  # its steps and readings are those of all
        steps = ", ".join(f"{step:,}" for step in rungs(train.val_every, train.steps))
        which = "what is far behind others of a row" if study.objective.others else "the worse half of a row"
        yield f"scheduler asha: {which} ends after {steps} of {train.steps:,} steps"
    if study.candidates == "every":
        yield "candidates every: each reading after the warm-up may be on the front, as a training that ends there"
    if kept := [trial for trial in trials if trial.train.keep == "best"]:
        split = "test" if study.protocol == "paper" else "validation"
        by = kept[0].keep_by or "target_accuracy"
        yield f"keep best: what counts of a trial is its model with the best {by} among its {split} readings"
    if study.protocol == "paper":
        yield "protocol paper: configurations are chosen on test data, and marked so"


def _sizes(suite: Suite, benchmark: Benchmark) -> str:
    """Steps and batch of a trial, with overrides; several of them where studies or their spaces differ."""
    trials = [trial for study in suite.studies for trial in studies.corners(study, benchmark)]
    sizes = dict.fromkeys(f"{_steps(trial):,} steps x {trial.train.batch_size} images" for trial in trials)
    return " or ".join(sizes)


def _steps(trial: Trial) -> int:
    """Optimizer steps of a trial; to know those of an epoch, the target's images have to be counted."""
    if trial.train.epochs is None:
        return trial.train.steps
    return training.resolve(trial.train, images=_training_images(trial.benchmark)).steps


def _space(space: Space) -> str:
    if space.choices is not None:
        return "one of " + ", ".join(map(readable, space.choices))
    return f"{space.low} .. {space.high}{', log scale' if space.log else ''}"


def _rows(study: Study, benchmark: Benchmark) -> Iterator[str]:
    for row in study.row_values:
        name = row_label(study.method, row)
        counts = sorted({parameters(trial) for trial in _corners(study, benchmark, row)})
        text = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        yield f"{name:<28} {text:>12} trainable parameters"


def _corners(study: Study, benchmark: Benchmark, row: dict[str, Value]) -> list[Trial]:
    """The row's trials that may differ in size: one for each combination of the method's own fields."""
    own = {str(trial.fields): trial for trial in studies.corners(study, benchmark) if trial.row == row}
    return list(own.values())


def check(suite: Suite, benchmark: Benchmark, processes: int = 1) -> None:
    """Try what recipes ask of the method and of the target's images: the steps of epochs, and views with their room.

    Of a target that is not here yet only the images are left out.

    Args:
        processes: that train on this machine at once, and share its memory.

    Raises:
        SpecError: a trial could not be carried out.
    """
    at_hand = data.at_hand(benchmark.target.name)
    training.share_memory(processes)
    for study in suite.studies:
        for trial in studies.corners(study, benchmark):
            if trial.train.views is not None:
                with models.shapes_only():
                    tail = models.Tail(models.outline(trial, _classes(benchmark)))
            if not at_hand or (trial.train.epochs is None and trial.train.views is None):
                continue
            images = _training_images(benchmark)
            config = training.resolve(trial.train, images=images)
            if config.views is not None and not torch.cuda.is_available():  # a GPU's memory is known where it runs
                training.check_views(tail, config, images=images, device=torch.device("cpu"))


def check_starts(suite: Suite, benchmark: Benchmark) -> None:
    """Build the models of trials that start from another one's, each once.

    Raises:
        SpecError: what a trial starts from does not fit its own model.
    """
    trials = (trial for study in suite.studies for trial in studies.corners(study, benchmark))
    starting = {(trial.train.start_from, trial.method, str(trial.fields)): trial for trial in trials}
    for trial in starting.values():
        try:
            if (start := models.start_of(trial)) is not None:
                models.build(trial, _classes(benchmark), start=start)
        except ValueError as error:
            raise SpecError(str(error)) from None


def decode_kept(benchmark: Benchmark) -> None:
    """Decode what is to be kept decoded, before workers start: they find it done, and a full disk is found here.

    Raises:
        SpecError: there is too little room on the disk.
    """
    size = models.preprocess(benchmark.backbone).files
    if benchmark.target.keep_decoded:
        target = models.target_of(benchmark, size)
        data.decode_kept(target.train, target.val, target.test)
    if benchmark.source.keep_decoded:
        search, confirm = (models.source_of(benchmark, phase, size) for phase in get_args(Phase))
        data.decode_kept(search.bank, search.val, confirm.bank, confirm.test)


FLOAT32 = 4


def checkpoint_bytes(suite: Suite, benchmark: Benchmark) -> int:
    """What the trained tensors of all confirmations take on the disk, at most."""
    needed = 0
    for study in suite.studies:
        rows = (_corners(study, benchmark, row) for row in study.row_values)
        largest = [max(parameters(trial) for trial in trials) for trials in rows]
        rows_of_one = study.confirmations * max(largest) if study.objective.others else len(study.seeds) * sum(largest)
        needed += study.repeats * rows_of_one
    return FLOAT32 * needed


def parameters(trial: Trial) -> int:
    """Trainable parameters of a trial's model, counted on one without weights and without memory."""
    return methods.trainable_parameters(models.outline(trial, _classes(trial.benchmark)))


def _training_images(benchmark: Benchmark) -> int:
    return len(models.target_of(benchmark, models.preprocess(benchmark.backbone).files).train)


def _classes(benchmark: Benchmark) -> int:
    return data.num_classes(benchmark.target.name, bad_images=benchmark.target.bad_images)


def estimate(suite: Suite, benchmark: Benchmark, device: torch.device) -> Iterator[str]:
    """What the training of a suite would take on a device, from a few steps of every row on random images."""
    total = 0.0
    for study in suite.studies:
        share = study.all_trials / study.row_count
        for row in study.row_values:
            trial = _corners(study, benchmark, row)[-1]
            seconds, peak = time_steps(trial, device)
            total += share * _steps(trial) * seconds
            memory = f", {peak / 2**30:.1f} GiB at most" if peak else ""
            name = row_label(study.method, row)
            yield f"             {name:<28} {1000 * seconds:>9.1f} ms a step{memory}"
    yield f"Estimate:  {total / 3600:.2f} hours of one {device.type} in training steps; readings come on top"


def time_steps(trial: Trial, device: torch.device, *, steps: int = 5) -> tuple[float, int]:
    """Seconds of one optimizer step, and the device's peak memory in bytes (0 on a CPU).

    Raises:
        SpecError: the batch does not fit into the device's memory.
    """
    changed = {"steps": steps, "epochs": None, "warmup_steps": 0, "val_every": 0}
    config, classes = trial.train.model_copy(update=changed), _classes(trial.benchmark)
    backbone = trial.benchmark.backbone
    preprocess = models.preprocess(backbone)
    size = (config.batch_size, 3, preprocess.size, preprocess.size)
    images = data.Images(torch.zeros(size, dtype=torch.uint8), torch.zeros(config.batch_size, dtype=torch.int64))
    try:
        vit = models.outline(trial, classes, torch.device("cpu")).to(device)
        method = methods.load(trial.method, **trial.fields)
        terms = training.terms_of(method, vit, lambda: models.plain(backbone, num_classes=0).to(device))
        feed, watch = training.Feed(images, preprocess, classes), training.Watch(lambda point: None)
        model = as_module(vit)
        if training.shares_training(config, method) and (tail := models.split(vit)) is not None:
            model = tail
            feed = replace(feed, activations=torch.zeros(config.batch_size, *tail.shape(), device=device))
        for _ in range(2):  # the first round warms the device up
            run = training.train(model, feed, config, seed=0, device=device, watch=watch, terms=terms)
    except torch.OutOfMemoryError:
        raise SpecError(
            f"{trial.method} with {config.batch_size} images a step does not fit into the memory of one {device.type}: "
            f"lower train.batch_size, or raise --num-workers"
        ) from None
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return run.seconds / steps, peak
