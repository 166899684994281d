"""One trial from specification to record, in one process group of any size."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import methods, models, parallel, records, training
from bench.folder import SNAPSHOT
from bench.measuring import Meter
from bench.methods import Method
from bench.models import CPU, Setting
from bench.readings import Point, Reading, scores
from bench.records import Record, Status
from bench.spec import Objective, TrainConfig, Trial
from bench.training import DivergedError, PeakMemory, Report, Snapshots, Trained
from bench.vit import Vit, as_module


class TrialStopped(Exception):
    """Raised by a ``report`` callable to end the training early; every rank must raise it at the same report."""


Keep = Callable[[Mapping[str, Tensor]], None]
"""It receives a finished trial's tensors by name, see :func:`bench.models.kept_tensors`; called on rank 0 only."""


Saved = Callable[[int], None]
"""It hears of steps from which a trial could go on."""


def ignore(point: Point | int) -> None:
    """The report of a trial that nobody watches."""


def run(
    trial: Trial,
    report: Report = ignore,
    *,
    device: torch.device = CPU,
    keep: Keep | None = None,
    unfinished: Path | None = None,
    saved: Saved = ignore,
) -> Record:
    """Train and measure one trial.

    A trial that diverges or is stopped ends in a record that says so. Every other exception is raised: whether the
    process group can go on after it is the caller's to decide (see :func:`bench.records.failed`).

    Args:
        trial: everything the result depends on.
        report: receives the curves, see :func:`bench.training.train`.
        device: where to train.
        keep: receives what was trained, if the trial succeeds.
        unfinished: folder for the trial's snapshot while it trains. If there is one from a run that was cut, the trial
            goes on from there, after reporting again what was reported before. It is the caller's to remove, once the
            record is safe. Rank 0's counts; None: no snapshots.
        saved: on rank 0 hears the step of every snapshot, from which the trial could go on.

    Returns:
        The record, with equal readings on every rank.
    """
    seed_everything(trial.seed)
    course = _Course(trial, Setting.of(trial, device), report)
    training.forget_all_but(course.shared_training(), device)
    memory = PeakMemory.begin(device)
    snapshots = _snapshots(trial, unfinished, device, saved)
    try:
        return _with_memory(_ended(course, keep, snapshots), memory)
    finally:
        gc.collect()  # a method's wrappers may hold reference cycles; the next trial needs their memory


def _ended(course: _Course, keep: Keep | None, snapshots: Snapshots | None) -> Record:
    try:
        return _run(course, keep, snapshots)
    except DivergedError as error:
        return course.record("failed", error=str(error), trainable_parameters=course.trainable)
    except TrialStopped:
        return course.record("stopped", steps=course.steps, trainable_parameters=course.trainable)


def _with_memory(record: Record, memory: PeakMemory) -> Record:
    """The record with the trial's peak memory, which differs from try to try: so it is no part of the result."""
    if record.status != "ok":
        return record
    return record.model_copy(update={"provenance": {**record.provenance, "peak_memory": memory.so_far()}})


