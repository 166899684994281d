"""A part in a process of its own: whatever happens to it, its lines so far are kept and the next part runs."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.gpu.report import Line, Result
from tests.gpu.scale import Scale

Method = Literal["fork", "spawn"]

CORE = ("torch", "torchvision", "timm", "peft", "pydantic", "safetensors", "filelock", "yaml", "numpy", "PIL")
"""The parts need these: torch, torchvision, timm, peft and PyYAML, and what they bring with them."""

WHEELS = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn"}
"""Packages that are called otherwise where they are installed from."""


class Runs(Protocol):
    """What a part does: figures, each as soon as it is there."""

    def __call__(self, scale: Scale) -> Iterator[Line]: ...


@dataclass(frozen=True)
class Part:
    """``place``: module and function. ``seconds``: at most. ``extra``: it is left out where one of these is missing."""

    name: str
    place: str
    seconds: float
    needs: Sequence[str] = CORE
    extra: Sequence[str] = ()

    def runs(self) -> Runs:
        """The function, imported now."""
        module, _, function = self.place.partition(":")
        found: Runs = getattr(importlib.import_module(module), function)
        return found


def missing(packages: Sequence[str]) -> list[str]:
    """Which packages are not here, by the names under which they are installed."""
    return [WHEELS.get(name, name) for name in packages if importlib.util.find_spec(name) is None]


def run(
    part: Part, scale: Scale, *, seconds: float, method: Method, log: Path, tell: Callable[[Result], None]
) -> Result:
    """Run a part to its end, or until its time is up.

    Args:
        seconds: that are left for it.
        method: how its process is started.
        log: receives what it prints.
        tell: hears of every line.
    """
    result = Result(part.name)
    if lacking := missing(part.needs):
        result.status, result.reason = "failed", _lacking(lacking)
        return result
    if lacking := missing(part.extra):
        result.status, result.reason = "left out", _lacking(lacking)
        return result
    if seconds <= 0:
        result.status, result.reason = "cut", "no time was left for it"
        return result
    began = time.perf_counter()
    context: Any = multiprocessing.get_context(method)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(part, scale, writer, log), daemon=False)
    process.start()
    writer.close()
    try:
        _follow(process, reader, result, until=began + seconds, tell=tell)
    finally:
        _end(process)
        result.seconds = time.perf_counter() - began
    return result


def _lacking(packages: Sequence[str]) -> str:
    return f"not here: {', '.join(packages)} (python -m pip install {' '.join(packages)})"


def _follow(process: Any, reader: Connection, result: Result, *, until: float, tell: Callable[[Result], None]) -> None:
    while wait([reader, process.sentinel], max(0.0, until - time.perf_counter())):
        try:
            # What it has started may hold the pipe open, so that its end shows at the process alone.
            told: tuple[Any, Any] = reader.recv() if reader.poll() else ("gone", "")
            kind, value = told
        except EOFError:
            kind, value = "gone", ""
        if kind == "gone":
            process.join(10)
            result.status, result.reason = "failed", f"its process ended with {_ended(process.exitcode)}"
            return
        if kind == "line":
            result.lines.append(value)
            tell(result)
            continue
        result.status, result.reason = kind, value
        return
    result.status, result.reason = "cut", "its time was up"


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


def _end(process: Any) -> None:
    """End a part's process and all that it has started."""
    if process.exitcode is None:
        process.join(1)
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or has no group of its own yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _child(part: Part, scale: Scale, writer: Connection, log: Path) -> None:
    os.setsid()  # a group of its own, which is ended as a whole
    gc.freeze()  # what is imported stays, and need not be gone through between measurements
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        print(f"\n--- {part.name}", flush=True)
        try:
            for line in part.runs()(scale):
                writer.send(("line", line))
            writer.send(("done", ""))
        except BaseException as error:  # an exit or an interruption is a failure of the part as well
            traceback.print_exc()
            writer.send(("failed", f"{type(error).__name__}: {_first(error)}"))
        finally:
            writer.close()
            sys.stdout.flush()


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"
