"""Line ``scaling``: one and two DDP workers a trial, one and two trials at once."""

from __future__ import annotations

from collections.abc import Iterator

from bench import resources
from tests.performance.launches import Launch, launch
from tests.performance.table import Line


def lines(*, quick: bool, repeats: int) -> Iterator[Line]:
    """Each against one worker and one slot of the same machine."""
    units = resources.gpus() or resources.cores()
    if units < 2:
        raise SystemExit(f"error: line scaling needs two GPUs or two cores, and there is {units}")
    base = ["--trials", "2" if quick else "6", "--seeds", "0", "--set", f"train.steps={4 if quick else 150}"]
    runs: dict[tuple[int, int], list[Launch]] = {(1, 1): [], (2, 1): [], (1, 2): []}
    for _ in range(repeats):
        for (workers, slots), found in runs.items():
            found.append(launch("full", "--num-workers", str(workers), "--slots", str(slots), *base))
    alone = runs[1, 1]
    yield Line(
        "scaling",
        "full on tiny, two DDP workers",
        "images/s",
        [run.images_per_second for run in runs[2, 1]],
        "one worker",
        [run.images_per_second for run in alone],
        better="more",
    )
    yield Line(
        "scaling",
        "full on tiny, two slots",
        "trials/min",
        [run.trials_per_minute for run in runs[1, 2]],
        "one slot",
        [run.trials_per_minute for run in alone],
        better="more",
    )
