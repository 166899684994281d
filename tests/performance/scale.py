"""Line ``scale``: what a large search over many slots takes of the driver's machine, beside the trials themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.performance.children import measured
from tests.performance.one_scale import COUNTED
from tests.performance.table import Line

TRIALS, SLOTS, SECONDS = 1000, 64, 15.0
"""Trials only sleep. So long, that two cores are not the limit: each trial begins and ends on the driver's machine."""

QUICK = {"trials": 24, "slots": 4, "seconds": 1.0}

MOST_CPU = 80.0
"""Milliseconds a trial of driver, board, search and MLflow together."""

MOST_GROWTH = 1.1
"""So much more memory the same parts may take after all trials than after half of them."""

MOST_LAG = 5.0
"""Seconds from a trial's end to its record, in 99 of 100 trials."""


def lines(*, quick: bool, repeats: int) -> Iterator[Line]:
    """CPU of each part, memory, and how far what follows the trials lags behind."""
    work = QUICK if quick else {"trials": TRIALS, "slots": SLOTS, "seconds": SECONDS}
    runs = [measured("one_scale", **work) for _ in range(repeats)]
    what = f"{work['trials']} trials that sleep {work['seconds']:g} s on {work['slots']} slots"
    rates = ", ".join(f"{run['per_second']:.1f}" for run in runs)
    counted = [run["counted"] for run in runs]
    yield _line(what, "CPU ms a trial", counted, "goal", [MOST_CPU], None if quick else 1.0, f"{rates} trials/s")
    for part in runs[0]["cpu"]:
        own = [run["cpu"].get(part, 0.0) for run in runs]
        note = "a part of it" if part in COUNTED else "beside it"
        yield _line(part, "CPU ms a trial", own, "the first line", counted, note=note)
    for part in ("driver", "board"):
        half, last = ([run["memory"][part][when] for run in runs] for when in (0, 1))
        yield _line(f"memory of the {part}", "MiB", last, "after half of the trials", half, MOST_GROWTH)
    late = [run["listener_lag"] for run in runs]
    yield _line("from a trial's end to its record", "s, 99 of 100", late, "goal", [MOST_LAG], 1.0)
    yield _line("until the board answers", "s, longest", [run["board_lag"] for run in runs], "goal", [MOST_LAG], 1.0)
    queued = "calls in its queue: " + ", ".join(f"at most {run['queued']}, {run['queued_last']} last" for run in runs)
    waits = [run["mlflow_lag"] for run in runs]
    yield _line("until MLflow's writer has its turn", "s, longest", waits, "goal", [MOST_LAG], 1.0, queued)


def _line(
    what: str,
    unit: str,
    ours: list[float],
    peer: str,
    theirs: list[float],
    most: float | None = None,
    note: str = "",
) -> Line:
    given = theirs * len(ours) if len(theirs) == 1 else theirs
    goal: Any = None if most is None else ("<=", most)
    return Line("scale", what, unit, ours, peer, given, ratio_of="cost", goal=goal, note=note)
