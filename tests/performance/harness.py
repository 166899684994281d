"""Line ``harness``: a study against a bare loop over the same trials, and against the usual Tune-and-Train pattern."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bench import resources
from tests.performance.children import measured
from tests.performance.launches import Launch, launch
from tests.performance.table import Line

IDIOMATIC_TRIALS = 3
"""Of the study's trials, those that the usual way gets: it takes half a minute more for each."""

QUICK = ["--trials", "2", "--seeds", "0", "--set", "train.steps=3", "--set", "search.p.choices=[1]"]


def lines(*, quick: bool, repeats: int) -> Iterator[Line]:
    """One slot, so that a trial runs alone on either side."""
    gpu = resources.gpus() > 0
    studies, loops, usual, usual_loops = [], [], [], []
    for _ in range(repeats):
        study = launch("block_expansion", "--slots", "1", *(QUICK if quick else []))
        trials = [json.dumps(trial) for trial in study.trials]
        few = trials[: 1 if quick else IDIOMATIC_TRIALS]
        studies.append(study)
        loops.append(measured("one_loop", trials=trials)["seconds"])
        usual.append(measured("one_idiomatic", trials=few, gpu=gpu))
        usual_loops.append(measured("one_loop", trials=few)["seconds"])
    yield from _ours(studies, loops, quick=quick)
    yield from _usual(studies, loops, usual, usual_loops, few=len(few))


def _ours(studies: list[Launch], loops: list[float], *, quick: bool) -> Iterator[Line]:
    count = len(studies[0].records)
    starts = ", ".join(f"{study.start:.1f}" for study in studies)
    yield Line(
        "harness",
        f"block_expansion on tiny, {count} trials, after the start",
        "s",
        [study.seconds - study.start for study in studies],
        "bare loop",
        loops,
        ratio_of="cost",
        goal=None if quick else ("<=", 1.15),
        note=f"start: {starts} s",
    )
    yield Line(
        "harness",
        "the same, from the command to its end",
        "s",
        [study.seconds for study in studies],
        "bare loop",
        loops,
        ratio_of="cost",
    )


def _usual(
    studies: list[Launch], loops: list[float], usual: list[dict[str, Any]], usual_loops: list[float], *, few: int
) -> Iterator[Line]:
    """Seconds a trial beyond the bare loop; the start of Ray is in both, and spread over the trials."""
    count = len(studies[0].records)
    ours = [(study.seconds - loop) / count for study, loop in zip(studies, loops, strict=True)]
    warm = [(study.seconds - study.start - loop) / count for study, loop in zip(studies, loops, strict=True)]
    theirs = [(run["seconds"] - loop) / few for run, loop in zip(usual, usual_loops, strict=True)]
    beyond = "beyond a bare loop"
    peer = "Tune function + TorchTrainer"
    note = f"{count} and {few} trials, start included"
    # Ours may be nothing, or less by chance, so it is set against theirs and not the other way round.
    yield Line("harness", beyond, "s a trial", ours, peer, theirs, ratio_of="cost", note=note)
    yield Line("harness", f"{beyond}, after the start", "s a trial", warm, peer, theirs, ratio_of="cost")
