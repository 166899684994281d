"""The training loop: torch only. All it knows of the world is a ``report`` callable."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from bench import parallel
from bench.data import InFiles, Split, ahead, processes_for
from bench.models import Preprocess
from bench.spec import TrainConfig, parse
from bench.training.augment import augment, erase, mix, take
from bench.training.losses import Losses, Watch, due, report
from bench.training.modes import average, running_statistics, training_mode
from bench.training.snapshot import Snapshots
from bench.training.steps import Stepper, Terms, learning_rate


@dataclass(frozen=True)
class Feed:
    """What a model learns from: labelled images of some classes, and how they become its input.

    ``activations`` ``[views * n, ...]`` take the place of the images, if there are any (see
    :mod:`bench.training.prefix`); the model then takes these.
    """

    images: Split
    preprocess: Preprocess
    classes: int
    activations: Tensor | None = None


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
    (see :func:`bench.training.augment.mix`): no rank needs an image of another's.
    """
    if not config.mixes:
        return torch.arange(parallel.rank(), config.batch_size, parallel.world()).chunk(config.accumulate)
    firsts = torch.arange(parallel.rank(), config.batch_size // 2, parallel.world()).chunk(config.accumulate)
    return [torch.cat([part, config.batch_size - 1 - part.flip(0)]) for part in firsts]


def train(
    model: nn.Module,
    feed: Feed,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    watch: Watch,
    terms: Terms | None = None,
) -> Trained:
    """Fine-tune a model in place; what is frozen is in evaluation mode, and ends bit for bit as it began.

    Args:
        model: maps normalised images ``[b, 3, h, w]`` to logits; wrapped in DDP where there are several ranks.
        feed: the target's training split.
        config: with its ``epochs`` resolved (see :func:`resolve`).
        seed: of the order of the images.
        watch: receives the curves, and measures on the way.
        terms: of the method; without them all that requires a gradient is trained alike, by cross-entropy.

    Raises:
        DivergedError: the loss or fp16's gradients became NaN or infinite (raised by all ranks together).
        ValueError: the batch cannot be shared out equally.
    """
    assert config.epochs is None
    config.check_shares(parallel.world())
    stepper, losses, clock = Stepper(model, config, device, terms), Losses(config, device), _Clock(device)
    training_mode(model)
    statistics = running_statistics(model)
    loaded = _continued(_Run(stepper, losses, clock), feed, config, watch.snapshots, seed=seed, device=device)
    wait(device)
    clock.start()
    for step, pieces in loaded:
        lr = stepper.set_lr(learning_rate(step - 1, config))
        losses.add(stepper.step(step, pieces))
        average(statistics)
        if due(step, losses, config, watch):
            with clock.pause():
                report(step, lr, losses, config, watch)
        if watch.snapshots is not None and watch.snapshots.due(step):
            with clock.pause():
                watch.snapshots.save(step)
    return Trained(config.steps, clock.stop(), config.steps * config.batch_size, stepper.skipped)


class _Clock:
    """Seconds that a training takes: what it reports and keeps is not a part of it, what it took before a cut is."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._since = time.perf_counter()

    def start(self) -> None:
        """Go on."""
        self._since = time.perf_counter()

    def stop(self) -> float:
        """Stop; returns the seconds so far."""
        self._seconds += time.perf_counter() - self._since
        return self._seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop for a while, when the steps that are on their way have been done: they are training."""
        wait(self._device)
        self.stop()
        yield
        self.start()

    def state_dict(self) -> dict[str, Any]:
        """Seconds until it was stopped."""
        return {"seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on from there."""
        self._seconds = state["seconds"]


class _Run(NamedTuple):
    stepper: Stepper
    losses: Losses
    clock: _Clock


def _continued(
    run: _Run, feed: Feed, config: TrainConfig, snapshots: Snapshots | None, *, seed: int, device: torch.device
) -> Loaded:
    """The steps that are left to do; all parts are in the state that they had before the first of them."""
    if snapshots is None:
        return _loaded(feed, config, seed=seed, device=device)
    snapshots.keep(stepper=run.stepper, clock=run.clock)
    snapshots.keep_own(losses=run.losses)
    found = snapshots.read()
    loaded = _loaded(feed, config, seed=seed, device=device, done=found.step if found else 0)
    if found is not None and parallel.world() > 1:
        loaded = _rehearsed(run.stepper, loaded)
    snapshots.begin(found)
    return loaded


def _rehearsed(stepper: Stepper, loaded: Loaded) -> Loaded:
    """The same steps, the first of which has been rehearsed."""
    for step, pieces in loaded:
        first = step, list(pieces)
        stepper.rehearse(*first)
        return itertools.chain([first], loaded)
    return iter(())


Order = Iterable[tuple[int, Tensor]]
"""An order holds steps from 1, and the indices of their global batches."""

Loaded = Iterator[tuple[int, Iterable[tuple[Tensor, Tensor]]]]
"""Loading gives steps, and for each part of this rank's share the model's inputs, and labels or probabilities."""


def wait(device: torch.device) -> None:
    """Return when the device has done all that was asked of it; what the clock says before that is no measurement."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _loaded(feed: Feed, config: TrainConfig, *, seed: int, device: torch.device, done: int = 0) -> Loaded:
    """Every step after the first ``done``."""
    count = len(feed.images) if feed.activations is None else len(feed.activations)
    order = itertools.islice(enumerate(batches(count, config, seed=seed), start=1), done, None)
    if feed.activations is not None:
        return _load_activations(order, shares(config), feed.activations, feed.images.labels.to(device))
    return _load(order, feed, config, seed=seed, device=device)


def _load_activations(order: Order, parts: Sequence[Tensor], activations: Tensor, labels: Tensor) -> Loaded:
    """Rows of activations, view by view, with the labels of their images."""
    for step, batch in order:
        chosen = [batch[positions].to(activations.device) for positions in parts]
        yield step, [(activations[rows], labels[rows % len(labels)]) for rows in chosen]


def _load(order: Order, feed: Feed, config: TrainConfig, *, seed: int, device: torch.device) -> Loaded:
    """Images, augmented anew for every step; files are decoded by loader processes while the device computes."""
    images, parts = feed.images, shares(config)

    def read(item: tuple[int, Tensor]) -> list[tuple[_Where, Tensor, Tensor, bool]]:
        step, batch = item
        return [piece(batch[positions], _Where(seed=seed, step=step, positions=positions)) for positions in parts]

    def piece(indices: Tensor, where: _Where) -> tuple[_Where, Tensor, Tensor, bool]:
        pixels, cropped = take(images, indices, config, **where)
        return where, pixels, images.labels[indices], cropped

    def prepare(where: _Where, pixels: Tensor, labels: Tensor, cropped: bool) -> tuple[Tensor, Tensor]:
        inputs, labels = pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        inputs = feed.preprocess(augment(inputs, config, **where, cropped=cropped))
        inputs = erase(inputs, config, **where)
        if not config.mixes:
            return inputs, labels
        return mix(inputs, labels, config, classes=feed.classes, seed=seed, step=where["step"])

    decoding = isinstance(images, InFiles) and (config.crops or not images.kept)
    processes = processes_for(device) if decoding else 0
    for (step, _), pieces in ahead(order, read, processes=processes, pin=device.type == "cuda"):
        yield step, (prepare(*one) for one in pieces)


class _Where(TypedDict):
    seed: int
    step: int
    positions: Tensor
