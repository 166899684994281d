"""Workers that cannot start end the launch, with the reason; Ray itself would try again for ever."""

from __future__ import annotations

import sys
import time

from tests.faults._sick import project
from tests.faults.harness import Fault, Launch, ended_well, folder

BEGIN = "    import torch\n    from ray.train import get_context\n\n    from bench import parallel, training\n"
"""With this a worker's life begins, in ``bench/cluster/slot.py``."""

REASON = "the worker group of slot 0 could not be kept alive: RuntimeError: no life today"
SECONDS = 120.0
"""For three worker groups on a busy machine."""


def main() -> int:
    """Returns the exit code."""
    fault, place, began = Fault("workers that cannot start"), folder(), time.monotonic()
    root = project(place / "project", ["well"])
    slot = root / "bench" / "cluster" / "slot.py"
    healthy = slot.read_text(encoding="utf-8")
    assert healthy.count(BEGIN) == 1
    slot.write_text(healthy.replace(BEGIN, f'    raise RuntimeError("no life today")\n{BEGIN}'), encoding="utf-8")
    launch = Launch(place / "results", "--slots", "1", root=root)
    try:
        ended_well(fault, launch, codes=(1,), seconds=SECONDS, began=began)
        fault.expect(REASON in " ".join(launch.output.split()), f"it says {launch.output[-300:]!r}")
        fault.expect(not launch.records, "what never ran has a record")  # nor has it failed
    finally:
        launch.end()
    return 0 if fault.report() else 1


if __name__ == "__main__":
    sys.exit(main())
