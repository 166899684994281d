"""A trial's loss curve: losses since the last report, and what is reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import parallel
from bench.models import CPU
from bench.readings import Point, Reading
from bench.spec import TrainConfig
from bench.training.snapshot import Snapshots
from bench.training.steps import DivergedError

Report = Callable[[Point], None]
"""Every rank calls it at the same steps with the same numbers; it may raise to end the training."""

Validate = Callable[[int], Sequence[Reading]]
"""It measures the model as it is after a step."""

REPORTS = 20
"""A trial's loss curve has at least so many points, if it has as many steps."""

REPORT_STEPS = 50
"""At most so many steps lie between two reports: a trial can be stopped only when it reports."""


@dataclass(frozen=True)
class Watch:
    """Who follows a training.

    ``report`` gets its curves, ``validate`` measures every ``config.val_every`` steps, ``snapshots`` keep what it needs
    to go on.
    """

    report: Report
    validate: Validate | None = None
    snapshots: Snapshots | None = None


class Losses:
    """Losses since the last report, kept on the device so that a step never waits for it."""

    def __init__(self, config: TrainConfig, device: torch.device = CPU) -> None:
        self._device = device
        self.every = max(1, min(config.steps // REPORTS, REPORT_STEPS))
        self.pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self.pending.append(loss)

    def state_dict(self) -> dict[str, Any]:
        """This rank's pending losses."""
        return {"pending": [loss.cpu() for loss in self.pending]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pending = [loss.to(self._device) for loss in state["pending"]]

    def take(self, step: int) -> float:
        """Mean over the pending steps and all ranks."""
        value = parallel.mean(torch.stack(self.pending)).mean().item()
        self.pending.clear()
        if not math.isfinite(value):
            raise DivergedError(f"training diverged: the loss is {value} at step {step}; a lower lr may help")
        return value


def validating(step: int, config: TrainConfig, watch: Watch) -> bool:
    """Whether the model is measured on the way after a step; after the last one it is measured in any case."""
    return watch.validate is not None and config.val_every > 0 and step % config.val_every == 0 and step < config.steps


def due(step: int, losses: Losses, config: TrainConfig, watch: Watch) -> bool:
    """Whether a step is to be reported."""
    return step == config.steps or step % losses.every == 0 or validating(step, config, watch)


def report(step: int, lr: float, losses: Losses, config: TrainConfig, watch: Watch) -> None:
    """Report a step that is due, with validation readings if they are."""
    values = {"train_loss": losses.take(step), "lr": lr}
    readings = watch.validate(step) if watch.validate is not None and validating(step, config, watch) else ()
    watch.report(Point(step, config.steps, values, readings))
