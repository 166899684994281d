"""Workers that cannot start end the launch, with the reason; Ray itself would try again for ever."""

from __future__ import annotations

import sys
import time

from tests.faults.harness import Fault, Launch, ended_well, folder

REASON = "the worker group of slot 0 could not be kept alive: WorkerGroupStartupTimeoutError"
SECONDS = 120.0
"""For three worker groups on a busy machine."""


def main() -> int:
    """Returns the exit code."""
    fault, place, began = Fault("workers that cannot start"), folder(), time.monotonic()
    launch = Launch(place / "results", "--slots", "1", RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="0.01")
    try:
        ended_well(fault, launch, codes=(1,), seconds=SECONDS, began=began)
        fault.expect(REASON in " ".join(launch.output.split()), f"it says {launch.output[-300:]!r}")
        fault.expect(not launch.records, "what never ran has a record")  # nor has it failed
    finally:
        launch.end()
    return 0 if fault.report() else 1


if __name__ == "__main__":
    sys.exit(main())
