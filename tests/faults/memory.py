"""A trial that takes all memory: Ray ends its worker before the machine does, and the study goes on without it.

Ray's monitor looks at the memory of the whole machine. So its limit is set to some GiB above what is in use now, and
the script is skipped where there is less than twice as much.
"""

from __future__ import annotations

import sys

import psutil

from tests.faults._sick import project
from tests.faults.harness import Fault, Launch, folder

ROOM = 6 * 2**30
"""Bytes for the launch itself, and for what others on the machine take meanwhile."""


def main() -> int:
    """Returns the exit code."""
    fault, memory, place = Fault("a trial that takes all memory"), psutil.virtual_memory(), folder()
    if memory.available < 2 * ROOM:
        print(f"{fault.name}: 0.0 seconds, skipped (needs {2 * ROOM >> 30} GiB of free memory)")
        return 0
    threshold = (memory.total - memory.available + ROOM) / memory.total
    root = project(place / "project", ["eats", "well"])
    launch = Launch(
        place / "results",
        trials=2,
        study="sick",
        root=root,
        RAY_memory_usage_threshold=f"{threshold:.3f}",
        RAY_memory_monitor_refresh_ms="100",
    )
    try:
        code = launch.wait()
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
        every = list(launch.records.values())
        statuses = {(one["hyperparameters"]["way"], one["phase"], one["status"]) for one in every}
        expected = {("eats", "search", "failed"), ("well", "search", "ok"), ("well", "confirm", "ok")}
        fault.expect(statuses == expected, f"records are {sorted(statuses)}")
        errors = {one["error"] for one in every if one["status"] == "failed"}
        fault.expect(all("memory" in (error or "") for error in errors), f"records say {errors}")
    finally:
        launch.end()
    return 0 if fault.report(f"limit {threshold:.0%}") else 1


if __name__ == "__main__":
    sys.exit(main())
