"""Optimizer steps: learning rate, precision, accumulation, clipping, and what a method adds to the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.methods import Group, Method, Step, has_loss
from bench.spec import TrainConfig
from bench.training.precision import HALVES, precision_on, tensor_cores
from bench.vit import Vit

LR_SCALE = "lr_scale"
"""Under this key a parameter group has its share of the learning rate."""

Term = Callable[[int, Tensor, Tensor], Tensor | None]
"""A term is added to the cross-entropy; it gets a step's number, the model's inputs and its logits."""


class DivergedError(RuntimeError):
    """The training loss is no longer a finite number, or its gradients are not."""


@dataclass(frozen=True)
class Terms:
    """What a method says of training: parameters by group, and a term of the loss if it has one."""

    groups: Sequence[Group]
    loss: Term | None = None


def terms_of(method: Method, vit: Vit, untouched: Callable[[], Vit]) -> Terms:
    """A method's terms for a model.

    Args:
        untouched: gives the backbone as it was before training; called only if the method has a loss.

    Raises:
        ValueError: the method's groups leave a trainable parameter out, or hold one twice.
    """
    groups = method.groups(vit)
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    if sorted(grouped) != sorted(id(p) for p in vit.parameters() if p.requires_grad):
        raise ValueError(f"{type(method).__name__}.groups must hold every trainable parameter exactly once")
    if not has_loss(method):
        return Terms(groups)
    before = untouched()
    return Terms(groups, lambda number, inputs, logits: method.loss(Step(number, vit, before, inputs, logits)))


def make_optimizer(groups: Sequence[Group], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over groups of parameters, each with its ``lr_scale``."""
    parameters = [{"params": list(group.parameters), LR_SCALE: group.lr_scale} for group in groups]
    lr, decay = config.lr, config.weight_decay
    # One kernel on a GPU; on a CPU it gains nothing.
    fused = all(parameter.device.type == "cuda" for group in groups for parameter in group.parameters)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=config.momentum, fused=fused)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, betas=(config.beta1, config.beta2), weight_decay=decay, fused=fused)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then a half cosine to 0 (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "none":
        return config.lr
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class Stepper:
    """Optimizer steps in the recipe's precision: accumulated, scaled and clipped."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device, terms: Terms | None = None) -> None:
        """Make the optimizer; without ``terms`` all that requires a gradient is trained alike, by cross-entropy."""
        self.skipped = 0
        self._model, self._config, self._device = model, config, device
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = make_optimizer(terms.groups if terms else [Group(trained)], config)
        self._term = terms.loss if terms else None
        self._precision = precision_on(device, config.precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision == "fp16")

    def set_lr(self, lr: float) -> float:
        """Set the learning rate, which every group takes its share of."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group[LR_SCALE]
        return lr

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizer and scaler, and how many steps were skipped."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.skipped = state["skipped"]

    def step(self, number: int, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """One step on this rank's share of a batch; returns its mean loss, on the device."""
        loss = self._backward(number, parts)
        self._update(number)
        return loss

    def rehearse(self, number: int, parts: Iterable[tuple[Tensor, Tensor]]) -> None:
        """A step that changes no weight.

        After its first step DDP lays out anew which gradients are summed together, and with it the order in which more
        than two ranks add them: a training that goes on must have had such a step.
        """
        self._backward(number, parts)
        self._optimizer.zero_grad(set_to_none=True)

    def _backward(self, number: int, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        count, losses = self._config.accumulate, []
        with tensor_cores(self._device, allowed=self._precision == "tf32"):
            for index, (inputs, labels) in enumerate(parts, start=1):
                with self._silent(index < count):
                    loss = self._loss(number, inputs, labels) / count
                    self._scaler.scale(loss).backward()
                losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _loss(self, number: int, inputs: Tensor, labels: Tensor) -> Tensor:
        half = HALVES.get(self._precision)
        with torch.autocast(self._device.type, half, enabled=half is not None):
            logits = self._model(inputs)
            loss = F.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)
            term = self._term(number, inputs, logits) if self._term else None
            return loss if term is None else loss + term

    def _silent(self, wanted: bool) -> AbstractContextManager[None]:
        """DDP shares gradients with the last part of a step only."""
        if wanted and isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()

    def _update(self, number: int) -> None:
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.skipped += self._scaler.get_scale() < scale
        if self._scaler.get_scale() < 1:
            raise DivergedError(
                f"training diverged: at step {number} fp16 cannot hold the gradients at any scale; a lower lr or "
                f"precision = bf16 may help"
            )
