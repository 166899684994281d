"""Images a second of training, and seconds of the k-NN search, against the rates of the device."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Literal
from unittest import mock

import torch

from bench import models, training
from bench.data import Split
from bench.measuring import extract, knn
from bench.models import Preprocess
from bench.readings import Point
from bench.spec import Backbone, Trial
from bench.training import losses
from bench.training.steps import Stepper
from bench.vit import as_module
from tests.gpu import machine, timing, work
from tests.gpu.parts import missing
from tests.gpu.report import Line
from tests.gpu.scale import Scale
from tests.performance import flops
from tests.performance.works import METHODS, Work

OF_MATRIX, OF_SEED, OF_TIMM, KNN_SECONDS, KNN_SHARE = 0.5, 3.0, 1.2, 10.0, 0.6
"""Goals: full fine-tuning over the matrix rate; over Lightning + transformers and over a timm loop; k-NN's seconds, and
the share of them that products or memory bind."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """``memory``: MiB at the peak, None where it is not counted; ``start``: seconds that the first half took longer."""

    images_per_second: float
    memory: float | None
    start: float


def measured(trial: Trial, feed: tuple[Split, Preprocess], scale: Scale, *, compiled: bool = False) -> Speed:
    """A training of a trial's model; the clock runs over the second half of its steps."""
    timing.forget_peak(scale)
    vit, terms = work.model_of(trial, scale)
    if compiled:
        training.compile_blocks(vit)
    at: dict[int, float] = {}

    def report(point: Point) -> None:
        at[point.step] = time.perf_counter()  # its loss has been read, so the device has done the step

    begun = time.perf_counter()
    # Two reports are all that is needed: each makes the host wait, and in a training of usual length they are rare.
    with mock.patch.object(losses, "REPORTS", 2):
        training.train(
            as_module(vit),
            training.Feed(*feed, classes=work.CLASSES),
            trial.train,
            seed=0,
            device=timing.device_of(scale),
            watch=training.Watch(report),
            terms=terms,
        )
    (first, middle), (last, end) = next(iter(at.items())), list(at.items())[-1]
    a_step = (end - middle) / (last - first)
    return Speed(trial.train.batch_size / a_step, timing.peak(scale), middle - begun - first * a_step)


def memory(scale: Scale) -> Iterator[Line]:
    """Every method from uint8 images in memory; full over the matrix rate; features as retention is measured."""
    rate = machine.matrix_rate("bf16", scale)
    feed = work.in_memory(scale)
    for method in work.chosen(scale):
        trial = work.speed_trial(method, scale)
        line = _line(f"{method}, from memory", trial, measured(trial, feed, scale), rate, scale)
        yield line
        if method == "full":
            yield Line("full over the bf16 matrix rate", line.facts["of_matrix"], goal=_at_least(OF_MATRIX, scale))
    yield from _features(feed, scale)


def _features(feed: tuple[Split, Preprocess], scale: Scale) -> Iterator[Line]:
    backbone, where = Backbone(name=scale.model, weights="random"), timing.device_of(scale)
    vit = models.create(backbone, num_classes=0).to(where)
    exact: torch.Tensor | None = None
    for precision in ("fp32", "tf32"):
        with training.tensor_cores(where, allowed=precision == "tf32"):
            found = extract(vit, *feed, where)
            seconds = timing.seconds(lambda: extract(vit, *feed, where), dataclasses.replace(scale, repeats=3))
        exact = found if exact is None else exact
        operations, rate = flops.of_features(backbone), len(feed[0]) / seconds
        apart = float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))
        yield Line(
            f"features, {precision}, from memory",
            rate,
            "images/s",
            note=f"{operations * rate / 1e12:.3g} TFLOP/s; {apart:.1e} from fp32's",
            facts={"model": scale.model, "flops_per_image": operations, "apart": apart},
        )


def _at_least(goal: float, scale: Scale) -> tuple[Literal[">="], float] | None:
    """A goal that is one on a GPU only."""
    return (">=", goal) if scale.cuda else None


