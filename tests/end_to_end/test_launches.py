"""A launch that is interrupted; `make faults` has the other ways of ending one, at every stage."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import launch as front_door
from tests.contract.test_folders import classes

from .conftest import SECONDS, Start, begin_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STUDY = "method: linear\nsearch: {lr: {low: 0.0001, high: 1.0, log: true}}\nseeds: [0]\n"


class Launch:
    """A running ``launch.py`` on sixty pictures."""

    def __init__(self, start: Start, store: Path, results: Path, *arguments: str, **process: Any) -> None:
        begin_with(store, results)
        folder = results.parent
        pictures = f"folder:{classes(folder / 'pictures')}"
        file = folder / "small.yaml"
        file.write_text(STUDY)
        self.arguments = ["--study", str(file), "--results", str(results), "--set", "train.batch_size=8"]
        self.arguments += ["--target", pictures, "--source", pictures, "--source-per-class", "8", *arguments]
        self.process = start([sys.executable, "launch.py", *self.arguments], **process)
        self.results = results

    def end(self) -> tuple[int, str, str]:
        """Exit code and output."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.results.glob("small/*/records/*.json"))]

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait for something while the launch runs."""
        end = time.monotonic() + SECONDS
        while not ready():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.2)

    def interrupt(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal to all processes of the terminal; afterwards none of the launch's is left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert family
        os.killpg(self.process.pid, number)
        ended = self.end()
        _, left = psutil.wait_procs(family, timeout=60)
        assert [process.cmdline() for process in left] == []
        return ended


def test_a_launch_that_is_interrupted_keeps_what_it_has(
    start: Start, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody else gets into its folder meanwhile; of its processes none is left."""
    long = ["--trials", "400", "--set", "train.steps=50", "--slots", "1"]
    launch = Launch(start, store, tmp_path / "results", *long, "--json")
    launch.wait_for(lambda: bool(launch.records))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        front_door.main([word for word in launch.arguments if word != "--json"])
    assert ended.value.code == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "another launch is writing to" in refused.err
    code, told, err = launch.interrupt(signal.SIGINT)
    assert code == 130
    assert "interrupted; the records of finished trials are kept" in err
    assert {record["status"] for record in launch.records} == {"ok"}
    assert len(launch.records) < 400
    events = [json.loads(line) for line in told.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "said"]
    assert kinds[:3] == ["plan", "phase", "trial_started"]
    assert kinds.count("trial_finished") == len(launch.records)
    assert (events[-1]["event"], events[-1]["status"], events[-1]["exit_code"]) == ("ended", "interrupted", 130)
    assert "the same command goes on from them" in events[-1]["text"]
