"""Does the device compute what a CPU computes, and what it says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bench import checkpoints, models, training
from bench import trial as trials
from bench.folder import LaunchFolder
from bench.measuring import computing, extract, knn, source_score
from bench.models import CPU, Setting
from bench.readings import Point
from bench.records import Record
from bench.spec import Trial
from bench.training import precision_on
from bench.vit import as_module
from tests.gpu import timing, work
from tests.gpu.report import Line
from tests.gpu.scale import Scale

LOSS, HALF_LOSS = 1e-3, 0.1
"""So much may a loss of an fp32 training, and the last loss of a training in half precision, differ from fp32's on a
CPU."""

MEASURED = {"fp32": 1e-5, "tf32": 5e-3}
"""So much may features differ, relative to their norm, by the precision that is measured in."""

LEFT = 0.02
"""Such a share of a training's seconds may be left to do for the device when its clock has stopped."""


def methods_agree(scale: Scale) -> Iterator[Line]:
    """Every method's trial in fp32: its losses and accuracies against those of a CPU."""
    for method in work.chosen(scale):
        trial = work.check_trial(method, scale, precision="fp32")
        (here, ours), (cpu, theirs) = losses(trial, timing.device_of(scale)), losses(trial, CPU)
        yield Line(
            f"{method}: loss over {len(cpu)} steps, farthest from a CPU's",
            apart(here, cpu),
            goal=("<=", LOSS),
            required=True,
            note=f"accuracies target {_both(ours, theirs, 'target')}, source {_both(ours, theirs, 'source')}",
        )


def losses(trial: Trial, device: torch.device) -> tuple[list[float], Record]:
    """The loss of every step, and the record.

    Raises:
        RuntimeError: the trial failed.
    """
    found: list[Point] = []
    record = trials.run(trial, report=found.append, device=device)
    if record.status != "ok":
        raise RuntimeError(f"{trial.method} {trial.train.precision} ended as {record.status}: {record.error}")
    return [point.values["train_loss"] for point in found], record


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference of two curves; NaN if one holds it, or they differ in length."""
    if len(first) != len(second) or not first:
        return float("nan")
    gaps = [abs(a - b) for a, b in zip(first, second, strict=True)]
    return max(gaps) if all(gap == gap for gap in gaps) else float("nan")


def _both(ours: Record, theirs: Record, domain: str) -> str:
    return f"{ours.scores[f'{domain}_accuracy']:.2f} and {theirs.scores[f'{domain}_accuracy']:.2f} %"


def precisions(scale: Scale) -> Iterator[Line]:
    """bf16, fp16 and tf32 run, and learn what fp32 learns; of the same seed, on the same device."""
    device = timing.device_of(scale)
    for method in [name for name in ("full", "lora") if name in work.chosen(scale)]:
        exact, _ = trained(work.check_trial(method, scale, precision="fp32"), scale)
        for precision in ("tf32", "bf16", "fp16"):
            curve, done = trained(work.check_trial(method, scale, precision=precision), scale)
            yield Line(
                f"{method}, {precision}: last loss beside fp32's",
                abs(curve[-1] - exact[-1]),
                goal=("<=", HALF_LOSS),
                required=True,
                note=f"{curve[-1]:.4f} and {exact[-1]:.4f}; {done.skipped} steps skipped",
            )
    yield Line("precision = auto", note=f"is {precision_on(device, 'auto')} on this device")


def trained(trial: Trial, scale: Scale) -> tuple[list[float], training.Trained]:
    """The losses of a trial's training, and what it took; nothing is measured afterwards."""
    setting, found = Setting.of(trial, timing.device_of(scale)), list[Point]()
    vit, terms = work.model_of(trial, scale, setting.target.num_classes)
    done = training.train(
        as_module(vit),
        training.Feed(setting.target.train, setting.preprocess, setting.target.num_classes),
        trial.train,
        seed=0,
        device=setting.device,
        watch=training.Watch(found.append),
        terms=terms,
    )
    return [point.values["train_loss"] for point in found], done


