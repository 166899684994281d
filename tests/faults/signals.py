"""Every way of telling a launch to end, at every stage: imports, the start of Ray, the middle of a search."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.faults.harness import Fault, Launch, ended_well, folder

LONG = 1_000_000
"""Steps of a trial that does not end meanwhile."""
WAYS = {
    "SIGTERM while imports run": ("imports", signal.SIGTERM, 1, False),
    "SIGTERM while Ray starts": ("ray", signal.SIGTERM, 1, False),
    "SIGHUP of a terminal": ("search", signal.SIGHUP, 1, True),
    "SIGTERM": ("search", signal.SIGTERM, 1, False),
    "SIGTERM in a trial that has nothing to report": ("long", signal.SIGTERM, 1, False),
    "five Ctrl-C": ("search", signal.SIGINT, 5, True),
}
"""When, which signal, how often, and whether all processes of the terminal get it."""


def run(name: str, results: Path) -> bool:
    """One of the ways."""
    stage, number, times, everywhere = WAYS[name]
    fault = Fault(name)
    launch = Launch(results, "--set", f"train.val_every={LONG}", steps=LONG) if stage == "long" else Launch(results)
    try:
        if stage == "imports":
            time.sleep(0.6)
        elif stage == "ray":
            launch.wait_for(lambda: launch.named("gcs_server"))
        elif stage == "long":
            fault.expect(launch.wait_for(lambda: launch.named("ray::RayTrainWorker")), "it did not get so far")
            time.sleep(20)
        else:
            fault.expect(launch.wait_for_records(2), "it did not get so far")
        began = time.monotonic()
        for _ in range(times):
            (os.killpg if everywhere else os.kill)(launch.process.pid, number)
            time.sleep(0.4 * (times > 1))
        ended_well(fault, launch, codes=(128 + number,), seconds=30, began=began)
        fault.expect(not launch.running_in_mlflow(), "MLflow's runs are still running")
    finally:
        launch.end()
    return fault.report()


def main() -> int:
    """Returns the exit code."""
    place = folder()
    done = [run(name, place / name.replace(" ", "-")) for name in WAYS]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
