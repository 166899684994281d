"""Clocks that wait for the device, and memory at its peak."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.gpu.report import Line
from tests.gpu.scale import Scale


def device_of(scale: Scale) -> torch.device:
    """Where it runs."""
    return torch.device(scale.device)


def wait(scale: Scale) -> None:
    """Return when the device has done all that was asked of it."""
    if scale.cuda:
        torch.cuda.synchronize()


def seconds(action: Callable[[], Any], scale: Scale, *, inner: int = 1) -> float:
    """Median seconds of an action, after two that do not count; each timing holds ``inner`` of them."""
    for _ in range(2):
        action()
    found = []
    for _ in range(scale.repeats):
        wait(scale)
        start = time.perf_counter()
        for _ in range(inner):
            action()
        wait(scale)
        found.append((time.perf_counter() - start) / inner)
    return statistics.median(found)


def forget_peak(scale: Scale) -> float:
    """Begin to count memory anew; MiB that are held now (0 where it is not counted)."""
    gc.collect()  # what a method wraps around a model may hold cycles
    if not scale.cuda:
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def peak(scale: Scale) -> float | None:
    """MiB at the most since then; None where it is not counted."""
    return torch.cuda.max_memory_allocated() / 2**20 if scale.cuda else None


def mib(value: float | None) -> str:
    """In words."""
    return "memory is counted on a GPU only" if value is None else f"{value:,.0f} MiB at its peak"


def contest(what: str, measured: Mapping[str, float], *, now: str) -> Line:
    """Which of several ways is the fastest, and how much faster than what the code does.

    Args:
        measured: seconds by way.
        now: the way that the code takes.
    """
    best = min(measured, key=lambda way: measured[way])
    shown = ", ".join(f"{way} {1000 * value:.3g} ms" for way, value in measured.items())
    gain = measured[now] / measured[best]
    verdict = f"{now}, as it is, is the fastest" if best == now else f"{best} is faster than {now}, as it is"
    facts = {"seconds": dict(measured), "now": now, "fastest": best}
    return Line(what, gain, "x", note=f"{verdict}: {shown}", facts=facts)
