"""What a running study shows: one live line per running trial, one lasting line per finished one, with an ETA."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from bench.readings import Point
from bench.records import Record
from bench.reporting.screen import plain, say
from bench.spec import Trial, printable, readable


class StudyProgress:
    """Progress of one launch; a context manager. Without a terminal only the lasting lines are printed."""

    def __init__(self, console: Console, *, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._known = 0
        self._working: int | None = None
        self._start = time.monotonic()
        self._bars = Progress(
            *_columns(console.width),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            redirect_stdout=False,  # what libraries print belongs into the log, where stdout and stderr already go
            redirect_stderr=False,
        )
        self._overall = self._bars.add_task("trials", total=total, note="starting the workers")
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def started(self, trial: Trial) -> None:
        """A worker group has taken the trial (again, if its workers died)."""
        self._drop(trial.id)
        self._bars.update(self._overall, note="")
        label = _label(trial, _room(self._console.width))
        steps = trial.train.steps if trial.train.epochs is None else None  # of epochs its reports say how many
        self._tasks[trial.id] = self._bars.add_task(label, total=steps, note="")

    def reported(self, trial: Trial, point: Point) -> None:
        """A running trial has posted a point of its curves."""
        if trial.id in self._tasks:
            note = f"loss {point.values['train_loss']:.3f}" if "train_loss" in point.values else ""
            self._bars.update(self._tasks[trial.id], completed=point.step, total=point.steps, note=note)

    def finished(self, record: Record) -> None:
        """A trial has ended, one way or another."""
        self._drop(record.trial)
        self._done += 1
        self._bars.update(self._overall, completed=self._done)
        say(self._console, *self._line(record))

    def known(self, record: Record) -> None:
        """A trial had ended in an earlier try of the launch."""
        self._known += 1
        self._done += 1
        self._bars.update(self._overall, completed=self._done)

    def slots(self, working: int, planned: int) -> None:
        """So many of the planned slots have a node; said whenever it changes, once some have lacked one."""
        if working == (planned if self._working is None else self._working):
            return
        self._working = working
        waits = working < planned
        note = f"waiting for nodes: {working} of {planned} slots" if waits else ""
        self._bars.update(self._overall, note=note)
        self.said(note if waits else f"nodes for all {planned} slots are there")

    def said(self, sentence: str, style: str = "") -> None:
        """Print one sentence above the bars."""
        say(self._console, plain(sentence, style))

    def _drop(self, trial: str) -> None:
        if trial in self._tasks:
            self._bars.remove_task(self._tasks.pop(trial))

    def _line(self, record: Record) -> list[str | Text]:
        place = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        what = f"{record.trial:<28} {settings(record.hyperparameters):<20}"
        failed: list[str | Text] = [plain("failed", "red"), ": "] if record.status == "failed" else []
        rest = f"{outcome(record)}  ETA {self._eta()}"
        if self._console.is_terminal and len(place) + len(what) + len(rest) + 2 > self._console.width:
            what = " ".join(what.split())  # nothing is aligned over several lines
        return [f"{place} {what} ", *failed, rest]

    def _eta(self) -> str:
        left = (time.monotonic() - self._start) / (self._done - self._known) * (self._total - self._done)
        return str(timedelta(seconds=round(left)))


NARROW = 60
"""Columns of a screen below which there is no room for bars and notes."""


COUNTS = len("1000/1000 -:--:-- ")
"""Columns that the counts and the time need, which are never cut."""


def _columns(width: int) -> list[ProgressColumn]:
    """What a live line shows on a screen of a width: names and notes are cut, so that it stays one line."""
    counts: list[ProgressColumn] = [MofNCompleteColumn(), TimeRemainingColumn(compact=True)]
    what = _cut("{task.description}", _room(width))
    if width < NARROW:
        return [what, *counts]
    return [what, BarColumn(bar_width=_bar(width)), *counts, _cut("{task.fields[note]}", _note(width))]


def _bar(width: int) -> int:
    return min(24, width // 8)


def _note(width: int) -> int:
    return width // 6


def _room(width: int) -> int:
    """Columns of a live line that its name may take."""
    return width - COUNTS if width < NARROW else width - COUNTS - _bar(width) - _note(width) - 2


def _label(trial: Trial, room: int) -> str:
    """A trial and its settings. Trials are told apart by the ends of their names: where there is no room for all of
    one, its beginning is left out."""
    name = printable(trial.id)
    if cell_len(name) > room - 2:
        kept = name
        while kept and cell_len(kept) > room - 3:
            kept = kept[1:]
        return f"  …{kept}"
    return printable(f"  {name} {settings(trial.hyperparameters)}")


def _cut(what: str, width: int) -> TextColumn:
    """A text of so many columns at most."""
    return TextColumn(what, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=width))


def settings(values: Mapping[str, object]) -> str:
    """Hyper-parameters in a few characters: ``p=3 lr=0.042``."""
    return " ".join(f"{name}={readable(value, 3)}" for name, value in values.items())


def outcome(record: Record) -> str:
    """What came of a trial, in one line: its scores, or the reason why it has none."""
    if record.status == "failed":
        lines = (record.error or "").splitlines()
        return next(filter(str.strip, lines), "no message")[:120]
    scores = record.scores_of()
    if "mean" not in scores:
        return f"{record.status} after {record.steps} steps"
    split = "val" if record.phase == "search" else "test"
    note = "" if record.status == "ok" else f" ({record.status})"
    target, source, mean = (scores[name] for name in ("target_accuracy", "source_accuracy", "mean"))
    return f"{split} target {target:5.2f}  source {source:5.2f}  mean {mean:5.2f}{note}"