def features_agree(scale: Scale) -> Iterator[Line]:
    """Features of the untouched backbone against a CPU's, in both precisions that are measured in."""
    trial, where = work.check_trial("full", scale), timing.device_of(scale)
    vit = models.create(models.TINY, num_classes=0)
    source, preprocess = Setting.of(trial, CPU).source, models.preprocess(models.TINY)
    exact = extract(vit, source.bank, preprocess, CPU)
    vit = vit.to(where)
    for precision, most in MEASURED.items():
        benchmark = trial.benchmark.model_copy(update={"measure_precision": precision})
        with computing(benchmark, where):
            found = extract(vit, source.bank, preprocess, where)
            score = source_score(vit, source, source.test, preprocess, where).accuracy
        note = f"source accuracy {score:.2f} %"
        apart = _relative(found, exact)
        yield Line(f"features in {precision}, relative to a CPU's", apart, "", ("<=", most), required=True, note=note)


def _relative(found: Tensor, exact: Tensor) -> float:
    return float(torch.linalg.vector_norm(found.cpu() - exact) / torch.linalg.vector_norm(exact))


def neighbours_agree(scale: Scale) -> Iterator[Line]:
    """k-NN on the device and on a CPU: equal where products are exact, ties included; else but for near ties."""
    bank, queries, classes = min(scale.bank, 20_000), min(scale.queries, 1000), 50
    draw = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(classes, (count,), generator=draw) for count in (bank, queries))
    signs = [torch.randint(2, (count, 64), generator=draw) * 2.0 - 1 for count in (bank, queries)]
    yield _hits_differ("signs, whose products are exact and tie", signs, labels, truth, scale, most=0.0)
    noise = [centres_of(classes)[own] + 0.5 * torch.randn(len(own), 64, generator=draw) for own in (labels, truth)]
    yield _hits_differ("random numbers", noise, labels, truth, scale, most=0.1)


def centres_of(classes: int) -> Tensor:
    """The middle of every class, ``[classes, 64]``."""
    return torch.randn(classes, 64, generator=torch.Generator().manual_seed(1))


def _hits_differ(
    what: str, features: list[Tensor], labels: Tensor, truth: Tensor, scale: Scale, *, most: float
) -> Line:
    where = timing.device_of(scale)
    cpu = knn.knn_hits(features[0], labels, features[1], truth)
    found = knn.knn_hits(features[0].to(where), labels.to(where), features[1].to(where), truth.to(where))
    shares = [100 * (found[k].cpu() != cpu[k]).double().mean().item() for k in cpu]
    k = max(cpu)
    note = f"{len(features[1]):,} queries in {len(features[0]):,}; top-1 at k = {k}: {_top1(found[k])} %"
    return Line(f"k-NN of {what}: answers unlike a CPU's", max(shares), "%", ("<=", most), required=True, note=note)


def _top1(hits: Tensor) -> str:
    return f"{100 * hits[:, 0].double().mean().item():.1f}"


def evaluation_agrees(scale: Scale) -> Iterator[Line]:
    """A confirmed trial that is measured again by ``python -m bench evaluate``: there, and on a CPU."""
    place = LaunchFolder.of(Path(scale.folder, "results"), "gpu", "gpu")
    trial, kept = work.check_trial("lora", scale, phase="confirm", precision="fp32"), dict[str, Tensor]()
    record = trials.run(trial, device=timing.device_of(scale), keep=kept.update)
    path = record.write(place.records)
    place.keep_tensors(record.trial, save({name: value.contiguous() for name, value in kept.items()}))
    for device, most in {"cpu": 2.0, scale.device: 0.0}.items():
        again = checkpoints.evaluate(path, device)
        gap = max(
            abs(old.numbers[name] - new.numbers[name])
            for old, new in zip(record.readings, again.readings, strict=True)
            for name in old.numbers
        )
        yield Line(f"evaluate on {device}, beside the record", gap, "points", ("<=", most), required=True)


