"""Work that trials share: where the first blocks are frozen, what they make of an image is computed once and kept.

It is the same at every step, for every reading and in every trial of a slot, whatever its method, learning rate and
seed: all that counts are the weights of these blocks, the images and how they are prepared. So a training without
augmentation, and every measuring, computes what comes after the frozen blocks only. A trial with ``train.views = V``
trains on V fixed augmented views of every image instead of a fresh one at each step, and shares them in the same way.

What is kept stays within a share of the memory. What the trial at hand does not use makes room, the least recently used
first; what does not fit all the same is computed as if there was nothing to share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench import cache, parallel, resources
from bench.data import Split
from bench.methods import Method, has_loss
from bench.models import CPU, Preprocess, Read, Tail
from bench.spec import SpecError, TrainConfig
from bench.training.augment import augment, erase, take
from bench.training.modes import evaluation_mode
from bench.training.precision import HALVES, precision_on, tensor_cores

VIEWS_SEED = 0
"""The views are drawn with this seed: they belong to the data, so that trials with different seeds share them."""

BATCH = 256
"""So many images go through the frozen blocks at once; that is part of the result, so it is the same everywhere."""

SHARE = 0.3
"""Activations may take so much of a device's memory, over all processes, and of what is free there."""

FLOAT32 = 4

LARGE = 256 * 2**20
"""More bytes than these are in a mapped file, which the system may write to the disk if it needs the memory."""

_processes = 1
_kept: list[_Kept] = []
"""These are kept in this process, the least recently used first."""


@dataclass(frozen=True)
class _Kept:
    what: str
    """What made these: see :meth:`bench.models.Tail.key`."""
    how: object
    """What else they depend on, but for the images."""
    images: Split
    activations: Tensor
    user: object
    """The trial that has used them last."""


@dataclass(frozen=True)
class Use:
    """A trial's use of some images, all ``copies`` of which go through its frozen blocks.

    ``name``: of the split, as records call it. ``read``: what for. ``how``: what the activations depend on beside the
    blocks, the images and their preprocessing. ``count``: so many of the images are this rank's. ``place``: where they
    are kept; ``precision``: in which they are computed, not ``auto``.
    """

    name: str
    images: Split
    preprocess: Preprocess
    read: Read
    count: int
    place: torch.device = CPU
    copies: int = 1
    how: tuple[object, ...] = ()
    precision: str = "fp32"

    def bytes_needed(self, tail: Tail) -> int:
        """Memory that the activations take: they are float32, under autocast too."""
        return FLOAT32 * self.copies * self.count * math.prod(tail.shape())


def share_memory(processes: int) -> None:
    """Let this process be one of so many that share the machine's memory; each has a GPU of its own, if any."""
    global _processes
    _processes = processes


def budget(device: torch.device) -> int:
    """Bytes that activations may take on a device in this process: what others keep there makes room for them."""
    held = sum(kept.activations.nbytes for kept in _kept if kept.activations.device.type == device.type)
    processes = 1 if device.type == "cuda" else _processes
    return int(SHARE * min(total_memory(device) / processes, free_memory(device) + held))


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else resources.memory()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on a GPU with what torch holds there and has freed."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    import psutil

    return int(psutil.virtual_memory().available)


def forget_all_but(use: Use | None, device: torch.device) -> None:
    """Free a GPU of what other trainings have kept there: of all that a training with this use cannot find again.

    Beside a GPU all is kept until something else needs the room.
    """
    if device.type == "cuda":
        wanted = None if use is None else (use.preprocess, use.how, device)
        _kept[:] = [
            kept
            for kept in _kept
            if kept.activations.device.type != "cuda"
            or (use is not None and kept.images is use.images and kept.how == wanted)
        ]


def check_views(tail: Tail, config: TrainConfig, *, images: int, device: torch.device) -> None:
    """Refuse views whose activations do not fit into memory.

    Raises:
        SpecError: with what they need, and what there is.
    """
    assert config.views is not None
    needed = FLOAT32 * config.views * images * math.prod(tail.shape())
    if needed > (most := budget(device)):
        raise too_many_views(config, images, needed, most)


def too_many_views(config: TrainConfig, images: int, needed: int, most: int) -> SpecError:
    """The error that says so."""
    return SpecError(
        f"train.views = {config.views} of {images:,} images needs {needed / 2**30:.1f} GiB for activations, and "
        f"{most / 2**30:.1f} GiB may be used: ask for fewer views or images, or leave views out"
    )


AUGMENTATION = (
    "views",
    "crop_min",
    "crop_max",
    "flip",
    "randaugment_n",
    "randaugment_m",
    "trivial_augment",
    "erase_prob",
    "precision",
)
"""Activations of training images depend on these fields of the recipe."""


def shares_training(config: TrainConfig, method: Method) -> bool:
    """Whether each step sees the same activations of an image: a method's own loss may look at the images instead."""
    return config.views is not None or (config.share_frozen and not config.augments and not has_loss(method))


def training_use(images: Split, preprocess: Preprocess, config: TrainConfig, device: torch.device) -> Use:
    """What a training needs: every rank needs the activations of all images, on its device."""
    how = tuple(getattr(config, name) for name in AUGMENTATION)
    precision = precision_on(device, config.precision)
    return Use("target_train", images, preprocess, "logits", len(images), device, config.views or 1, how, precision)


