"""The training loop: torch only. All it knows of the world is a ``report`` callable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import parallel
from bench.augment import InFiles, augment, erase, mix, take
from bench.backbones import HALVES, Preprocess, precision_on
from bench.data import Split
from bench.loading import ahead, processes_for
from bench.spec import TrainConfig, parse

Report = Callable[[Mapping[str, float]], None]
"""Called by every rank at the same steps with the same numbers; it may raise to end the training."""

REPORTS = 20
"""Points that a trial's loss curve has at least, if it has as many steps."""

REPORT_STEPS = 50
"""Steps between two reports at most: a trial can be stopped only when it reports."""


class DivergedError(RuntimeError):
    """The training loss is no longer a finite number, or its gradients are not."""


@dataclass(frozen=True)
class Trained:
    """What a training took: seconds spent in optimizer steps, and images seen by all ranks together.

    ``skipped`` counts the steps in which fp16's gradients overflowed, so that the weights were left as they were.
    """

    steps: int
    seconds: float
    images: int
    skipped: int = 0

    @property
    def images_per_second(self) -> float:
        """Training throughput of the whole process group."""
        return self.images / self.seconds


def resolve(config: TrainConfig, *, images: int) -> TrainConfig:
    """The configuration with ``epochs`` turned into steps; the last step may begin the next pass.

    Args:
        images: size of the training split.

    Raises:
        SpecError: the warm-up leaves nothing of these steps.
    """
    if config.epochs is None:
        return config
    steps = math.ceil(config.epochs * images / config.batch_size)
    where = f"epochs = {config.epochs:g} of {images} images"
    return parse(TrainConfig, {**config.model_dump(), "epochs": None, "steps": steps}, where=where)


def batches(count: int, config: TrainConfig, *, seed: int) -> Iterator[Tensor]:
    """Every global batch: index tensors, one a step.

    The images come in one endless seeded stream of permutations that is cut into global batches, so that all ranks
    together see the same images at each step however many they are.
    """
    generator = torch.Generator().manual_seed(seed)
    stream = torch.empty(0, dtype=torch.int64)
    for _ in range(config.steps):
        while len(stream) < config.batch_size:
            stream = torch.cat([stream, torch.randperm(count, generator=generator)])
        yield stream[: config.batch_size]
        stream = stream[config.batch_size :]


