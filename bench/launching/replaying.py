"""A launch that trains nothing: its searches are answered from a recorded grid, and what they find is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.launching import studies
from bench.launching.launch import Launch
from bench.launching.selection import choose
from bench.records import Record
from bench.reporting.front import area
from bench.spec import Study, readable

if TYPE_CHECKING:
    from bench.cluster.search_replay import Grid, Replayed

SLOTS = 2
"""A cluster whose slots are not known is simulated with so many."""


def text(launch: Launch, path: str) -> str:
    """What the searches of a launch find in a recorded grid, in words.

    Raises:
        SpecError: there is no such grid, or it does not hold what the searches ask for.
    """
    from bench.cluster.search_replay import ends, replay

    grid, slots = _grid(launch, path), _slots(launch)
    lines = [
        f"Replayed from {path}, on {slots} slot{'s' * (slots > 1)}: nothing was trained. Accuracies on validation data:"
    ]
    for study in (one for suited in launch.suite.studies for one in suited.searches):
        found = replay(study, launch.benchmark, grid, slots=slots)
        reached, best = (hypervolume(points) for points in (list(ends(found)), grid.front(study.method)))
        lines.append(f"{study.labelled(study.name)}: {_summary(found)}; hypervolume {reached:.2f} of {best:.2f}")
        lines += [f"  {line}" for line in _chosen(study, [one.record for one in found])]
    return "\n".join(lines)


def describe(launch: Launch, path: str) -> str:
    """What would be replayed: the text of ``--dry-run``.

    Raises:
        SpecError: as for :func:`text`.
    """
    _grid(launch, path)
    slots = _slots(launch)
    lines = [f"Replay:    {path} answers all search trials, on {slots} slot{'s' * (slots > 1)}; nothing is trained"]
    for study in launch.suite.studies:
        again = f", {study.repeats} times" if study.repeats > 1 else ""
        lines.append(f"Study:     {study.name}: {study.trials} search trials for the best {study.objective}{again}")
    return "\n".join([*launch.said, *lines, "Nothing was started (--dry-run)."])


def _grid(launch: Launch, path: str) -> Grid:
    """A recorded grid that holds what the searches of a launch ask for."""
    from bench.cluster.search_replay import Grid, check

    grid = Grid.read(Path(path))
    for study in launch.suite.studies:
        check(studies.corners(study, launch.benchmark), grid, pruned=study.scheduler == "asha")
    return grid


def _slots(launch: Launch) -> int:
    return launch.plan.slots if launch.plan else launch.options.slots or SLOTS


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Share of all pairs of target and source accuracy that some pairs reach, in percent.

    Args:
        points: target and source accuracy, in percent.
    """
    if not points:
        return 0.0
    target, source = np.array(points).T[:, None] / 100
    return 100 * float(area(target, source)[0])


def _summary(found: Sequence[Replayed]) -> str:
    early = sum(one.record.status == "stopped" for one in found)
    steps, ended = sum(one.record.steps for one in found), max(one.ended for one in found)
    return f"{len(found)} trials, {early} ended early; {steps:,} steps, {ended:,} one after another"


def _chosen(study: Study, records: Sequence[Record]) -> Iterator[str]:
    """A line for every configuration that would be confirmed."""
    for choice in choose(study, records):
        if choice.winner is None:
            yield f"{dict(choice.row)}: no trial has a score"
            continue
        values = ", ".join(f"{name}={readable(value, 3)}" for name, value in choice.values.items())
        named = choice.winner.scores
        shown = (f"{name} {named[name]:.1f}" for name in ("target_accuracy", "source_accuracy", "forgetting"))
        yield f"{values}: {', '.join(shown)}"