def files(scale: Scale) -> Iterator[Line]:
    """The paper's methods from JPEG files, and full from decoded pictures on disk."""
    rate = machine.matrix_rate("bf16", scale)
    for method in [name for name in work.chosen(scale) if name in METHODS]:
        trial = work.speed_trial(method, scale, steps=scale.file_steps)
        yield _line(f"{method}, from JPEG files", trial, measured(trial, work.in_files(scale), scale), rate, scale)
    trial = work.speed_trial("full", scale, steps=scale.file_steps)
    kept = work.in_files(scale, keep_decoded=True)
    yield _line("full, from keep_decoded", trial, measured(trial, kept, scale), rate, scale)


def _line(what: str, trial: Trial, speed: Speed, rate: float, scale: Scale) -> Line:
    operations = flops.of(trial, classes=work.CLASSES).step
    achieved = operations * speed.images_per_second
    return Line(
        what,
        speed.images_per_second,
        "images/s",
        note=f"{achieved / 1e12:.3g} TFLOP/s, {100 * achieved / rate:.0f} % of the bf16 matrix rate"
        f"; {timing.mib(speed.memory)}",
        facts={
            "method": trial.method,
            "model": trial.benchmark.backbone.name,
            "flops_per_image": operations,
            "of_matrix": achieved / rate,
            "memory_mib": speed.memory,
        },
    )


COMPILED = ("full", "lora", "block_expansion")
"""Methods that differ in what is compiled: nothing added, layers within layers, blocks that are frozen."""


def compiled(scale: Scale) -> Iterator[Line]:
    """``train.compile`` on and off."""
    if not scale.compile:
        yield Line("compile", note="not measured at this size")
        return
    feed, rate = work.in_memory(scale), machine.matrix_rate("bf16", scale)
    for method in COMPILED if scale.cuda else COMPILED[:1]:  # a CPU compiles for a minute
        trial = work.speed_trial(method, scale)
        plain, fast = measured(trial, feed, scale), measured(trial, feed, scale, compiled=True)
        again = measured(trial, feed, scale, compiled=True)
        share = flops.of(trial, classes=work.CLASSES).step * again.images_per_second / rate
        yield Line(
            f"{method}: compiled over not",
            again.images_per_second / plain.images_per_second,
            "x",
            note=f"{again.images_per_second:,.0f} and {plain.images_per_second:,.0f} images/s, {100 * share:.0f} % of "
            f"the bf16 matrix rate; its start takes {fast.start:.1f} s, {again.start:.1f} s where torch's cache knows "
            f"the blocks, {plain.start:.1f} s uncompiled; {timing.mib(again.memory)}, {timing.mib(plain.memory)}",
        )


def peers(scale: Scale) -> Iterator[Line]:
    """Ours from JPEG files against the seed's stack and a timm loop, on the same files, one after the other."""
    from tests.performance import one_step  # it asks for the device as it is imported

    names: dict[str, tuple[str, float, tuple[str, ...]]] = {
        "timm": ("timm loop", OF_TIMM, ("timm",)),
        "lightning": ("Lightning + transformers", OF_SEED, ("lightning", "transformers")),
    }
    trial = work.speed_trial("full", scale, steps=scale.file_steps)
    asked = Work(scale.model, scale.batch, scale.file_steps, "bf16", work.jpegs(scale))
    ours: float | None = None
    for peer in scale.peers:
        named, goal, needs = names[peer]
        if lacking := missing(needs):
            yield Line(f"full over {named}", note=f"not here: {', '.join(lacking)}")
            continue
        theirs = one_step.WAYS[peer](asked, "full")["images_per_second"]
        ours = ours or measured(trial, work.in_files(scale), scale).images_per_second
        yield Line(
            f"full over {named}",
            ours / theirs,
            "x",
            _at_least(goal, scale),
            note=f"{ours:,.0f} and {theirs:,.0f} images/s from JPEG files",
        )