def shares(config: TrainConfig) -> Sequence[Tensor]:
    """Positions in a global batch that this rank computes, one tensor for each of its ``accumulate`` parts.

    Where images are mixed, the first of a part and the last one are partners in the global batch too, and so on inwards
    (see :func:`bench.augment.mix`): no rank needs an image of another's.
    """
    if not config.mixes:
        return torch.arange(parallel.rank(), config.batch_size, parallel.world()).chunk(config.accumulate)
    firsts = torch.arange(parallel.rank(), config.batch_size // 2, parallel.world()).chunk(config.accumulate)
    return [torch.cat([part, config.batch_size - 1 - part.flip(0)]) for part in firsts]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr, decay = config.lr, config.weight_decay
    fused = all(parameter.device.type == "cuda" for parameter in parameters)  # one kernel; on a CPU it gains nothing
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


def train(
    model: nn.Module,
    images: Split,
    preprocess: Preprocess,
    config: TrainConfig,
    *,
    classes: int,
    seed: int,
    device: torch.device,
    report: Report,
    validate: Callable[[], Mapping[str, float]] | None = None,
    activations: Tensor | None = None,
) -> Trained:
    """Fine-tune a model in place.

    Args:
        model: maps normalised images ``[b, 3, h, w]`` to logits; wrapped in DDP where there are several ranks.
        images: the target's training split.
        config: with its ``epochs`` resolved (see :func:`resolve`).
        classes: that the logits tell apart.
        seed: of the order of the images.
        report: receives ``step`` (from 1) and ``steps``, ``train_loss``, ``lr``, and what ``validate`` returned if it
            was called.
        activations: what to train on instead of the images, ``[views * n, ...]``, see :mod:`bench.prefix`; the model
            then takes these.
        validate: called every ``config.val_every`` steps, but not after the last one.

    Raises:
        DivergedError: the loss or fp16's gradients became NaN or infinite (raised by all ranks together).
        ValueError: the batch cannot be shared out equally.
    """
    assert config.epochs is None
    config.check_shares(parallel.world())
    stepper = _Stepper(model, config, device)
    losses = _Losses(config)
    parts = shares(config)
    count = len(images) if activations is None else len(activations)
    order = enumerate(batches(count, config, seed=seed), start=1)
    if activations is None:
        loaded = _load(order, parts, images, preprocess, config, classes=classes, seed=seed, device=device)
    else:
        loaded = _load_activations(order, parts, activations, images.labels.to(device))
    model.train()
    paused = 0.0
    start = time.perf_counter()
    for step, pieces in loaded:
        lr = stepper.set_lr(learning_rate(step - 1, config))
        losses.add(stepper.step(step, pieces))
        pause = time.perf_counter()
        _report(step, lr, losses, config, report, validate)
        paused += time.perf_counter() - pause
    seconds = time.perf_counter() - start - paused
    return Trained(config.steps, seconds, config.steps * config.batch_size, stepper.skipped)


Order = Iterable[tuple[int, Tensor]]
"""Steps from 1, and the indices of their global batches."""

Loaded = Iterator[tuple[int, Iterable[tuple[Tensor, Tensor]]]]
"""Steps, and for each part of this rank's share the model's inputs, and labels or probabilities."""


def _load_activations(order: Order, parts: Sequence[Tensor], activations: Tensor, labels: Tensor) -> Loaded:
    """Rows of activations, view by view, with the labels of their images."""
    for step, batch in order:
        chosen = [batch[positions].to(activations.device) for positions in parts]
        yield step, [(activations[rows], labels[rows % len(labels)]) for rows in chosen]


def _load(
    order: Order,
    parts: Sequence[Tensor],
    images: Split,
    preprocess: Preprocess,
    config: TrainConfig,
    *,
    classes: int,
    seed: int,
    device: torch.device,
) -> Loaded:
    """Images, augmented anew for every step; files are decoded by loader processes while the device computes."""

    def read(item: tuple[int, Tensor]) -> list[tuple[_Where, Tensor, Tensor, bool]]:
        step, batch = item
        return [piece(batch[positions], _Where(seed=seed, step=step, positions=positions)) for positions in parts]

    def piece(indices: Tensor, where: _Where) -> tuple[_Where, Tensor, Tensor, bool]:
        pixels, cropped = take(images, indices, config, **where)
        return where, pixels, images.labels[indices], cropped

    def prepare(where: _Where, pixels: Tensor, labels: Tensor, cropped: bool) -> tuple[Tensor, Tensor]:
        inputs, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        inputs = preprocess(augment(inputs, config, **where, cropped=cropped))
        inputs = erase(inputs, config, **where)
        if not config.mixes:
            return inputs, labels
        return mix(inputs, labels, config, classes=classes, seed=seed, step=where["step"])

    decoding = isinstance(images, InFiles) and (config.crops or not images.kept)
    processes = processes_for(device) if decoding else 0
    for (step, _), pieces in ahead(order, read, processes=processes, pin=device.type == "cuda"):
        yield step, (prepare(*one) for one in pieces)


class _Where(TypedDict):
    seed: int
    step: int
    positions: Tensor


class _Stepper:
    """Optimizer steps in the recipe's precision: accumulated, scaled and clipped."""

    def __init__(self, model: nn.Module, config: TrainConfig, device: torch.device) -> None:
        self.skipped = 0
        self._model, self._config, self._device = model, config, device
        self._optimizer = make_optimizer(model, config)
        self._precision = precision_on(device, config.precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision == "fp16")

    def set_lr(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return lr

    def step(self, number: int, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """One step on this rank's share of a batch; returns its mean loss, on the device."""
        self._optimizer.zero_grad(set_to_none=True)
        count, losses = self._config.accumulate, []
        with _tensor_cores(self._device, allowed=self._precision == "tf32"):
            for index, (inputs, labels) in enumerate(parts, start=1):
                with self._silent(index < count):
                    loss = self._loss(inputs, labels) / count
                    self._scaler.scale(loss).backward()
                losses.append(loss.detach())
        self._update(number)
        return torch.stack(losses).sum()

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        half = HALVES.get(self._precision)
        with torch.autocast(self._device.type, half, enabled=half is not None):
            return F.cross_entropy(self._model(inputs), labels, label_smoothing=self._config.label_smoothing)

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


@contextmanager
def _tensor_cores(device: torch.device, *, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for fp32 products and convolutions on a CUDA device; what was set before comes back."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


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
    metrics: dict[str, float] = {"step": step, "steps": config.steps, "train_loss": losses.take(step), "lr": lr}
    if validating:
        assert validate is not None
        metrics |= validate()
    report(metrics)
