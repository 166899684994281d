"""One trial from specification to record, in one process group of any size."""

from __future__ import annotations

import functools
import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import backbones, data, evaluation, methods, parallel, records, training
from bench.backbones import Preprocess
from bench.data import Source, Split, Target
from bench.records import Record
from bench.spec import Backbone, Benchmark, SourceData, Trial
from bench.training import DivergedError, Report, Trained


class TrialStopped(Exception):
    """Raised by a ``report`` callable to end the training early; every rank must raise it at the same report."""


Phase = Literal["search", "confirm"]

PAPER_NORM = (0.5, 0.5, 0.5)
"""Mean and deviation that arXiv 2404.17245 fine-tuned with, whatever the backbone was trained with."""

Keep = Callable[[Mapping[str, Tensor]], None]
"""Receives a finished trial's trained tensors by name, see :func:`trained_tensors`; called on rank 0 only."""


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


def build(trial: Trial, device: torch.device) -> Any:
    """The model of a trial as it is before the first step: backbone, head norm, method."""
    benchmark = trial.benchmark
    target = target_of(benchmark)
    vit = backbones.create(benchmark.backbone, num_classes=target.num_classes).to(device)
    if benchmark.head_norm:
        backbones.add_head_norm(vit)
    return methods.load(trial.method, **trial.fields).apply(vit).to(device)


def trained_tensors(vit: nn.Module) -> dict[str, Tensor]:
    """What training may have changed, by name, on the CPU: trainable parameters, and all buffers (the head norm's)."""
    names = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in vit.named_buffers()}
    return {name: value.detach().cpu() for name, value in vit.state_dict().items() if name in names}


def restore(trial: Trial, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The trained model of a trial, from its specification and its trained tensors.

    Raises:
        ValueError: the tensors are not those of this trial.
    """
    vit = build(trial, device)
    expected = set(trained_tensors(vit))
    if set(tensors) != expected:
        missing, surplus = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
        raise ValueError(f"the checkpoint does not fit trial {trial.id}: missing {missing}, unexpected {surplus}")
    vit.load_state_dict(tensors, strict=False)
    return vit.eval()


class _Progress:
    """How far a trial has come, for the record of one that ends early."""

    def __init__(self) -> None:
        self.steps = 0
        self.trainable: int | None = None
        self.scores: dict[str, float] = {}


def _run(trial: Trial, report: Report, device: torch.device, progress: _Progress, keep: Keep | None) -> Record:
    target = target_of(trial.benchmark)
    preprocess = target_preprocess(trial)
    vit = build(trial, device)
    progress.trainable = methods.trainable_parameters(vit)

    def validate() -> dict[str, float]:
        if trial.phase == "confirm":  # its curve shows the training alone: test data is read once, at the end
            return {}
        return measure(trial, vit, device).scores

    def watch(metrics: Mapping[str, float]) -> None:
        progress.steps = int(metrics["step"])
        progress.scores.update({k: v for k, v in metrics.items() if k.startswith("val_")})
        report(metrics)

    trained = training.train(
        _distribute(vit, device),
        target.train,
        preprocess,
        trial.train,
        seed=trial.seed,
        device=device,
        report=watch,
        validate=validate,
    )
    start = time.perf_counter()
    measured = measure(trial, vit, device)
    if keep is not None and parallel.rank() == 0:
        keep(trained_tensors(vit))
    return _finished(trial, device, trained, measured, progress.trainable, time.perf_counter() - start)


def _finished(
    trial: Trial,
    device: torch.device,
    trained: Trained,
    measured: Measured,
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
        details=measured.details,
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
    after = evaluation.source_score(vit, source, getattr(source, split), preprocess, device)
    before = _before(benchmark.backbone, benchmark.source, trial.phase, split, device)
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
    size = backbones.preprocess(benchmark.backbone).size
    return data.target(own.name, size=size, samples=own.samples, bad_images=own.bad_images)


def source_of(benchmark: Benchmark, phase: Phase) -> Source:
    """A benchmark's source, at its backbone's resolution, in the size that a phase reads."""
    return _source_of(benchmark.backbone, benchmark.source, phase)


def _source_of(backbone: Backbone, own: SourceData, phase: Phase) -> Source:
    per_class, queries = own.size(phase)
    size = backbones.preprocess(backbone).size
    return data.source(own.name, size=size, per_class=per_class, queries=queries, bad_images=own.bad_images)


@functools.cache
def _before(
    backbone: Backbone, own: SourceData, phase: Phase, split: Literal["val", "test"], device: torch.device
) -> evaluation.SourceScore:
    """Source score of the untouched backbone; the same for all trials, so it is measured once a process."""
    domain = _source_of(backbone, own, phase)
    queries: Split = getattr(domain, split)
    with torch.random.fork_rng(devices=[]):  # the fresh head that is thrown away must not shift the trial's draws
        vit = backbones.create(backbone, num_classes=0).to(device)
    return evaluation.untouched_score(vit, domain, queries, backbones.preprocess(backbone), device)


def _record(trial: Trial, status: Literal["ok", "failed", "stopped"], device: torch.device, **measured: Any) -> Record:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    devices = [name] * parallel.world() if name else []
    return records.of(trial, status=status, workers=parallel.world(), devices=devices, **measured)
