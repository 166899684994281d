"""Another program holds MLflow's SQLite file locked for 45 s, and once for longer than the launch lasts."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.__main__ import main as bench
from bench.folder import LaunchFolder
from bench.reporting.mlflow_store import default_uri, open_store
from tests.faults._tracked import faults_of, opened, said, trial, written


def locked(results: Path) -> sqlite3.Connection:
    database = sqlite3.connect(results / "mlflow.db", isolation_level=None, check_same_thread=False)
    database.execute("begin immediate")
    return database


def for_a_while(seconds: float) -> bool:
    began, results = time.monotonic(), Path(tempfile.mkdtemp())
    folder = LaunchFolder.of(results, "faults", "tiny")
    open_store(default_uri(results))
    tracker = opened(default_uri(results), folder)
    trial(tracker, folder, "t0")
    written(tracker)
    release = threading.Timer(seconds, locked(results).rollback)
    release.start()
    for number in (1, 2):
        trial(tracker, folder, f"t{number}")
    time.sleep(seconds - 20)
    tracker.finish(folder, None, "FINISHED")
    tracker.close()
    return said(
        f"SQLite locked for {seconds:.0f} s",
        "all runs are there",
        began,
        tracker.problem or faults_of(results / "mlflow.db", 3),
    )


def to_the_end() -> bool:
    began, results = time.monotonic(), Path(tempfile.mkdtemp())
    folder = LaunchFolder.of(results, "faults", "tiny")
    open_store(default_uri(results))
    tracker = opened(default_uri(results), folder)
    trial(tracker, folder, "t0")
    written(tracker)
    database = locked(results)
    trial(tracker, folder, "t1")
    tracker.finish(folder, None, "FINISHED")
    ending = time.monotonic()
    tracker.close()
    waited = time.monotonic() - ending
    database.rollback()
    time.sleep(25)  # what was under way ends
    with contextlib.redirect_stdout(io.StringIO()):
        code = bench(["sync", str(folder.path)])
    wrong = [
        f"the end waited for {waited:.0f} s" if waited > 31 else "",
        "nothing was said" if "bench sync" not in (tracker.problem or "") else "",
        f"sync: exit code {code}" if code else "",
        faults_of(results / "mlflow.db", 2, curves=False),
    ]
    what = f"the end waited for {waited:.0f} s, sync brought the rest"
    return said("SQLite locked to the end", what, began, ", ".join(filter(None, wrong)))


def main() -> int:
    """Returns the exit code."""
    return 0 if all([for_a_while(45), to_the_end()]) else 1


if __name__ == "__main__":
    sys.exit(main())
