"""The device itself: what it is, and its rates, which everything else is compared with."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from bench.training import tensor_cores
from bench.training.precision import HALVES
from tests.gpu.report import Line
from tests.gpu.scale import Scale
from tests.gpu.timing import device_of, seconds

VERSIONS = ("torchvision", "timm", "peft", "transformers", "lightning", "ray", "optuna", "mlflow")


def device(scale: Scale) -> Iterator[Line]:
    """What is measured on."""
    if scale.cuda and not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device here: `make gpu ARGS=--cpu` runs everything small, without one")
    (torch.ones(8, 8, device=device_of(scale)) @ torch.ones(8, 8, device=device_of(scale))).sum().item()
    yield Line("device", note=_device(scale)["device"], facts=_device(scale) | _software())


def _device(scale: Scale) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"device": f"{platform.machine()} CPU", "cores": cores}
    if scale.cuda:
        found = torch.cuda.get_device_properties(0)
        facts["device"] = found.name
        facts["memory"] = f"{found.total_memory / 2**30:.1f} GiB"
        facts["compute capability"] = f"{found.major}.{found.minor}"
        facts["CUDA"] = torch.version.cuda
        facts["cuDNN"] = torch.backends.cudnn.version()
    return facts


def _software() -> dict[str, Any]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def rates(scale: Scale) -> Iterator[Line]:
    """A large square product in every precision, and a large copy."""
    for precision in ("bf16", "fp16", "tf32", "fp32"):
        rate = matrix_rate(precision, scale)
        yield Line(f"matrix product, {precision}", rate / 1e12, "TFLOP/s", facts={"flops_per_second": rate})
    rate = bandwidth(scale)
    yield Line("copy, read and written", rate / 1e9, "GB/s", facts={"bytes_per_second": rate})


def matrix_rate(precision: str, scale: Scale) -> float:
    """Operations a second of a product of two square matrices of random numbers: an addition and a product are two."""
    where = device_of(scale)
    first, second = (
        torch.randn(scale.side, scale.side, device=where, dtype=HALVES.get(precision, torch.float32)) for _ in "ab"
    )
    with tensor_cores(where, allowed=precision == "tf32"):
        return 2 * scale.side**3 / seconds(lambda: first @ second, scale, inner=3)


def bandwidth(scale: Scale) -> float:
    """Bytes a second of a copy within the device's memory, counted as they are read and as they are written."""
    source = torch.empty(2**30 if scale.cuda else 2**24, dtype=torch.uint8, device=device_of(scale)).random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), scale, inner=3)
