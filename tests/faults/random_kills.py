"""One study in which processes are killed at random, beside a quiet one: nothing is lost, and nothing is twice.

Workers of a group of two (either rank), Tune's actors and Ray Train's controllers are killed with SIGKILL.
``python -m tests.faults.random_kills [KILLS] [SEED]``.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from bench.folder import SNAPSHOT
from tests.faults.harness import LONG, Fault, Launch, folder

KILLS = 5

TUNES = "ray::ResourceTrainable"
KINDS = ("ray::RayTrainWorker", TUNES, "ray::TrainController")

STEPS = 40
"""Of a trial, for each kill: so that the study is long enough for all of them."""

PAUSE = (1.0, 5.0)
"""So many seconds after the workers train again one of them is killed; every third time after they are there again."""

SECONDS = 1500
"""Within which a launch ends, on a busy machine."""


def start(results: Path, kills: int) -> Launch:
    """Start the launch."""
    steps = STEPS * kills
    group = ["--num-workers", "2", "--set", "train.batch_size=16"]
    often = ["--set", "train.checkpoint_minutes=0.02", "--set", f"train.val_every={steps // 3}"]
    return Launch(results, *group, *often, *LONG, trials=6, seeds=2, steps=steps)


def kill(launch: Launch, kills: int, seed: int) -> Counter[str]:
    """Kill processes until there were enough, or the launch has ended; returns how many of each kind."""
    draw, killed, before = random.Random(seed), Counter[str](), set[int]()
    launch.wait_for_records(1)
    while killed.total() < kills and launch.wait_for(functools.partial(group, launch, before), SECONDS):
        if killed.total() % 3:  # or a trial would die of it: three times at the same step
            launch.wait_for(functools.partial(came_further, launch, time.time()), SECONDS)
        launch.wait_for(lambda: False, draw.uniform(*PAUSE))
        kind, workers = draw.choice(KINDS), group(launch, before)
        try:
            draw.choice(launch.named(kind)).kill()
        except (IndexError, psutil.NoSuchProcess):
            continue  # none of them runs now
        killed[kind] += 1
        if kind != TUNES:  # the group ends, which takes a moment
            before |= workers
    return killed


def group(launch: Launch, before: set[int]) -> set[int]:
    """The two workers of a group, none of which was there before; empty while they are not both there."""
    workers = {process.pid for process in launch.named(KINDS[0])} - before
    return workers if len(workers) == 2 else set()


def came_further(launch: Launch, since: float) -> bool:
    """Whether a snapshot or a record has been written since then."""
    snapshots = launch.folder.unfinished.glob(f"[!.]*{SNAPSHOT}")
    files = [*snapshots, *launch.folder.records.glob("[!.]*")]
    with contextlib.suppress(FileNotFoundError):  # of a trial that has just ended
        return any(path.stat().st_mtime > since for path in files)
    return False


def faults(quiet: Launch, killed: Launch) -> list[str]:
    """What is wrong with the results of the launch in which processes were killed."""
    expected, found = quiet.records, killed.records
    wrong = [f"{trial} is lost" for trial in expected if trial not in found]
    wrong += [f"{trial} was not asked for" for trial in found if trial not in expected]
    wrong += [f"{trial} differs" for trial in found if trial in expected and found[trial] != expected[trial]]
    with sqlite3.connect(f"file:{killed.results / 'mlflow.db'}?mode=ro", uri=True, timeout=30) as store:
        runs = Counter(name for (name,) in store.execute("select name from runs where lifecycle_stage = 'active'"))
    wrong += [f"{name} has {count} runs in MLflow" for name, count in runs.items() if count > 1]
    wrong += [f"{name} is running in MLflow" for name in killed.running_in_mlflow()]
    return wrong + [f"{path.name} is left" for path in killed.folder.unfinished.glob("*")]


def main(kills: int = KILLS, seed: int = 0) -> int:
    """Returns the exit code."""
    fault, place = Fault(f"{kills} processes killed"), folder()
    quiet = start(place / "quiet", kills)
    try:
        fault.expect(quiet.wait(SECONDS) == 0, f"the quiet launch failed: {quiet.output[-200:]}")
    finally:
        quiet.end()
    began = time.monotonic()
    launch = start(place / "killed", kills)
    try:
        counts = kill(launch, kills, seed)
        code = launch.wait(SECONDS)
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
        fault.expect(counts.total() == kills, f"there was time for {counts.total()} kills only")
        fault.problems.extend(faults(quiet, launch))
        left = launch.left(30)
        fault.expect(not left, f"left: {', '.join(left)}")
    finally:
        launch.end()
    killed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return 0 if fault.report(f"{killed}; this launch took {time.monotonic() - began:.0f} s") else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
