"""A launch to be harmed, and what must hold of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.folder import LaunchFolder

ROOT = Path(__file__).resolve().parents[2]

SECONDS = 300
"""Within which every launch here gets where it should, on a busy machine."""

SHORT = ["--slots", "1", "--set", "train.warmup_steps=3"]
LONG = ["--set", "train.share_frozen=false"]
"""With these a linear probe takes as long as its steps: it would end in a moment if the frozen blocks were shared."""
TIMINGS = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}


class Fault:
    """One fault: its launches, and what was wrong with them."""

    def __init__(self, name: str) -> None:
        self.name, self.problems = name, list[str]()
        self._start = time.monotonic()

    def expect(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def report(self, note: str = "") -> bool:
        """Print the fault's line; returns whether nothing was wrong."""
        said = "FAIL (" + "; ".join(self.problems) + ")" if self.problems else "ok" + (f" ({note})" if note else "")
        print(f"{self.name}: {time.monotonic() - self._start:.1f} seconds, {said}", flush=True)
        return not self.problems


class Launch:
    """A running ``launch.py`` in a session of its own."""

    def __init__(
        self,
        results: Path,
        *arguments: str,
        trials: int = 4,
        seeds: int = 1,
        steps: int = 30,
        study: str = "linear",
        root: Path = ROOT,
        **environment: str,
    ) -> None:
        results.mkdir(parents=True, exist_ok=True)
        self.results, self.folder = results, LaunchFolder.of(results, study, "tiny")
        command = [sys.executable, "launch.py", "--study", study, "--results", str(results), *SHORT]
        command += ["--trials", str(trials), "--seeds", *map(str, range(seeds)), "--set", f"train.steps={steps}"]
        descriptor, name = tempfile.mkstemp(prefix="fault-", suffix=".out")  # beside the results, which may be full
        os.close(descriptor)
        self._output = Path(name)
        with self._output.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=root,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._family: dict[int, psutil.Process] = {}

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._output.read_text(errors="replace")

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Its records by trial, without what another run would measure anew."""
        read = [json.loads(path.read_text()) for path in sorted(self.folder.records.glob("*.json"))]
        return {one["trial"]: {key: value for key, value in one.items() if key not in TIMINGS} for one in read}

    def family(self) -> list[psutil.Process]:
        """All processes that it has started and that were seen here."""
        if self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._family[process.pid] = process
        return list(self._family.values())

    def named(self, word: str) -> list[psutil.Process]:
        """Its processes with a word in their name."""
        return [process for process in self.family() if process.is_running() and word in process.name()]

    def wait_for(self, ready: Callable[[], object], seconds: float = SECONDS) -> bool:
        """Wait for something while it runs; returns whether it came."""
        latest = time.monotonic() + seconds
        while time.monotonic() < latest and self.process.poll() is None:
            self.family()
            if ready():
                return True
            time.sleep(0.2)
        return False

    def wait_for_records(self, count: int) -> bool:
        """Wait for so many records."""
        return self.wait_for(lambda: len(self.records) >= count)

    def wait(self, seconds: float = SECONDS) -> int | None:
        """The exit code; None if it is still running."""
        self.wait_for(lambda: False, seconds)
        return self.process.poll()

    def left(self, seconds: float) -> list[str]:
        """What still runs of its processes after at most so many seconds."""
        _, alive = psutil.wait_procs(self.family(), timeout=seconds)
        return sorted(process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE)

    def running_in_mlflow(self) -> list[str]:
        """Names of runs that MLflow believes to be running."""
        file = self.results / "mlflow.db"
        if not file.exists():
            return []
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as store:
            asked = "select name from runs where status = 'RUNNING' and lifecycle_stage = 'active'"
            return [name for (name,) in store.execute(asked)]

    def end(self) -> None:
        """Kill all that is left of it."""
        for process in self.family():
            if process.is_running():
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def folder() -> Path:
    """A new folder with a short name."""
    return Path(tempfile.mkdtemp(prefix="fault-"))


def ended_well(fault: Fault, launch: Launch, *, codes: tuple[int, ...], seconds: float, began: float) -> None:
    """What holds of a launch that was ended: soon, with its code and one sentence, and nothing is left."""
    code = launch.wait(seconds + 60)
    took = time.monotonic() - began
    fault.expect(code in codes, f"exit code {code}, not {' or '.join(map(str, codes))}")
    fault.expect(took <= seconds, f"it took {took:.0f} s")
    left = launch.left(seconds)
    fault.expect(not left, f"left: {', '.join(left)}")
    last = (launch.output.splitlines() or [""])[-1]
    fault.expect(last.startswith(("error: ", "interrupted")), f"the last line is {last[:80]!r}")
    fault.expect("Traceback" not in launch.output, "a traceback on the screen")
