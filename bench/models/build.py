"""The model of a trial: built, started from another one, kept, and restored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench import folder, methods
from bench.models.architectures import plain, shapes_only
from bench.models.head_norm import add_head_norm
from bench.models.weights import create
from bench.records import Record
from bench.spec import SpecError, Trial

if TYPE_CHECKING:
    from bench.vit import Vit

CPU = torch.device("cpu")

LISTED = 10
"""A message about a checkpoint that does not fit lists at most so many tensors."""


def build(trial: Trial, classes: int, device: torch.device = CPU, start: Start | None = None) -> Vit:
    """The model of a trial as it is before the first step: backbone, head norm, method.

    Args:
        classes: of the target.
        start: what it starts from, see :func:`start_of`; its shape alone does not depend on that.

    Raises:
        ValueError: the model does not have the tensors of ``start``, or the method does not fit the backbone.
    """
    return _prepared(create(trial.benchmark.backbone, num_classes=classes).to(device), trial, start).to(device)


def outline(trial: Trial, classes: int, device: torch.device | None = None) -> Vit:
    """The architecture that :func:`build` gives, without its weights.

    Args:
        classes: of the target.
        device: where its tensors are, filled at random; None: they have shapes only, and take no memory.

    Raises:
        SpecError: the method does not fit the backbone.
    """
    with shapes_only() if device is None else device:
        vit = plain(trial.benchmark.backbone, num_classes=classes)
        try:
            return _prepared(vit, trial, None)
        except ValueError as error:
            raise SpecError(f"study {trial.study!r} on backbone {trial.benchmark.backbone}: {error}") from None


def _prepared(vit: Vit, trial: Trial, start: Start | None) -> Vit:
    if trial.benchmark.head_norm:
        add_head_norm(vit)
    if start is not None and not start.applied:
        _fill(vit, start)
    vit = methods.load(trial.method, **trial.fields).apply(vit)
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
        _, other, vit = load(Path(path))
    if other.benchmark.backbone != trial.benchmark.backbone:
        raise ValueError(
            f"start_from = {path} has the backbone {other.benchmark.backbone}, not {trial.benchmark.backbone}"
        )
    same = (other.method, other.fields) == (trial.method, trial.fields)
    merged = vit if same else methods.load(other.method, **other.fields).merge(vit)
    return Start(path, merged.state_dict(), same)


def _fill(vit: Vit, start: Start) -> None:
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


def trained_tensors(vit: Vit) -> dict[str, Tensor]:
    """What training may have changed, by name, on the CPU: trainable parameters, and all buffers (the head norm's)."""
    names = {name for name, parameter in vit.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in vit.named_buffers()}
    return {name: value.detach().cpu() for name, value in vit.state_dict().items() if name in names}


def kept_tensors(trial: Trial, vit: Vit) -> dict[str, Tensor]:
    """What a trial's checkpoint holds: what was trained; all tensors if the others are not the backbone's either."""
    if trial.train.start_from is None:
        return trained_tensors(vit)
    return {name: value.detach().cpu() for name, value in vit.state_dict().items()}


def restore(trial: Trial, tensors: Mapping[str, Tensor], classes: int, device: torch.device = CPU) -> Vit:
    """The trained model of a trial, from its specification and the tensors that it kept.

    Raises:
        ValueError: the tensors are not those of this trial.
    """
    vit = build(trial, classes, device)
    expected = set(kept_tensors(trial, vit))
    if set(tensors) != expected:
        missing, surplus = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
        raise ValueError(f"the checkpoint does not fit trial {trial.id}: missing {missing}, unexpected {surplus}")
    vit.load_state_dict(tensors, strict=False)
    return vit.eval()


def load(path: Path, device: torch.device = CPU) -> tuple[Record, Trial, Vit]:
    """A confirmed trial's record, its specification and its trained model.

    Args:
        path: of the record's file, or of the checkpoint's.

    Raises:
        ValueError: it is no record, or its tensors were not kept.
    """
    record, weights = folder.trained(path)
    trial = Trial.model_validate_json(json.dumps(record.config))
    tensors = load_file(weights)
    return record, trial, restore(trial, tensors, len(tensors["head.weight"]), device)