def neighbours(scale: Scale) -> Iterator[Line]:
    """k-NN in fp16 over a bank of ImageNet's size, and what block sizes would do."""
    where = timing.device_of(scale)
    draw = torch.Generator(where).manual_seed(0)
    centres = torch.randn(1000, scale.width, generator=draw, device=where)
    sets = []
    for count in (scale.bank, scale.queries):
        labels = torch.randint(1000, (count,), generator=draw, device=where)
        found = torch.empty(count, scale.width, dtype=torch.float16, device=where)
        for part, own in zip(found.split(65_536), labels.split(65_536), strict=True):
            part.copy_(torch.randn(part.shape, generator=draw, device=where).mul_(3).add_(centres[own]))
        sets += [found, labels]
    knn.knn_hits(sets[0][:1000], sets[1][:1000], sets[2][:20], sets[3][:20])
    before = timing.forget_peak(scale)
    seconds = _search(sets, scale)
    top = timing.peak(scale)
    yield from _search_lines(seconds, None if top is None else top - before, scale)
    few = max(max(knn.DEFAULT_KS), scale.bank // 8)
    fewer = [sets[0][:few], sets[1][:few], *sets[2:]]
    measured = {}
    names = ("CUDA_QUERIES", "CUDA_BANK") if scale.cuda else ("BLOCK_QUERIES", "BLOCK_BANK")
    for rows, columns in ((1024, 8192), (4096, 8192), (4096, 32_768), (8192, 65_536)):
        sizes: Any = dict(zip(names, (rows, columns), strict=True))
        with mock.patch.multiple(knn, **sizes):
            measured[f"{rows} x {columns}"] = _search(fewer, scale)
    now = " x ".join(str(getattr(knn, name)) for name in names)
    yield timing.contest(f"k-NN by blocks, a bank of {len(fewer[0]):,}", measured, now=now)


def _search(sets: list[torch.Tensor], scale: Scale) -> float:
    timing.wait(scale)
    start = time.perf_counter()
    knn.knn_accuracy(*sets)  # ends in numbers, so the device has done its work
    return time.perf_counter() - start


def _search_lines(seconds: float, memory: float | None, scale: Scale) -> Iterator[Line]:
    pairs = scale.bank * scale.queries
    operations, bandwidth = 2 * pairs * scale.width, machine.bandwidth(scale)
    floor = {
        "float32 products": operations / machine.matrix_rate("fp32", scale),
        "similarities, written and read once in float32": 2 * 4 * pairs / bandwidth,
    }
    half = operations / machine.matrix_rate("fp16", scale)
    binds = max(floor, key=lambda name: floor[name])
    what = f"k-NN, {scale.queries:,} x {scale.bank:,} x {scale.width}, fp16"
    yield Line(
        what,
        seconds,
        "s",
        ("<=", KNN_SECONDS) if scale.cuda else None,
        note=f"beside the sets {timing.mib(memory)}",
        facts={"pairs_per_second": pairs / seconds},
    )
    note = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in floor.items())
    note += f"; products in fp16, which round the similarities, {1000 * half:.3g} ms"
    yield Line("share of it that binds", floor[binds] / seconds, "", _at_least(KNN_SHARE, scale), note=note)


def profiled(scale: Scale) -> Iterator[Line]:
    """Where one step of full and of LoRA goes: the kernels that take most."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * scale.cuda
    inputs, labels = work.batch(scale)
    for method in [name for name in ("full", "lora") if name in work.chosen(scale)]:
        trial = work.speed_trial(method, scale)
        vit, terms = work.model_of(trial, scale)
        stepper = Stepper(as_module(vit).train(), trial.train, timing.device_of(scale), terms)
        for number in (1, 2):
            stepper.step(number, [(inputs, labels)])
        timing.wait(scale)
        with profile(activities=kinds) as found:
            stepper.step(3, [(inputs, labels)])
            timing.wait(scale)
        yield from _top(method, found, scale)


TOP = 16
"""So many kernels are named."""


def _top(method: str, found: Any, scale: Scale) -> Iterator[Line]:
    def own(event: Any) -> float:
        return float(event.self_device_time_total if scale.cuda else event.self_cpu_time_total)

    # On a GPU an operation is told the time of its kernels, which are listed as well: they alone are counted.
    kernels = [event for event in found.key_averages() if not scale.cuda or event.device_type.name == "CUDA"]
    events = sorted(kernels, key=own, reverse=True)
    total = sum(map(own, events))
    yield Line(f"{method}: a step", total / 1000, "ms", note="of the device" if scale.cuda else "of the CPU")
    for event in events[:TOP]:
        share = 100 * own(event) / total
        yield Line(f"{method}: {event.key[:80]}", own(event) / 1000, "ms", note=f"{share:.1f} %, {event.count} times")
