"""Four launches open one MLflow store that is not there yet, at once; one more is killed while it makes a store."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults._tracked import said

ONE = """
import sys, time
import mlflow, mlflow.store.tracking.sqlalchemy_store
from pathlib import Path
from bench.folder import LaunchFolder
from bench.reporting.mlflow_tracker import open_tracker
uri, name, at = sys.argv[1:]
tracker = open_tracker(uri, experiment="same", run_name=name, parameters={"a": 1}, tags={"x": "y"})
time.sleep(max(0.0, float(at) - time.time()))
tracker.trial_started("t", {"lr": 0.1}, {})
tracker.finish(LaunchFolder(Path(".")), None, "FINISHED")
tracker.close()
sys.exit(tracker.problem)
"""


def launch(database: Path, name: str, at: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ONE, f"sqlite:///{database}", name, str(at)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def parents(database: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(database) as store:
        return sorted(store.execute("select name, status from runs where name != 't'").fetchall())


def at_once() -> bool:
    began, database = time.monotonic(), Path(tempfile.mkdtemp()) / "mlflow.db"
    names = ["a", "b", "c", "d"]
    processes = [launch(database, name, time.time() + 15) for name in names]
    problems = [process.communicate()[1].strip().splitlines()[-1] for process in processes if process.wait()]
    if not problems and parents(database) != [(name, "FINISHED") for name in names]:
        problems.append(f"runs {parents(database)}")
    return said("four launches make one MLflow store", "each has its runs", began, "; ".join(problems))


def killed() -> bool:
    began, database = time.monotonic(), Path(tempfile.mkdtemp()) / "mlflow.db"
    process = launch(database, "killed", 0)
    while not [*database.parent.glob("*.new")] and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = "" if not database.exists() else "it was complete already"
    second = launch(database, "second", 0)
    problem = second.communicate()[1].strip().splitlines()[-1:] if second.wait() else []
    left = sorted(path.name for path in database.parent.iterdir() if ".new" in path.name)
    wrong = "; ".join([*problem, *left])
    if not wrong and ("second", "FINISHED") not in parents(database):
        wrong = f"runs {parents(database)}"
    return said("killed while it makes an MLflow store", half or "the next one makes it", began, wrong)


def main() -> int:
    """Returns the exit code."""
    return 0 if all([at_once(), killed()]) else 1


if __name__ == "__main__":
    sys.exit(main())
