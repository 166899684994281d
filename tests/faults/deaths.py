"""kill -9 of each process that a launch cannot do without; the same command goes on afterwards."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.faults.harness import Fault, Launch, ended_well, folder

WHO = {"board": "ray::Board", "raylet": "raylet", "GCS": "gcs_server", "dashboard agent": "ray::DashboardAgent"}


def of_ray(name: str, results: Path) -> bool:
    """One of Ray's processes."""
    fault = Fault(f"kill -9 of Ray's {name}")
    launch = Launch(results)
    try:
        fault.expect(launch.wait_for_records(2), "it did not get so far")
        victims = launch.named(WHO[name])
        fault.expect(bool(victims), "there is no such process")
        began = time.monotonic()
        for victim in victims[:1]:
            victim.kill()
        # What the guardian says and marks comes after the process's own end.
        launch.wait(60)
        launch.left(30)
        ended_well(fault, launch, codes=(1,), seconds=30, began=began)
        fault.expect(not launch.running_in_mlflow(), "MLflow's runs are still running")
    finally:
        launch.end()
    return fault.report()


def of_the_launch(results: Path) -> bool:
    """The launch itself; then the same command."""
    fault = Fault("kill -9 of the launch")
    launch = Launch(results)
    try:
        fault.expect(launch.wait_for_records(2), "it did not get so far")
        before = launch.records
        launch.family()
        os.kill(launch.process.pid, signal.SIGKILL)
        launch.process.wait()
        left = launch.left(60)
        fault.expect(not left, f"left after a minute: {', '.join(left)}")
        fault.expect(not launch.running_in_mlflow(), "MLflow's runs are still running")
    finally:
        launch.end()
    again = Launch(results)
    try:
        code = again.wait()
        fault.expect(code == 0, f"the same command ends with {code}")
        fault.expect(f"continuing: {len(before)} of" in again.output, "it does not go on")
        fault.expect(before.items() <= again.records.items(), "records have changed")
        fault.expect(not again.running_in_mlflow(), "MLflow's runs are still running at the end")
    finally:
        again.end()
    return fault.report()


def main() -> int:
    """Returns the exit code."""
    place = folder()
    done = [of_the_launch(place / "launch"), *(of_ray(name, place / WHO[name].replace(":", "")) for name in WHO)]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
