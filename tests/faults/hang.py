"""Trials that stand still, in Python and deep in C, end after ``trial_minutes``; the study goes on without them."""

from __future__ import annotations

import re
import sys

from tests.faults._sick import project
from tests.faults.harness import Fault, Launch, folder

MINUTES = 0.4
"""Many times what a trial that is well needs."""


def main() -> int:
    """Returns the exit code."""
    fault, place = Fault("trials that stand still"), folder()
    root = project(place / "project", ["sleeps", "sleeps_in_c", "well"])
    arguments = ("--trial-minutes", str(MINUTES), "--set", "train.checkpoint_minutes=0")
    launch = Launch(place / "results", *arguments, trials=3, study="sick", root=root)
    try:
        code = launch.wait()
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
        ways = {record["hyperparameters"]["way"]: record for record in launch.records.values()}
        fault.expect(set(ways) == {"sleeps", "sleeps_in_c", "well"}, f"records of {sorted(ways)}")
        statuses = [(one["hyperparameters"]["way"], one["phase"], one["status"]) for one in launch.records.values()]
        expected = {(way, "search", "failed") for way in ("sleeps", "sleeps_in_c")}
        expected |= {("well", "search", "ok"), ("well", "confirm", "ok")}
        fault.expect(set(statuses) == expected, f"records are {statuses}")
        for way in sorted(set(ways) - {"well"}):
            said, stacks = ways[way]["error"], ways[way]["details"].get("traceback", "")
            fault.expect(f"within trial_minutes = {MINUTES}" in (said or ""), f"the record of {way} says {said!r}")
            stood = re.search(rf'sick\.py", line \d+,? in {way}\b', stacks)
            fault.expect(stood is not None, f"the record of {way} has no stack of it")
    finally:
        launch.end()
    return 0 if fault.report() else 1


if __name__ == "__main__":
    sys.exit(main())
