"""One trial from specification to record, in one process group of any size."""

from __future__ import annotations

import functools
import gc
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import backbones, data, evaluation, methods, parallel, prefix, records, training
from bench.backbones import Preprocess
from bench.data import Source, Split, Target
from bench.records import Record
from bench.spec import Backbone, Benchmark, SourceData, TrainConfig, Trial
from bench.training import DivergedError, Report, Trained


class TrialStopped(Exception):
    """Raised by a ``report`` callable to end the training early; every rank must raise it at the same report."""


Phase = Literal["search", "confirm"]

PAPER_NORM = (0.5, 0.5, 0.5)
"""Mean and deviation that arXiv 2404.17245 fine-tuned with, whatever the backbone was trained with."""

Keep = Callable[[Mapping[str, Tensor]], None]
"""Receives a finished trial's tensors by name, see :func:`kept_tensors`; called on rank 0 only."""

LISTED = 10
"""Tensors that a message about a checkpoint that does not fit lists at most."""


def ignore(metrics: Mapping[str, float]) -> None:
    """The report of a trial that nobody watches."""


def run(
    trial: Trial, report: Report = ignore, *, device: torch.device | None = None, keep: Keep | None = None
) -> Record:
    """Train and measure one trial.

    A trial that diverges or is stopped ends in a record that says so. Every other exception is raised: whether the
    process group can go on after it is the caller's to decide (see :func:`bench.records.failed`).

    Args:
        trial: everything the result depends on.
        report: receives the curves, see :func:`bench.training.train`.
        device: where to train; the CPU by default.
        keep: receives what was trained, if the trial succeeds.

    Returns:
        The record, with equal metrics on every rank.
    """
    device = device or torch.device("cpu")
    seed_everything(trial.seed)
    progress = _Progress()
    try:
        return _run(trial, report, device, progress, keep)
    except DivergedError as error:
        return _record(trial, "failed", device, error=str(error), trainable_parameters=progress.trainable)
    except TrialStopped:
        return _record(
            trial,
            "stopped",
            device,
            steps=progress.steps,
            trainable_parameters=progress.trainable,
            **progress.scores,
        )
    finally:
        gc.collect()  # a method's wrappers may hold reference cycles; the next trial needs their memory


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def build(trial: Trial, device: torch.device, start: Start | None = None) -> Any:
    """The model of a trial as it is before the first step: backbone, head norm, method.

    Args:
        start: what it starts from, see :func:`start_of`; its shape alone does not depend on that.

    Raises:
        ValueError: the model does not have the tensors of ``start``.
    """
    benchmark = trial.benchmark
    target = target_of(benchmark)
    vit = backbones.create(benchmark.backbone, num_classes=target.num_classes).to(device)
    if benchmark.head_norm:
        backbones.add_head_norm(vit)
    if start is not None and not start.applied:
        _fill(vit, start)
    vit = methods.load(trial.method, **trial.fields).apply(vit).to(device)
    if start is not None and start.applied:
        _fill(vit, start)
    return vit


@dataclass(frozen=True)
class Start:
    """Where a trial starts: all tensors of a trained model, with the trial's own method ``applied`` or plain timm's."""

    path: str
    tensors: Mapping[str, Tensor]
    applied: bool


def start_of(trial: Trial) -> Start | None:
    """What a trial's ``start_from`` names, if it does: the model of that trial, as its method left it.

    After another method the model is merged into plain timm modules first, so that any method can be applied to it; the
    same method with the same fields goes on with its own tensors.

    Raises:
        ValueError: there is no such trial, or it had another backbone.
    """
    path = trial.train.start_from
    if path is None:
        return None
    with torch.random.fork_rng(devices=[]):  # where a trial starts must not shift its draws
        _, other, vit = load(Path(path), torch.device("cpu"))
    if other.benchmark.backbone != trial.benchmark.backbone:
        raise ValueError(
            f"start_from = {path} has the backbone {other.benchmark.backbone}, not {trial.benchmark.backbone}"
        )
    same = (other.method, other.fields) == (trial.method, trial.fields)
    plain = vit if same else methods.load(other.method, **other.fields).merge(vit)
    return Start(path, plain.state_dict(), same)


