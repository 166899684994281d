"""Launches that are stopped, cut short, broken, or run beside each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.contract.test_folders import classes

from .conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
STUDY = "method: linear\nsearch: {lr: {low: 0.0001, high: 1.0, log: true}}\nseeds: [0]\n"
SECONDS = 180
"""Within which everything here happens, on a busy machine."""


class Launch:
    """A running ``launch.py`` on sixty pictures, in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, results: Path, *arguments: str, study: str = STUDY, **process: Any) -> None:
        pictures = f"folder:{folder if folder.exists() else classes(folder)}"
        file = folder.parent / "small.yaml"
        file.write_text(study)
        command = [sys.executable, "launch.py", "--study", str(file), "--results", str(results)]
        command += ["--target", pictures, "--source", pictures, "--source-per-class", "5"]
        command += ["--set", "train.batch_size=8", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **process,
        )
        self.results = results

    def end(self) -> tuple[int, str, str]:
        """Exit code and output."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.results.glob("small/*/records/*.json"))]

    def wait_for_a_record(self) -> None:
        wait(lambda: bool(self.records) or self.process.poll() is not None)
        assert self.process.poll() is None

    def interrupt(self, number: signal.Signals, *, everywhere: bool) -> tuple[int, str, str]:
        """Send a signal, to all processes of the terminal if wanted; afterwards none of the launch's is left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert family
        (os.killpg if everywhere else os.kill)(self.process.pid, number)
        ended = self.end()
        _, left = psutil.wait_procs(family, timeout=20)
        assert [process.cmdline() for process in left] == []
        return ended


def wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_workers_that_cannot_start_end_the_launch_with_a_reason(tmp_path: Path) -> None:
    worker = "any('default_worker' in word for word in sys.orig_argv)"
    broken = f"import sys\nif {worker}: sys.modules['safetensors.torch'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    launch = Launch(tmp_path / "pictures", tmp_path / "results", "--trials", "2", env=environment)
    code, out, err = launch.end()
    assert (code, err) == (1, "")
    assert "2 of 2 trials failed" in out
    assert "could not be kept alive" in out
    assert "import of safetensors.torch halted" in out
    assert {record["status"] for record in launch.records} == {"failed"}


def test_a_scheduler_stops_trials_on_a_machine_with_one_core(tmp_path: Path) -> None:
    """ASHA; and on a single core the slot's worker and Tune's actor find room beside each other."""
    study = STUDY + "scheduler: asha\ntrials: 6\ntrain: {steps: 120, val_every: 8, schedule: none}\n"
    one = {min(os.sched_getaffinity(0))}
    launch = Launch(
        tmp_path / "pictures", tmp_path / "results", study=study, preexec_fn=lambda: os.sched_setaffinity(0, one)
    )
    code, out, err = launch.end()
    assert code == 0, out + err
    assert "1 slot x 1 worker, one CPU core each, of 1" in out
    searched = [record for record in launch.records if record["phase"] == "search"]
    stopped = [record for record in searched if record["status"] == "stopped"]
    assert len(searched) == 6
    assert stopped
    for record in stopped:
        assert 8 <= record["steps"] < 120
        assert record["val_mean"] is not None
    assert list(launch.results.glob("small/*/leaderboard.md"))
    assert list(launch.results.glob("small/*/pareto.png"))


def test_launches_beside_each_other_and_one_that_is_interrupted(tmp_path: Path) -> None:
    pictures, long = tmp_path / "pictures", ["--trials", "400", "--set", "train.steps=200"]
    first = Launch(pictures, tmp_path / "first", *long)
    other = Launch(pictures, tmp_path / "other", "--trials", "4", "--set", "train.steps=3")
    first.wait_for_a_record()
    code, out, err = Launch(pictures, tmp_path / "first", *long).end()
    assert (code, out) == (2, "")
    assert "another launch is writing to" in err
    code, _, err = first.interrupt(signal.SIGINT, everywhere=True)
    assert code == 130
    assert "interrupted; the records of finished trials are kept" in err
    assert 0 < len(first.records) < 400
    code, out, err = other.end()
    assert code == 0, out + err
    assert {record["status"] for record in other.records} == {"ok"}
    assert len(other.records) == 5


def test_sigterm_ends_a_launch_whose_workers_are_still_starting(tmp_path: Path) -> None:
    launch = Launch(tmp_path / "pictures", tmp_path / "results", "--trials", "400")
    wait(lambda: bool(list(tmp_path.glob("results/small/*/ray/slot-*"))))
    code, _, _ = launch.interrupt(signal.SIGTERM, everywhere=False)
    assert code == 128 + signal.SIGTERM
    assert launch.records == []