def measuring_use(name: str, images: Split, preprocess: Preprocess, read: Read, precision: str = "fp32") -> Use:
    """What a reading needs: those of this rank's images, beside a GPU, whose memory is the training's."""
    how = (parallel.rank(), parallel.world(), precision)
    return Use(name, images, preprocess, read, len(parallel.mine(len(images))), how=how, precision=precision)


Fill = Callable[[Callable[[Tensor], Tensor], Tensor | None], Iterable[Tensor]]
"""It applies a function to a use's normalised images, or to rows that stand for them, in the same batches."""


@dataclass(frozen=True)
class Shared:
    """What one trial shares with those before and after it in its process.

    ``tail``: of its model. ``uses``: what there is room for, the first ones first. ``left_out``: names of the others.
    """

    tail: Tail
    device: torch.device
    uses: Sequence[Use]
    left_out: Sequence[str]
    _most: Mapping[torch.device, int]
    _user: object = field(default_factory=object)

    @classmethod
    def of(cls, tail: Tail, uses: Sequence[Use], device: torch.device) -> Shared:
        """Choose what to share; every rank chooses the same."""
        most = {place: budget(place) for place in (CPU, device)}
        left, chosen, left_out = dict(most), [], []
        for use in uses:
            needed = use.bytes_needed(tail)
            if parallel.everywhere(needed <= left[use.place], device):
                chosen.append(use)
                left[use.place] -= needed
            else:
                left_out.append(use.name)
        return cls(tail, device, chosen, left_out, most)

    def use_of(self, images: Split, read: Read) -> Use | None:
        """How some images are used; None if they are not shared."""
        return next((use for use in self.uses if use.images is images and use.read == read), None)

    def activations(self, use: Use, fill: Fill) -> Tensor:
        """What the frozen beginning makes of a use's images, ``[copies * count, ...]``, computed once in a process.

        They are where the use wants them.
        """
        what, how = self.tail.key(use.read), (use.preprocess, use.how, self.device)
        rows = self._found(use, what, how)
        if rows is None:
            rows = self._computed(use, how, fill)
        _kept.append(_Kept(what, how, use.images, rows, self._user))
        return rows

    def _found(self, use: Use, what: str, how: object) -> Tensor | None:
        for index, kept in enumerate(_kept):
            if kept.images is use.images and (kept.what, kept.how) == (what, how):
                return _kept.pop(index).activations
        return None

    def _computed(self, use: Use, how: object, fill: Fill) -> Tensor:
        """All rows, batch by batch in a fixed order."""
        self._make_room(use.place, use.bytes_needed(self.tail))
        rows = _empty((use.copies * use.count, *self.tail.shape()), use.place)
        half, filled = HALVES.get(use.precision), 0
        # Not in inference mode: training saves these tensors for its backward pass.
        with (
            evaluation_mode(self.tail),
            torch.no_grad(),
            tensor_cores(self.device, allowed=use.precision == "tf32"),
            torch.autocast(self.device.type, half, enabled=half is not None),
        ):
            for batch in self._batches(use, how, fill):
                rows[filled : filled + len(batch)] = batch
                filled += len(batch)
        return rows

    def _batches(self, use: Use, how: object, fill: Fill) -> Iterable[Tensor]:
        """Activations of the images, or of what is kept of them after fewer blocks."""
        tail = self.tail
        same = [kept for kept in _kept if kept.images is use.images and kept.how == how and kept.what in tail.keys]
        if not same:
            return fill(lambda images: tail.beginning(images, use.read), None)
        last = max(same, key=lambda kept: tail.keys.index(kept.what))
        start = tail.keys.index(last.what)
        return fill(lambda tokens: tail.beyond(tokens, start, use.read), last.activations)

    def _make_room(self, place: torch.device, needed: int) -> None:
        """Forget what other trials have used there."""
        here = [kept for kept in _kept if kept.activations.device.type == place.type]
        held = sum(kept.activations.nbytes for kept in here)
        for kept in [kept for kept in here if kept.user is not self._user]:
            if held + needed <= self._most[place]:
                return
            held -= kept.activations.nbytes
            _kept[:] = [other for other in _kept if other is not kept]


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Room for activations; large ones are in memory without a file only where there is no room on the disk."""
    large = device.type == "cpu" and FLOAT32 * math.prod(shape) >= LARGE
    mapped = cache.scratch(shape, torch.float32) if large else None
    return torch.empty(shape, device=device) if mapped is None else mapped


def views(use: Use, config: TrainConfig, device: torch.device) -> Fill:
    """Goes through all views of a training's images in a fixed order; of none asked for, through the images."""
    order = torch.arange(use.count).repeat(use.copies)
    config = config.model_copy(update={"batch_size": BATCH})

    def fill(function: Callable[[Tensor], Tensor], rows: Tensor | None) -> Iterator[Tensor]:
        for step, chosen in enumerate(order.split(BATCH)):
            if rows is not None:
                yield function(rows[step * BATCH : (step + 1) * BATCH])
                continue
            positions = torch.arange(len(chosen))
            pixels, cropped = take(use.images, chosen, config, seed=VIEWS_SEED, step=step, positions=positions)
            inputs = augment(
                pixels.to(device), config, seed=VIEWS_SEED, step=step, positions=positions, cropped=cropped
            )
            yield function(erase(use.preprocess(inputs), config, seed=VIEWS_SEED, step=step, positions=positions))

    return fill