def _snapshots(trial: Trial, unfinished: Path | None, device: torch.device, saved: Saved) -> Snapshots | None:
    """The trial's snapshots, on every rank or on none."""
    if not trial.train.checkpoint_minutes or not parallel.of_first(unfinished is not None):
        return None
    path = None if unfinished is None else unfinished / f"{trial.id}{SNAPSHOT}"
    key = json.dumps([trial.model_dump(mode="json"), device.type])
    return Snapshots(path, key=key, minutes=trial.train.checkpoint_minutes, device=device, saved=saved)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class _Course:
    """A trial that runs: what it needs, how far it has come, and what was read on the way."""

    def __init__(self, trial: Trial, setting: Setting, report: Report) -> None:
        self.trial, self.setting = trial, setting
        self.meter = Meter(trial, setting)
        self.method = methods.load(trial.method, **trial.fields)
        self.steps = 0
        self.trainable: int | None = None
        self.best: _Best | None = None
        self._report = report
        self._points: list[Point] = []

    def validate(self, vit: Vit, step: int) -> list[Reading]:
        """Readings on the way, of validation data: test data is read at the end.

        Under the paper's protocol, which chooses on test data, only what chooses the model that is kept. A confirmation
        also notes there what validation data would have chosen by (``python -m bench audit``).
        """
        if self.trial.reads_on_the_way:
            return self.meter.measure_on_the_way(vit, step)
        if not self.best:
            return []
        if self.meter.notes_validation:
            self.meter.target(vit, step, "val")  # first: of two readings of a step what comes last is the trial's score
        return [self.meter.target(vit, step, self.meter.choosing_split)]

    def shared_training(self) -> training.Use | None:
        """What other trials' trainings can share with this one's; None: nothing."""
        config, place = self.trial.train, self.setting
        if not training.shares_training(config, self.method):
            return None
        return training.training_use(place.target.train, place.preprocess, config, place.device)

    def watch(self, point: Point) -> None:
        """Pass a point of the curves on."""
        self.steps = point.step
        if self.best and point.readings:
            self.best.offer(point.step, point.readings)
        self._points.append(point)
        self._report(point)

    def state_dict(self) -> dict[str, Any]:
        """What was reported and read so far."""
        return {
            "points": [
                {**vars(point), "values": dict(point.values), "readings": [r.model_dump() for r in point.readings]}
                for point in self._points
            ],
            "readings": [reading.model_dump() for reading in self.meter.readings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: whoever follows the trial is told again, as it may be another one."""
        self.meter.know(map(Reading.model_validate, state["readings"]))
        for point in state["points"]:
            readings = list(map(Reading.model_validate, point["readings"])) or ()
            self._points.append(Point(**{**point, "readings": readings}))
        self.steps = self._points[-1].step if self._points else 0
        for point in self._points:
            self._report(point)

    def record(self, status: Status, **measured: Any) -> Record:
        """The trial's record with all readings so far."""
        device, world = self.setting.device, parallel.world()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return records.of(
            self.trial,
            status=status,
            workers=world,
            devices=[name] * world if name else [],
            readings=self.meter.readings,
            **measured,
        )


TARGET = Objective(quantity="target_accuracy")
"""The best model is kept by this score, unless the study looks for another one."""


class _Best:
    """The trained tensors that are best by an objective on validation data, on the CPU; of equals the earliest."""

    def __init__(self, vit: Vit, objective: Objective) -> None:
        self._vit, self._objective = vit, objective
        self._step = 0
        self._merit: tuple[float, ...] | None = None
        self._tensors: dict[str, Tensor] = {}

    def offer(self, step: int, readings: Sequence[Reading]) -> None:
        """Keep the model as it is now, if it is the best; every rank is offered the same numbers."""
        merit = self._objective.merit(scores(readings))
        assert merit is not None  # all that an objective looks at is read on the way
        if self._merit is None or merit > self._merit:
            self._step, self._merit = step, merit
            self._tensors = {name: value.clone() for name, value in models.trained_tensors(self._vit).items()}

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"step": self._step, "merit": self._merit, "tensors": self._tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._step, self._merit, self._tensors = state["step"], state["merit"], state["tensors"]

    def put_back(self) -> int:
        """Give the model its best tensors again; returns their step."""
        self._vit.load_state_dict(self._tensors, strict=False)
        return self._step


class _Weights:
    """What training changes of a model."""

    def __init__(self, vit: Vit) -> None:
        self._vit = vit

    def state_dict(self) -> dict[str, Tensor]:
        return models.trained_tensors(self._vit)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._vit.load_state_dict(state, strict=False)


class _Notes:
    """What a method has noted of the training beside its fields; what ships notes nothing."""

    def __init__(self, method: Method, device: torch.device) -> None:
        self._method, self._device = method, device

    def state_dict(self) -> dict[str, Any]:
        fields = methods.fields(type(self._method).__module__.rpartition(".")[2])
        return {name: value for name, value in vars(self._method).items() if name not in fields}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            vars(self._method)[name] = value.to(self._device) if isinstance(value, Tensor) else value


def _keep_in(snapshots: Snapshots, course: _Course, vit: Vit) -> None:
    snapshots.keep(weights=_Weights(vit), course=course, **({"best": course.best} if course.best else {}))
    snapshots.keep_own(method=_Notes(course.method, course.setting.device))


def _run(course: _Course, keep: Keep | None, snapshots: Snapshots | None) -> Record:
    trial, setting = course.trial, course.setting
    config = training.resolve(trial.train, images=len(setting.target.train))
    vit = models.build(trial, setting.target.num_classes, setting.device, models.start_of(trial))
    course.trainable = methods.trainable_parameters(vit)
    course.best = _Best(vit, trial.keep_by or TARGET) if config.keep == "best" else None
    shared = _shared(course, config, vit)
    feed = _feed(course, config, shared)
    if snapshots is not None:
        _keep_in(snapshots, course, vit)
    model = as_module(vit) if shared is None or feed.activations is None else shared.tail
    if config.compile:
        training.compile_blocks(vit)
    trained = training.train(
        _distributed(model, setting.device),
        feed,
        config,
        seed=trial.seed,
        device=setting.device,
        watch=training.Watch(course.watch, lambda step: course.validate(vit, step), snapshots),
        terms=training.terms_of(course.method, vit, course.meter.untouched),
    )
    start = time.perf_counter()
    ended = course.validate(vit, config.steps)
    if course.best:
        course.best.offer(config.steps, ended)
    step = course.best.put_back() if course.best else config.steps
    course.meter.measure_all(vit, step, course.method)
    if keep is not None and parallel.rank() == 0:
        keep(models.kept_tensors(trial, vit))
    facts = {
        "images": course.meter.images(),
        "precision": training.precision_on(setting.device, config.precision),
        **({"kept_step": step} if course.best else {}),
        **(_facts(shared) if shared else {}),
        **({"skipped_steps": trained.skipped} if config.precision == "fp16" else {}),
    }
    return _finished(course, trained, facts, eval_seconds=time.perf_counter() - start)


def _finished(course: _Course, trained: Trained, facts: Mapping[str, Any], *, eval_seconds: float) -> Record:
    return course.record(
        "ok",
        steps=trained.steps,
        trainable_parameters=course.trainable,
        train_seconds=trained.seconds,
        eval_seconds=eval_seconds,
        images_per_second=trained.images_per_second,
        details=dict(facts),
    )


def _shared(course: _Course, config: TrainConfig, vit: Vit) -> training.Shared | None:
    """What the trial computes once for all steps and readings, or finds computed; None: nothing.

    Raises:
        SpecError: fixed views are asked for, and the model has no frozen beginning, or there is no room for them.
    """
    tail = models.Tail(vit) if config.views else models.split(vit) if config.share_frozen else None
    if tail is None:
        return None
    target, device = course.setting.target, course.setting.device
    uses = course.meter.uses(vit, tail) if config.share_frozen else []
    if (use := course.shared_training()) is not None:
        uses.insert(0, use)
    shared = training.Shared.of(tail, uses, device)
    if config.views and uses[0].name in shared.left_out:
        needed, most = uses[0].bytes_needed(tail), training.budget(device)
        raise training.too_many_views(config, len(target.train), needed, most)
    course.meter.share(shared)
    return shared


def _facts(shared: training.Shared) -> dict[str, Any]:
    """What is to be known of shared work: its blocks, and the splits that went through them once, or did not fit."""
    splits = {"splits": [use.name for use in shared.uses], "left_out": list(shared.left_out)}
    return {"frozen_blocks": shared.tail.depth, "shared": splits}


def _feed(course: _Course, config: TrainConfig, shared: training.Shared | None) -> training.Feed:
    """The training images, or what the frozen blocks make of them, which other trials may have computed."""
    target, preprocess = course.setting.target, course.setting.preprocess
    use = shared.use_of(target.train, "logits") if shared else None
    kept = None
    if shared is not None and use is not None:
        kept = shared.activations(use, training.views(use, config, course.setting.device))
    return training.Feed(target.train, preprocess, target.num_classes, kept)


def _distributed(model: nn.Module, device: torch.device) -> nn.Module:
    if parallel.world() == 1:
        return model
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
