"""Child: a large search over many slots that only sleep; answers with what the harness itself takes."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
from rich.console import Console

import launch as front_door
from bench.cluster import runtime
from bench.launching import preflight, study
from bench.launching.request import Request
from bench.reporting.listener import Listener
from bench.reporting.mlflow_tracker import Tracker
from bench.reporting.output import Screen
from bench.resources import Plan
from tests.performance.children import ROOT, answer, arguments
from tests.performance.sleepers import SleepingPool

MARKS = (0.1, 0.5, 0.9)
"""The probe looks at these shares of the trials: at CPU from the first to the last, at memory from the second on. What
comes before is the start of the processes, and what comes after their end."""

LOOK_SECONDS = 1.0

PARTS = {
    "ray::Board": "board",
    "ray::Pooled": "Tune's actors",
    "ray::ResourceTrainable": "Tune's actors",
    "ray::Sleepers": "sleepers",
}
"""Processes by their titles; our own one is taken apart by threads."""

THREADS = {"MainThread": "search", "mlflow": "MLflow", "listener": "listener", "optuna-storage": "Optuna's storage"}

COUNTED = ("board", "search", "Tune's actors", "MLflow", "listener", "Optuna's storage", "driver's other threads")


def main(trials: int, slots: int, seconds: float) -> dict[str, Any]:
    """Run a search of so many trials, which take some seconds each."""
    with tempfile.TemporaryDirectory() as results:
        command = ["--study", "linear", "--results", results, "--trials", str(trials), "--seeds", "0"]
        command += ["--set", f"lag={slots}"]
        launch = preflight.prepare(Request.parsed(front_door.arguments().parse_strictly(command)))
        runtime.start_ray(None, folder=ROOT)
        try:
            plan = Plan(slots=slots, workers=1, gpu=False, units=slots)
            pool = SleepingPool(plan, storage=launch.folder.ray, seconds=seconds)
            probe = Probe(pool, launch.folder.records, trials)
            with launch.folder.locked(), study.interruptible(pool), probe:
                ended = study.carry_out(launch, pool, Screen(Console(file=io.StringIO(), width=200)))
            pool.close()
        finally:
            runtime.stop_ray()
        if ended.exit_code:
            raise RuntimeError(f"the launch ended with {ended}")
        lags = sorted(_lags(launch.folder.records, round(MARKS[0] * trials)))
    return {**probe.found(), "listener_lag": lags[int(0.99 * (len(lags) - 1))]}


def _lags(folder: Path, first: int) -> Iterator[float]:
    """Seconds from a trial's end to its record, of all but the first ones."""
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[first:]:
        yield path.stat().st_mtime - json.loads(path.read_text())["details"]["ended"]


class Probe:
    """Looks on from a thread: CPU seconds by part, memory, queues."""

    def __init__(self, pool: SleepingPool, records: Path, trials: int) -> None:
        self._pool, self._records, self._trials = pool, records, trials
        self._looks: list[tuple[int, float, Mapping[int, tuple[str, float]], Mapping[str, float]]] = []
        self._clocks: dict[int, tuple[str, float]] = {}  # of what has ended, too
        self._queued: list[int] = []
        self._mlflow: list[float] = []
        self._board: list[float] = []
        self._over = threading.Event()
        self._tracker: Tracker | None = None
        self._thread = threading.Thread(target=self._look_on, name="probe", daemon=True)

    def __enter__(self) -> Probe:
        before = Listener.__init__

        def noted(listener: Listener, pool: Any, progress: Any, tracker: Any, folder: Any) -> None:
            self._tracker = tracker
            before(listener, pool, progress, tracker, folder)

        Listener.__init__ = noted  # type: ignore[method-assign, assignment]
        self._before = before
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        Listener.__init__ = self._before  # type: ignore[method-assign]
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        marks = [round(share * self._trials) for share in MARKS]
        marks[0] = max(marks[0], self._pool.plan.slots + 1)  # until then actors of Tune may be starting
        while not self._over.wait(LOOK_SECONDS):
            self._clocks |= clocks()
            done = len(list(self._records.glob("*.json")))
            if self._looks and done < self._trials:
                self._ask()
            if marks and done >= marks[0]:
                self._looks.append((done, time.perf_counter(), dict(self._clocks), memory()))
                marks = [mark for mark in marks if mark > done]

    def _ask(self) -> None:
        """How long the board takes to answer, and what is handed to MLflow's writer to be its turn."""
        start = time.perf_counter()
        ray.get(self._pool.board.remembers.remote())
        self._board.append(time.perf_counter() - start)
        if self._tracker is not None:
            self._queued.append(self._tracker._jobs.qsize())
            handed = time.perf_counter()
            self._tracker._jobs.put(lambda writer: self._mlflow.append(time.perf_counter() - handed))

    def found(self) -> dict[str, Any]:
        """What it has seen, from the end of the warm-up to the last trial of the search."""
        first, half, last = self._looks[0], self._looks[1], self._looks[-1]
        count = last[0] - first[0]
        cpu: defaultdict[str, float] = defaultdict(float)
        for identity, (part, seconds) in last[2].items():  # a process of Ray's becomes an actor, and is called so
            cpu[part] += 1000 * (seconds - first[2].get(identity, (part, 0.0))[1]) / count
        return {
            "trials": count,
            "per_second": count / (last[1] - first[1]),
            "cpu": dict(cpu),
            "counted": sum(cpu.get(part, 0.0) for part in COUNTED),
            "memory": {part: (half[3].get(part, 0.0), value) for part, value in last[3].items()},
            "over": last[0] - half[0],
            "queued": max(self._queued),
            "queued_last": self._queued[-1],
            "mlflow_lag": max(self._mlflow),
            "board_lag": max(self._board),
        }


def clocks() -> dict[int, tuple[str, float]]:
    """Part and CPU seconds of each of our threads and of each process of this launch, by id."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[int, tuple[str, float]] = {}
    for thread in psutil.Process().threads():
        name = names.get(thread.id, "")
        part = "probe" if name == "probe" else THREADS.get(name, "driver's other threads")
        found[thread.id] = (part, thread.user_time + thread.system_time)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = (_part(process), times.user + times.system)
    return found


def memory() -> dict[str, float]:
    """MiB of memory that nobody else has, by part."""
    found: defaultdict[str, float] = defaultdict(float)
    found["driver"] = psutil.Process().memory_full_info().uss / 2**20
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[_part(process)] += process.memory_full_info().uss / 2**20
    return dict(found)


def _part(process: psutil.Process) -> str:
    """Ray gives its workers' processes titles that say what they do; its own are called otherwise."""
    title = process.cmdline()[:1] or [""]
    return next((part for start, part in PARTS.items() if title[0].startswith(start)), "Ray")


if __name__ == "__main__":
    answer(**main(**arguments()))
