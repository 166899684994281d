"""The training loop: torch only. All it knows of the world is a ``report`` callable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import parallel
from bench.augment import augment
from bench.backbones import Preprocess
from bench.data import Split
from bench.spec import TrainConfig

Report = Callable[[Mapping[str, float]], None]
"""Called by every rank at the same steps with the same numbers; it may raise to end the training."""

REPORTS = 20
"""Points that a trial's loss curve has at least, if it has as many steps."""

REPORT_STEPS = 50
"""Steps between two reports at most: a trial can be stopped only when it reports."""


class DivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Trained:
    """What a training took: seconds spent in optimizer steps, and images seen by all ranks together."""

    steps: int
    seconds: float
    images: int

    @property
    def images_per_second(self) -> float:
        """Training throughput of the whole process group."""
        return self.images / self.seconds


def batches(count: int, config: TrainConfig, *, seed: int) -> Iterator[Tensor]:
    """This rank's part of every global batch: index tensors, one a step.

    The images come in one endless seeded stream of permutations that is cut into global batches, so that all ranks
    together see the same images at each step however many they are.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = torch.empty(0, dtype=torch.int64)
    for _ in range(config.steps):
        while len(stream) < config.batch_size:
            stream = torch.cat([stream, torch.randperm(count, generator=generator)])
        batch, stream = stream[: config.batch_size], stream[config.batch_size :]
        yield batch[parallel.rank() :: parallel.world()]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr, decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=config.momentum)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=decay)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then a half cosine to 0 (Loshchilov & Hutter 2017)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "none":
        return config.lr
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: nn.Module,
    images: Split,
    preprocess: Preprocess,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    report: Report,
    validate: Callable[[], Mapping[str, float]] | None = None,
) -> Trained:
    """Fine-tune a model in place.

    Args:
        model: maps normalised images ``[b, 3, h, w]`` to logits; wrapped in DDP where there are several ranks.
        images: the target's training split.
        seed: of the order of the images.
        report: receives ``step`` (from 1), ``train_loss``, ``lr``, and what ``validate`` returned if it was called.
        validate: called every ``config.val_every`` steps, but not after the last one.

    Raises:
        DivergedError: the loss became NaN or infinite (raised by all ranks together).
    """
    optimizer = make_optimizer(model, config)
    losses = _Losses(config)
    model.train()
    paused = 0.0
    start = time.perf_counter()
    for step, batch in enumerate(batches(len(images), config, seed=seed), start=1):
        lr = _set_lr(optimizer, learning_rate(step - 1, config))
        inputs, labels = images.take(batch).to(device), images.labels[batch].to(device)
        inputs = preprocess(augment(inputs, config, seed=seed, step=step))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            loss = F.cross_entropy(model(inputs), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        losses.add(loss.detach())
        pause = time.perf_counter()
        _report(step, lr, losses, config, report, validate)
        paused += time.perf_counter() - pause
    seconds = time.perf_counter() - start - paused
    return Trained(config.steps, seconds, config.steps * config.batch_size)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


class _Losses:
    """Losses since the last report, kept on the device so that a step never waits for it."""

    def __init__(self, config: TrainConfig) -> None:
        self.every = max(1, min(config.steps // REPORTS, REPORT_STEPS))
        self.pending: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        self.pending.append(loss)

    def take(self, step: int) -> float:
        """Mean over the pending steps and all ranks."""
        value = parallel.mean(torch.stack(self.pending)).mean().item()
        self.pending.clear()
        if not math.isfinite(value):
            raise DivergedError(f"training diverged: the loss is {value} at step {step}; a lower lr may help")
        return value


def _report(
    step: int,
    lr: float,
    losses: _Losses,
    config: TrainConfig,
    report: Report,
    validate: Callable[[], Mapping[str, Any]] | None,
) -> None:
    last = step == config.steps
    validating = validate is not None and config.val_every > 0 and step % config.val_every == 0 and not last
    if not (last or validating or step % losses.every == 0):
        return
    metrics: dict[str, float] = {"step": step, "train_loss": losses.take(step), "lr": lr}
    if validating:
        assert validate is not None
        metrics |= validate()
    report(metrics)