def _fill(vit: nn.Module, start: Start) -> None:
    """Load all of a start's tensors, or say which do not fit."""
    own, given = vit.state_dict(), start.tensors
    wrong = [f"{name} is not in this model" for name in given if name not in own]
    wrong += [f"{name} is only in this model" for name in own if name not in given]
    wrong += [
        f"{name} is {list(given[name].shape)} there and {list(own[name].shape)} here"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ValueError(f"start_from = {start.path} does not fit: {', '.join(wrong[:LISTED])}{more}")
    vit.load_state_dict(given)


def trained_tensors(vit: nn.Module) -> dict[str, Tensor]:
    """What training may have changed, by name, on the CPU: trainable parameters, and all buffers (the head norm's)."""
    names = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in vit.named_buffers()}
    return {name: value.detach().cpu() for name, value in vit.state_dict().items() if name in names}


def kept_tensors(trial: Trial, vit: nn.Module) -> dict[str, Tensor]:
    """What a trial's checkpoint holds: what was trained; all tensors if the others are not the backbone's either."""
    if trial.train.start_from is None:
        return trained_tensors(vit)
    return {name: value.detach().cpu() for name, value in vit.state_dict().items()}


def restore(trial: Trial, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The trained model of a trial, from its specification and the tensors that it kept.

    Raises:
        ValueError: the tensors are not those of this trial.
    """
    vit = build(trial, device)
    expected = set(kept_tensors(trial, vit))
    if set(tensors) != expected:
        missing, surplus = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
        raise ValueError(f"the checkpoint does not fit trial {trial.id}: missing {missing}, unexpected {surplus}")
    vit.load_state_dict(tensors, strict=False)
    return vit.eval()


def load(path: Path, device: torch.device) -> tuple[Record, Trial, Any]:
    """A confirmed trial's record, its specification and its trained model.

    Args:
        path: of the record's file, or of the checkpoint's.

    Raises:
        ValueError: it is no record, or its tensors were not kept.
    """
    record, weights = records.trained(path)
    spec = Trial.model_validate_json(json.dumps(record.config))
    return record, spec, restore(spec, load_file(weights), device)


class _Progress:
    """How far a trial has come, for the record of one that ends early."""

    def __init__(self) -> None:
        self.steps = 0
        self.trainable: int | None = None
        self.scores: dict[str, float] = {}


class _Best:
    """The trained tensors with the highest validation target accuracy so far, on the CPU; of equals the earliest."""

    def __init__(self, vit: nn.Module) -> None:
        self.step: int | None = None
        self._vit = vit
        self._accuracy: float | None = None
        self._tensors: dict[str, Tensor] = {}

    def offer(self, step: int, accuracy: float) -> None:
        """Keep the model as it is now, if it is the best; every rank is offered the same numbers."""
        if self._accuracy is None or accuracy > self._accuracy:
            self.step, self._accuracy = step, accuracy
            self._tensors = {name: value.clone() for name, value in trained_tensors(self._vit).items()}

    def put_back(self) -> None:
        self._vit.load_state_dict(self._tensors, strict=False)


def _run(trial: Trial, report: Report, device: torch.device, progress: _Progress, keep: Keep | None) -> Record:
    target = target_of(trial.benchmark)
    config = training.resolve(trial.train, images=len(target.train))
    preprocess = target_preprocess(trial)
    vit = build(trial, device, start_of(trial))
    progress.trainable = methods.trainable_parameters(vit)
    best = _Best(vit) if config.keep == "best" else None

    tail = prefix.Tail(vit) if config.views else None
    shared = _shared(trial, tail, target.train, config, device) if tail else None

    def target_on_val() -> float:
        chooses = target.test if trial.protocol == "paper" else target.val
        return evaluation.target_accuracy(vit, chooses, preprocess, device)[0]

    def validate() -> dict[str, float]:
        if trial.phase == "search" and trial.protocol == "clean":
            return measure(trial, vit, device).scores
        # A confirmation's curve shows the training alone, and what chooses the model: test data is read at the end.
        return {"val_target_accuracy": target_on_val()} if best else {}

    def watch(metrics: Mapping[str, float]) -> None:
        progress.steps = int(metrics["step"])
        progress.scores.update({k: v for k, v in metrics.items() if k.startswith("val_")})
        if best and "val_target_accuracy" in metrics:
            best.offer(progress.steps, metrics["val_target_accuracy"])
        report(metrics)

    trained = training.train(
        _distribute(_compiled(tail or vit) if config.compile else tail or vit, device),
        target.train,
        preprocess,
        config,
        classes=target.num_classes,
        seed=trial.seed,
        device=device,
        report=watch,
        validate=validate,
        activations=shared,
    )
    start = time.perf_counter()
    if best:
        best.offer(config.steps, target_on_val())
        best.put_back()
    measured = measure(trial, vit, device)
    if keep is not None and parallel.rank() == 0:
        keep(kept_tensors(trial, vit))
    facts = {
        "precision": backbones.precision_on(device, config.precision),
        **({"kept_step": best.step} if best else {}),
        **({"frozen_blocks": tail.depth} if tail else {}),
        **_skipped(config, trained),
    }
    return _finished(trial, device, trained, measured, facts, progress.trainable, time.perf_counter() - start)


def _shared(trial: Trial, tail: prefix.Tail, images: Split, config: TrainConfig, device: torch.device) -> Tensor:
    """Activations of the frozen blocks, which other trials of this process may have computed."""
    benchmark = trial.benchmark
    key = (benchmark.backbone, benchmark.target, trial.protocol, config.start_from, trial.method, trial.fields)
    return prefix.activations(tail, images, target_preprocess(trial), config, key=key, device=device)


def _compiled(model: nn.Module) -> nn.Module:
    """The model as training calls it; measuring goes past this, and finds the same weights."""
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled


def _skipped(config: TrainConfig, trained: Trained) -> dict[str, int]:
    return {"skipped_steps": trained.skipped} if config.precision == "fp16" else {}


def _finished(
    trial: Trial,
    device: torch.device,
    trained: Trained,
    measured: Measured,
    facts: Mapping[str, Any],
    trainable: int,
    eval_seconds: float,
) -> Record:
    return _record(
        trial,
        "ok",
        device,
        steps=trained.steps,
        trainable_parameters=trainable,
        train_seconds=trained.seconds,
        eval_seconds=eval_seconds,
        images_per_second=trained.images_per_second,
        details={**measured.details, **facts},
        **measured.scores,
    )


def _distribute(vit: nn.Module, device: torch.device) -> nn.Module:
    if parallel.world() == 1:
        return vit
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(vit, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


@dataclass(frozen=True)
class Measured:
    """Scores by the names of :class:`~bench.records.Record`, and further details, all in percent."""

    scores: dict[str, float]
    details: dict[str, Any]


def measure(trial: Trial, vit: Any, device: torch.device) -> Measured:
    """Scores of the trained model: on validation data while searching, on test data when confirming."""
    split: Literal["val", "test"] = "val" if trial.phase == "search" else "test"
    target_split = "test" if trial.protocol == "paper" else split
    benchmark = trial.benchmark
    preprocess = backbones.preprocess(benchmark.backbone)
    target, source = target_of(benchmark), source_of(benchmark, trial.phase)
    top1, top5 = evaluation.target_accuracy(vit, getattr(target, target_split), target_preprocess(trial), device)
    before = _before(benchmark.backbone, benchmark.source, trial.phase, split, device)
    if _same_features(vit, _untouched(benchmark.backbone, device)):
        after = before  # the same weights give the same features: nothing is to be measured again
    else:
        after = evaluation.source_score(vit, source, getattr(source, split), preprocess, device)
    prefix = "val_" if trial.phase == "search" else ""
    scores = {
        "target_accuracy": top1,
        "source_accuracy": after.accuracy,
        "source_accuracy_before": before.accuracy,
        "forgetting": before.accuracy - after.accuracy,
        "mean": (top1 + after.accuracy) / 2,
    }
    details = {
        "target_top5": top5,
        "knn": _by_k(after),
        "knn_before": _by_k(before),
        "images": _images(target, source, target_split, split),
    }
    return Measured({prefix + name: value for name, value in scores.items()}, details)


def _by_k(score: evaluation.SourceScore) -> dict[str, dict[str, float]]:
    return {str(k): {"top1": top1, "top5": top5} for k, (top1, top5) in score.by_k.items()}


def _images(target: Target, source: Source, target_split: str, source_split: str) -> dict[str, int]:
    """How many images a trial's numbers come from, and how many were left out because they cannot be read."""
    measured, queries = getattr(target, target_split), getattr(source, source_split)
    read = (target.train, measured, source.bank, queries)
    return {
        "target_train": len(target.train),
        f"target_{target_split}": len(measured),
        "source_bank": len(source.bank),
        "source_queries": len(queries),
        "skipped": len(data.skipped(*read)),
    }


def target_preprocess(trial: Trial) -> Preprocess:
    """What target images become before the model sees them: the paper's protocol has a normalisation of its own."""
    own = backbones.preprocess(trial.benchmark.backbone)
    return replace(own, mean=PAPER_NORM, std=PAPER_NORM) if trial.protocol == "paper" else own


def target_of(benchmark: Benchmark) -> Target:
    """A benchmark's target, at its backbone's resolution."""
    own = benchmark.target
    size = backbones.preprocess(benchmark.backbone).files
    return data.target(
        own.name, size=size, samples=own.samples, bad_images=own.bad_images, keep_decoded=own.keep_decoded
    )


def source_of(benchmark: Benchmark, phase: Phase) -> Source:
    """A benchmark's source, at its backbone's resolution, in the size that a phase reads."""
    return _source_of(benchmark.backbone, benchmark.source, phase)


def _source_of(backbone: Backbone, own: SourceData, phase: Phase) -> Source:
    per_class, queries = own.size(phase)
    size = backbones.preprocess(backbone).files
    return data.source(
        own.name,
        size=size,
        per_class=per_class,
        queries=queries,
        bad_images=own.bad_images,
        keep_decoded=own.keep_decoded,
    )


@functools.cache
def _before(
    backbone: Backbone, own: SourceData, phase: Phase, split: Literal["val", "test"], device: torch.device
) -> evaluation.SourceScore:
    """Source score of the untouched backbone; the same for all trials, so it is measured once a process."""
    domain = _source_of(backbone, own, phase)
    queries: Split = getattr(domain, split)
    vit = _untouched(backbone, device)
    return evaluation.untouched_score(vit, domain, queries, backbones.preprocess(backbone), device)


@functools.lru_cache(maxsize=1)
def _untouched(backbone: Backbone, device: torch.device) -> Any:
    """The backbone without a head, as it was before any training; not to be changed."""
    with torch.random.fork_rng(devices=[]):  # a random initialisation must not shift the trial's draws
        return backbones.create(backbone, num_classes=0).to(device)


def _same_features(vit: nn.Module, untouched: nn.Module) -> bool:
    """Whether a model has the blocks and, bit for bit, the weights of the untouched backbone, but for its head."""
    own, weights = vit.state_dict(), untouched.state_dict()
    body = {name for name in own if not name.startswith(("head.", "fc_norm."))}
    return body == set(weights) and all(torch.equal(own[name], value) for name, value in weights.items())


def _record(trial: Trial, status: Literal["ok", "failed", "stopped"], device: torch.device, **measured: Any) -> Record:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    devices = [name] * parallel.world() if name else []
    return records.of(trial, status=status, workers=parallel.world(), devices=devices, **measured)
