"""One study in which twenty processes are killed at random, beside a quiet one: nothing is lost, and nothing is twice.

Workers (either rank), Tune's actors and Ray Train's controllers are killed with SIGKILL. Run it with
``python -m tests.faults.random_kills [kills]``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]

KILLS = 20

KINDS = ("RayTrainWorker", "PooledTrial", "TrainController")

VOLATILE = ("train_seconds", "eval_seconds", "images_per_second", "provenance")

STUDY = ["--study", "linear", "--trials", "8", "--seeds", "0", "1", "--slots", "1", "--num-workers", "2"]
STUDY += ["--set", "train.batch_size=16", "--set", "train.checkpoint_minutes=0.02"]

STEPS = 50
"""Of a trial, for each kill: so that the study is long enough for all of them."""

PAUSE = (2.0, 6.0)
"""So many seconds lie between two kills, counted from when the workers are there again."""

SECONDS = 3000
"""Within which a launch ends, on a busy machine."""


def start(results: Path, log: Path, kills: int) -> subprocess.Popen[bytes]:
    """Start the launch."""
    steps = STEPS * kills
    length = ["--set", f"train.steps={steps}", "--set", f"train.val_every={steps // 3}"]
    command = [sys.executable, "launch.py", *STUDY, *length, "--results", str(results)]
    with log.open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)


def victims(launch: subprocess.Popen[bytes], kind: str) -> list[psutil.Process]:
    """The launch's processes of a kind."""
    found = []
    for process in psutil.Process(launch.pid).children(recursive=True):
        try:
            if kind in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it has ended meanwhile
    return found


def kill(launch: subprocess.Popen[bytes], records: Path, kills: int) -> Counter[str]:
    """Kill processes until there were enough, or the launch has ended; returns how many of each kind."""
    draw, killed = random.Random(0), Counter[str]()
    while killed.total() < kills and launch.poll() is None:
        if not any(records.glob("*.json")) or len(victims(launch, "RayTrainWorker")) < 2:
            time.sleep(0.5)
            continue
        time.sleep(draw.uniform(*PAUSE))
        if launch.poll() is None and (found := victims(launch, draw.choice(KINDS))):
            victim = draw.choice(found)
            try:
                kind = next(kind for kind in KINDS if kind in " ".join(victim.cmdline()))
                os.kill(victim.pid, signal.SIGKILL)
                killed[kind] += 1
            except (ProcessLookupError, psutil.Error, StopIteration):
                continue  # it has ended by itself
    return killed


def stable(records: Path) -> dict[str, dict[str, Any]]:
    """Records by trial, without what differs between two runs of the same."""
    found = [json.loads(path.read_text()) for path in sorted(records.glob("*.json"))]
    return {one["trial"]: {name: value for name, value in one.items() if name not in VOLATILE} for one in found}


def faults(quiet: Path, killed: Path, code: int) -> list[str]:
    """What is wrong with the results of the launch in which processes were killed."""
    there = "linear/tiny/records"
    expected, found = stable(quiet / there), stable(killed / there)
    wrong = [f"exit code {code}"] if code else []
    wrong += [f"{trial} is lost" for trial in expected if trial not in found]
    wrong += [f"{trial} was not asked for" for trial in found if trial not in expected]
    wrong += [f"{trial} differs" for trial in found if trial in expected and found[trial] != expected[trial]]
    with sqlite3.connect(f"file:{killed / 'mlflow.db'}?mode=ro", uri=True) as store:
        runs = Counter(name for (name,) in store.execute("select name from runs where lifecycle_stage = 'active'"))
    wrong += [f"{name} has {count} runs in MLflow" for name, count in runs.items() if count > 1]
    left = list((killed / "linear/tiny").glob("unfinished/*"))
    return wrong + [f"{path.name} is left" for path in left]


def main(kills: int = KILLS) -> int:
    """Run both launches; prints one line."""
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder, "quiet"), Path(folder, "killed")
        launch = start(quiet, Path(folder, "quiet.log"), kills)
        if launch.wait(SECONDS):
            print("random kills: the quiet launch failed, FAIL")
            return 1
        begun = time.monotonic()
        launch = start(killed, Path(folder, "killed.log"), kills)
        counts = kill(launch, killed / "linear/tiny/records", kills)
        wrong = faults(quiet, killed, launch.wait(SECONDS))
        wrong += [f"only {counts.total()} of {kills} kills"] if counts.total() < kills else []
        if wrong:
            print(Path(folder, "killed.log").read_text(errors="replace")[-2000:], file=sys.stderr)
    seconds = time.monotonic() - begun
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(
        f"random kills ({said}): before: a dead rank failed its trial, two deaths in a row ended the slot / after: "
        f"{'; '.join(wrong) or 'exit 0, nothing lost, nothing twice, records as without'}, {seconds:.0f} s, "
        f"{'FAIL' if wrong else 'ok'}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
