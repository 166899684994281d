"""A launch that is killed at random moments and started again each time ends with the records of one that was not.

``python -m tests.faults.random_restarts [KILLS] [SEED]``. A third of the kills fall at any moment before the launch has
come further than the one before it, the others while it trains: a search, then confirmations. Snapshots are written
every second, so that trials, too, go on where they were cut.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults.harness import LONG, SECONDS, Fault, Launch, folder

KILLS = 5
STARTING = 1 / 3
"""This share of the kills falls into the start."""

TRIAL = 3.0
"""Within so many seconds of a new record the others fall: about the length of a trial."""


def start(place: Path, kills: int) -> Launch:
    """A launch of more trials than will have ended at the last kill, most of them confirmations."""
    often = ("--set", "train.checkpoint_minutes=0.02")
    return Launch(place, *often, *LONG, trials=kills // 2 + 1, seeds=kills + 2, steps=60)


def kill(launch: Launch, draw: random.Random, start_seconds: float) -> str:
    """Kill it at a random moment; returns what it was at, or an empty string if it had ended."""
    before = len(launch.records)
    if draw.random() < STARTING:
        launch.wait_for(lambda: len(launch.records) > before, draw.uniform(0.2, start_seconds))
    else:
        launch.wait_for(lambda: len(launch.records) > before, SECONDS)
        launch.wait_for(lambda: False, draw.uniform(0, TRIAL))
    if launch.process.poll() is not None:
        return ""
    os.kill(launch.process.pid, signal.SIGKILL)
    launch.process.wait()
    records = launch.records.values()
    if len(records) == before:
        return "start"
    return "confirmation" if any(record["phase"] == "confirm" for record in records) else "search"


def main(kills: int = KILLS, seed: int = 0) -> int:
    """Returns the exit code."""
    fault, draw, place = Fault(f"{kills} x kill -9 and the same command"), random.Random(seed), folder()
    began, stages, counts, killed = time.monotonic(), Counter[str](), [0], list[Launch]()
    whole = start(place / "whole", kills)
    try:
        whole.wait_for_records(1)
        start_seconds = time.monotonic() - began
        fault.expect(whole.wait() == 0, "the launch that was left alone failed")
    finally:
        whole.end()
    while len(killed) < kills:
        killed.append(start(place / "cut", kills))
        stage = kill(killed[-1], draw, start_seconds)
        if not stage:
            fault.expect(False, f"launch {len(killed)} ended by itself: {killed[-1].output[-200:]}")
            break
        stages[stage] += 1
        counts.append(len(killed[-1].records))
    last = start(place / "cut", kills)
    try:
        code = last.wait()
        fault.expect(code == 0, f"the last launch ended with {code}: {last.output[-200:]}")
        fault.expect(f"continuing: {counts[-1]} of" in last.output, "the last launch did not go on")
        fault.expect(last.records == whole.records, f"records differ: {sorted(last.records)}")
        fault.expect(not last.running_in_mlflow(), "MLflow's runs are still running")
        fault.expect(counts == sorted(counts), f"records were lost: {counts}")
        left = [name for launch in killed for name in launch.left(30)]
        fault.expect(not left, f"left: {', '.join(left)}")
        unfinished = [path.name for path in last.folder.unfinished.glob("*")]
        fault.expect(not unfinished, f"snapshots are left: {unfinished}")
    finally:
        for launch in [*killed, last]:
            launch.end()
    return 0 if fault.report(f"killed in {dict(stages)}, records after each kill: {counts[1:]}") else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