def shards(scale: Scale, world: int = 4) -> Iterator[Line]:
    """The bank cut over ranks: the neighbours are those of the whole bank, and a rank needs its share of the memory."""
    where = timing.device_of(scale)
    draw = torch.Generator(where).manual_seed(0)
    size, count = min(scale.bank, 40_000), min(scale.queries, 2000)
    # Signs, whose products are exact: a product's shape decides on the order of its sums, and so on their last bits.
    bank, queries = (torch.randint(2, (n, 64), generator=draw, device=where) * 2.0 - 1 for n in (size, count))
    k = min(200, size // world)
    whole = knn.nearest(queries, bank, k)
    parts = [knn.nearest(queries, bank[rank::world], k, start=rank, step=world) for rank in range(world)]
    differ = (knn.best(torch.cat(parts, 1), k) != whole).double().mean().item()
    yield Line(f"neighbours in a bank cut in {world}", 100 * differ, "% differ", ("<=", 0.0), required=True)
    del bank, queries, whole, parts
    share = torch.randn(-(-scale.bank // world), scale.width, generator=draw, device=where, dtype=torch.float16)
    own = torch.randn(scale.queries, scale.width, generator=draw, device=where, dtype=torch.float16)
    before = timing.forget_peak(scale)
    knn.nearest(own, share, k)
    peak = timing.peak(scale)
    # The queries in float32, the k best of each (8 bytes), and three blocks' worth for a block and its candidates.
    block = 4 * knn.CUDA_QUERIES * knn.CUDA_BANK if scale.cuda else 4 * knn.BLOCK_QUERIES * knn.BLOCK_BANK
    most = (4 * own.numel() + 8 * len(own) * k + 3 * block) / 2**20
    yield Line(
        f"memory of a rank's search beside its sets of {(share.nbytes + own.nbytes) / 2**20:,.0f} MiB",
        None if peak is None else peak - before,
        "MiB",
        ("<=", most) if peak is not None else None,
        note=f"{scale.queries:,} queries in a {world}th of {scale.bank:,} x {scale.width}; {timing.mib(peak)}",
    )


def clocks_wait(scale: Scale) -> Iterator[Line]:
    """What is left to do for the device when a training says that it has ended: its seconds hold all of its steps."""
    trial = work.speed_trial("full", scale)
    vit, terms = work.model_of(trial, scale)
    feed = training.Feed(*work.in_memory(scale), classes=work.CLASSES)
    done = training.train(
        as_module(vit),
        feed,
        trial.train,
        seed=0,
        device=timing.device_of(scale),
        watch=training.Watch(trials.ignore),
        terms=terms,
    )
    start = time.perf_counter()
    timing.wait(scale)
    left = time.perf_counter() - start
    note = f"{left:.2g} of {done.seconds:.3g} s"
    yield Line("left when the clock stops", left / done.seconds, goal=("<=", LEFT), required=True, note=note)


def study(scale: Scale) -> Iterator[Line]:
    """A study of two trials through Ray, Optuna and MLflow, where these are."""
    root, results = Path(__file__).parents[2], Path(scale.folder, "study")
    command = [sys.executable, "launch.py", "--study", "linear", "--trials", "2", "--seeds", "0", "--slots", "1"]
    command += ["--set", "train.steps=20", "--results", str(results)]
    own = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    start = time.perf_counter()
    subprocess.run(command, cwd=root, env=own, check=True)
    seconds = time.perf_counter() - start
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in results.glob("*/*/records/*.json")]
    good = [one for one in records if one["status"] == "ok" and bool(_devices(one)) is scale.cuda]
    yield Line("trials that succeeded on the device", len(good), goal=(">=", 3), required=True, note=f"{seconds:.0f} s")


def _devices(record: dict[str, Any]) -> list[str]:
    found: list[str] = record["provenance"]["hardware"]["devices"]
    return found
