"""Ways to do the same: each is measured beside the one that the code takes, and nothing is changed here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.io import ImageReadMode, decode_jpeg

from bench import models
from bench.data import ahead, processes_for
from bench.methods import Group
from bench.spec import Backbone
from bench.training.augment import augment, take
from bench.training.loop import batches
from bench.training.steps import Stepper, make_optimizer
from bench.vit import as_module
from tests.gpu import timing, work
from tests.gpu.report import Line
from tests.gpu.scale import Scale

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "plain": SDPBackend.MATH,
}
NOW = "as torch chooses"


def attention(scale: Scale) -> Iterator[Line]:
    """The kernels of scaled dot-product attention at the model's shape, forwards and backwards."""
    with models.shapes_only():
        vit: Any = models.plain(Backbone(name=scale.model), num_classes=0)
    heads, tokens = vit.blocks[0].attn.num_heads, vit.patch_embed.num_patches + vit.num_prefix_tokens
    shape = (scale.batch, heads, tokens, vit.embed_dim // heads)
    q, k, v = (
        torch.randn(shape, device=timing.device_of(scale), dtype=torch.bfloat16, requires_grad=True) for _ in "qkv"
    )

    def step() -> None:
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    measured, refused = {NOW: timing.seconds(step, scale)}, []
    for name, kernel in KERNELS.items():
        try:
            with sdpa_kernel(kernel):
                measured[name] = timing.seconds(step, scale)
        except RuntimeError:  # torch has no such kernel for this device, type or shape
            refused.append(name)
    yield timing.contest(f"attention kernels, {list(shape)} in bf16", measured, now=NOW)
    if refused:
        yield Line("attention kernels that this device has not", note=", ".join(refused))


def layout(scale: Scale) -> Iterator[Line]:
    """Weights and images channels-last, or as they are."""
    plain = _step(scale)
    last = _step(scale, prepare=lambda vit: vit.to(memory_format=torch.channels_last), channels_last=True)
    yield timing.contest("a step, by memory layout", {"contiguous": plain, "channels-last": last}, now="contiguous")


def _step(scale: Scale, *, prepare: Callable[[Any], Any] = lambda model: model, channels_last: bool = False) -> float:
    trial = work.speed_trial("full", scale)
    vit, terms = work.model_of(trial, scale)
    stepper = Stepper(prepare(as_module(vit).train()), trial.train, timing.device_of(scale), terms)
    inputs, labels = work.batch(scale)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return timing.seconds(lambda: stepper.step(1, [(inputs, labels)]), scale)


def optimizers(scale: Scale) -> Iterator[Line]:
    """SGD and AdamW over all parameters: fused, by lists, or one by one."""
    for name in ("sgd", "adamw"):
        trial = work.speed_trial("full", scale, optimizer=name)
        vit, _ = work.model_of(trial, scale)
        parameters = list(vit.parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        own = make_optimizer([Group(parameters)], trial.train)
        kind: Any = type(own)
        measured = {NOW_OPTIMIZER: timing.seconds(own.step, scale)}
        recipe = {name: value for name, value in own.defaults.items() if name in ("momentum", "betas", "weight_decay")}
        for way in ({"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}):
            other = kind(parameters, lr=trial.train.lr, **recipe, **way)
            measured[_named(way)] = timing.seconds(other.step, scale)
        yield timing.contest(f"a step of {name} alone", measured, now=NOW_OPTIMIZER)


NOW_OPTIMIZER = "as built"


def _named(way: dict[str, bool]) -> str:
    return next((name for name, wanted in way.items() if wanted), "one by one")


def graphs(scale: Scale) -> Iterator[Line]:
    """CUDA graphs for a small model, whose kernels are shorter than their launches."""
    if not scale.cuda:
        yield Line("CUDA graphs", note="there are none on a CPU")
        return
    vit: Any = models.create(models.TINY, num_classes=work.CLASSES).to(timing.device_of(scale)).train()
    images = torch.randn(64, 3, 32, 32, device=timing.device_of(scale))
    plain = timing.seconds(lambda: vit(images).sum().backward(), scale, inner=3)
    captured: Any = torch.cuda.make_graphed_callables(vit, (images,))
    graphed = timing.seconds(lambda: captured(images).sum().backward(), scale, inner=3)
    yield timing.contest("tiny forwards and backwards, 64 images", {"plain": plain, "graph": graphed}, now="plain")


def feeding(scale: Scale) -> Iterator[Line]:
    """What comes before the model, per batch from memory: taking, moving, cropping and normalising on the device."""
    trial = work.speed_trial("full", scale)
    images, preprocess = work.in_memory(scale)
    where, config = timing.device_of(scale), trial.train
    positions = torch.arange(config.batch_size)

    def fed(*, pinned: bool) -> Any:
        pixels, _ = take(images, positions, config, seed=0, step=1, positions=positions)
        pixels = pixels.pin_memory() if pinned else pixels
        moved = pixels.to(where, non_blocking=True)
        return preprocess(augment(moved, config, seed=0, step=1, positions=positions))

    measured = {"pageable": timing.seconds(lambda: fed(pinned=False), scale)}
    if scale.cuda:
        measured["pinned"] = timing.seconds(lambda: fed(pinned=True), scale)
    now = "pinned" if scale.cuda else "pageable"
    yield timing.contest(f"a batch of {config.batch_size} from memory to the model", measured, now=now)


def decoding(scale: Scale) -> Iterator[Line]:
    """Random crops of JPEG files by loader processes, against decoding whole files on the device (nvJPEG on CUDA)."""
    trial = work.speed_trial("full", scale, steps=96 if scale.cuda else 2)
    images, _ = work.in_files(scale)
    where, config = timing.device_of(scale), trial.train
    order = list(batches(len(images), config, seed=0))

    def read(indices: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(len(indices))
        return take(images, indices, config, seed=0, step=1, positions=positions)[0]

    # Two batches a process are made before the clock starts, and are not counted.
    processes = processes_for(where)
    stream = ahead(order, read, processes=processes, pin=scale.cuda)
    skipped = min(2 * processes, len(order) // 2)
    for _ in range(skipped):
        next(stream)
    rest = _elapsed(lambda: [pixels.to(where) for _, pixels in stream], scale)
    by_processes = rest / (len(order) - skipped)
    paths = sorted(Path(work.jpegs(scale), "train").glob("*/*.jpg"))[: config.batch_size]
    encoded = [torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8) for path in paths]
    by_device = timing.seconds(lambda: decode_jpeg(encoded, mode=ImageReadMode.RGB, device=where), scale)
    by_device *= config.batch_size / len(encoded)
    now = f"{processes} processes, cropped"
    found = {now: by_processes, "whole, on the device": by_device}
    yield timing.contest(f"JPEG files, a batch of {config.batch_size}", found, now=now)


def _elapsed(action: Callable[[], Any], scale: Scale) -> float:
    timing.wait(scale)
    start = time.perf_counter()
    action()
    timing.wait(scale)
    return time.perf_counter() - start


WAYS = (attention, layout, optimizers, graphs, feeding, decoding)


def measured(scale: Scale) -> Iterator[Line]:
    """All of them; one that fails is told at the end, when the others have been measured."""
    failed = []
    for way in WAYS:
        try:
            yield from way(scale)
        except Exception as error:  # whatever a device does not support
            yield Line(way.__name__, note=f"failed: {type(error).__name__}: {str(error).splitlines()[:1]}")
            failed.append(way.__name__)
    if failed:
        raise RuntimeError(f"these failed: {', '.join(failed)}")
