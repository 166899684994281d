"""A launch that is killed at random moments and started again each time ends with the records of one that was not.

``python -m tests.faults.random_restarts [KILLS] [SEED]``: five kills by default, since each costs a start of Ray.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

from tests.faults.harness import Fault, Launch, folder

KILLS = 5
TRIALS = 8
SHARE = 0.7
"""A launch is killed within this share of the time that the one took which was left alone."""


def main(kills: int = KILLS, seed: int = 0) -> int:
    """Returns the exit code."""
    fault, draw, place = Fault(f"{kills} x kill -9 and the same command"), random.Random(seed), folder()
    began = time.monotonic()
    whole = Launch(place / "whole", trials=TRIALS)
    try:
        fault.expect(whole.wait(900) == 0, "the launch that was left alone failed")
    finally:
        whole.end()
    latest, seen = SHARE * (time.monotonic() - began), list[int]()
    for _ in range(kills):
        launch = Launch(place / "cut", trials=TRIALS)
        launch.wait_for(lambda: False, draw.uniform(0.2, latest))
        if launch.process.poll() is None:
            os.kill(launch.process.pid, signal.SIGKILL)
            launch.process.wait()
        seen.append(len(launch.records))
    last = Launch(place / "cut", trials=TRIALS)
    try:
        code = last.wait(900)
        fault.expect(code == 0, f"the last launch ended with {code}: {last.output[-200:]}")
        time.sleep(1)
        fault.expect(last.records == whole.records, f"records differ: {sorted(last.records)}")
        fault.expect(not last.running_in_mlflow(), "MLflow's runs are still running")
        fault.expect(seen == sorted(seen), f"records were lost: {seen}")
    finally:
        last.end()
    return 0 if fault.report(f"records after each kill: {seen}") else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
