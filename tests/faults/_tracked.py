"""What the faults of MLflow's stores have in common: a launch's folder, its tracker without a launch, and one line."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.folder import LaunchFolder
from bench.records import Record, write_atomically
from bench.reporting.mlflow_tracker import Tracker, open_tracker

ID = "f417" * 8


def opened(uri: str, folder: LaunchFolder) -> Tracker:
    """The tracker of a launch on a store."""
    asked: dict[str, dict[str, str]] = {"study": {}, "benchmark": {}}
    write_atomically(folder.manifest, json.dumps({"id": ID, "ended": True, "asked": asked}))
    tags = {"launch": ID}
    return open_tracker(uri, experiment="faults", run_name="launch", parameters={"a": 1}, tags=tags, folder=folder)


def written(tracker: Tracker) -> None:
    """Wait until a tracker has written what it was given."""
    done = threading.Event()
    tracker._jobs.put(lambda _: done.set())
    done.wait(120)


def trial(tracker: Tracker, folder: LaunchFolder, name: str) -> None:
    """A short trial: it starts, reports, and ends with a record."""
    tracker.trial_started(name, {"lr": 0.1}, {})
    for step in range(1, 6):
        tracker.trial_reported(name, {"train_loss": 1 / step}, step)
        time.sleep(0.02)
    record = Record(
        trial=name,
        study="faults",
        benchmark="tiny",
        method="full",
        hyperparameters={},
        row={},
        seed=0,
        phase="search",
        status="stopped",
        steps=5,
        config={},
        provenance={"time": datetime.now(UTC).isoformat()},
    )
    record.write(folder.records)
    tracker.trial_finished(record)


def faults_of(database: Path, trials: int, *, curves: bool = True) -> str:
    """What is wrong with a store that should hold a launch with that many trials, each once, ended, with its curve."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30) as store:
        runs = store.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall()
        points = store.execute(
            "select count(*) from metrics m join runs r using (run_uuid) "
            "where key = 'train_loss' and r.lifecycle_stage = 'active'"
        ).fetchone()[0]
    wrong = [f"{name} is RUNNING" for name, status in runs if status == "RUNNING"]
    names = [name for name, _ in runs if name != "launch"]
    if sorted(names) != [f"t{number}" for number in range(trials)] or len(runs) != trials + 1:
        wrong.append(f"runs {sorted(name for name, _ in runs)}")
    if curves and points != 5 * trials:
        wrong.append(f"{points} of {5 * trials} points")
    return ", ".join(wrong)


def said(name: str, what: str, began: float, wrong: str) -> bool:
    """Print a fault's line; returns whether it was survived."""
    outcome = f"FAIL ({wrong})" if wrong else f"ok ({what})"
    print(f"{name}: {time.monotonic() - began:.1f} seconds, {outcome}", flush=True)
    return not wrong
