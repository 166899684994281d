"""What a launch prints: for people on their screen, for people who want the answer alone, or for programs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from bench.cluster.guardian import NOW
from bench.folder import LaunchFolder
from bench.readings import Point
from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.answers import answers
from bench.reporting.events import Ended, Event, PhaseBegan, Plan, Ranked, Said, TrialFinished, TrialStarted
from bench.reporting.progress import StudyProgress
from bench.reporting.rows import Leaderboard
from bench.reporting.screen import console, plain, say
from bench.spec import LaunchOptions, Trial, printable

if TYPE_CHECKING:
    from rich.console import Console

Level = Literal["note", "warning", "error"]

STYLES: dict[str, str] = {"note": "", "warning": "yellow", "error": "red"}


class Progress(Protocol):
    """What hears of trials, from a thread of its own: see :class:`bench.reporting.progress.StudyProgress`."""

    def started(self, trial: Trial) -> None:
        """A worker group has taken the trial."""

    def reported(self, trial: Trial, point: Point) -> None:
        """A running trial has posted a point of its curves."""

    def finished(self, record: Record) -> None:
        """A trial has ended."""

    def known(self, record: Record) -> None:
        """A trial had ended in an earlier try of the launch."""

    def slots(self, working: int, planned: int) -> None:
        """So many of the planned slots have a node."""

    def said(self, sentence: str, style: str = "") -> None:
        """A sentence."""


class Output(Protocol):
    """What a launch tells, whoever reads it."""

    def say(self, text: str, *, level: Level = "note", title: str = "") -> None:
        """A sentence; ``title`` stands before it and is emphasised."""

    def planned(self, plan: Plan, text: str) -> None:
        """What will run; ``text`` says where."""

    def phase(self, began: PhaseBegan) -> None:
        """A study goes on to another phase."""

    def progress(self, total: int) -> AbstractContextManager[Progress]:
        """What hears of so many trials."""

    def ranked(self, board: Leaderboard, folder: Path) -> None:
        """The leaderboard, which is written."""

    def answer(self, board: Leaderboard, folder: Path) -> None:
        """Which row to take: the last words of a launch that has gone well."""

    def ended(self, ended: Ended) -> None:
        """The end."""

    def farewell(self, text: str) -> str:
        """What is printed by others if this process is killed; NOW of the guardian stands in it for the time."""


def output(options: LaunchOptions, file: TextIO) -> Output:
    """The output that is asked for."""
    if options.json_lines:
        return JsonLines(file)
    return Quiet(console(file)) if options.quiet else Screen(console(file))


class Screen:
    """Everything, for people. Colours, width and live lines are what the terminal has; ``NO_COLOR`` is heeded."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str, *, level: Level = "note", title: str = "") -> None:
        """See :meth:`Output.say`."""
        say(self._console, *([plain(title, STYLES[level]), text] if title else [plain(text, STYLES[level])]))

    def planned(self, plan: Plan, text: str) -> None:
        """See :meth:`Output.planned`."""
        self.say(text)

    def phase(self, began: PhaseBegan) -> None:
        """The trials themselves show it."""

    def progress(self, total: int) -> AbstractContextManager[Progress]:
        """See :meth:`Output.progress`."""
        return StudyProgress(self._console, total=total)

    def ranked(self, board: Leaderboard, folder: Path) -> None:
        """See :meth:`Output.ranked`."""
        leaderboard.show(board, self._console)

    def answer(self, board: Leaderboard, folder: Path) -> None:
        """See :meth:`Output.answer`."""
        self.say(f"Table, picture and records: {folder}")
        self.say(f"For the browser: {LaunchFolder(folder).page}")
        leaderboard.show_answers(board, self._console)

    def ended(self, ended: Ended) -> None:
        """See :meth:`Output.ended`."""
        if ended.status == "failed":
            self.say(ended.text, level="error", title="error: ")

    def farewell(self, text: str) -> str:
        """See :meth:`Output.farewell`."""
        return f"error: {text}"


class Quiet(Screen):
    """The answer alone, and on the way what has gone wrong."""

    def say(self, text: str, *, level: Level = "note", title: str = "") -> None:
        """See :meth:`Output.say`."""
        if level != "note":
            super().say(text, level=level, title=title)

    @contextmanager
    def progress(self, total: int) -> Iterator[Progress]:
        """See :meth:`Output.progress`."""
        yield _QuietProgress(self)

    def ranked(self, board: Leaderboard, folder: Path) -> None:
        """The answer says it."""

    def answer(self, board: Leaderboard, folder: Path) -> None:
        """See :meth:`Output.answer`."""
        leaderboard.show_answers(board, self._console)


class _QuietProgress:
    """Hears of trials, and tells of what has gone wrong."""

    def __init__(self, output: Output) -> None:
        self._output, self._working = output, -1

    def started(self, trial: Trial) -> None:
        """Nothing is said of it."""

    def reported(self, trial: Trial, point: Point) -> None:
        """Nothing is said of it."""

    def finished(self, record: Record) -> None:
        """A trial that failed is named."""
        if record.status == "failed":
            reason = next(filter(str.strip, (record.error or "").splitlines()), "no message")
            self._output.say(f"{record.trial}: failed: {reason}", level="warning")

    def known(self, record: Record) -> None:
        """Nothing is said of it."""

    def slots(self, working: int, planned: int) -> None:
        """Slots that wait for a node are named."""
        if working < planned and working != self._working:
            self._output.say(f"waiting for nodes: {working} of {planned} slots", level="warning")
        self._working = working

    def said(self, sentence: str, style: str = "") -> None:
        """What has a style is a warning."""
        self._output.say(sentence, level=_level(style))


def _level(style: str) -> Level:
    return {"red": "error", "yellow": "warning"}.get(style, "note")  # type: ignore[return-value]


class JsonLines:
    """Events, see :mod:`bench.reporting.events`: one JSON object a line, each written at once."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._lock = file, threading.Lock()

    def write(self, event: Event) -> None:
        """Write an event; several threads may."""
        with self._lock:
            self._file.write(event.model_dump_json() + "\n")
            self._file.flush()

    def say(self, text: str, *, level: Level = "note", title: str = "") -> None:
        """See :meth:`Output.say`."""
        self.write(Said(level=level, text=printable(f"{title}{text}")))

    def planned(self, plan: Plan, text: str) -> None:
        """See :meth:`Output.planned`."""
        self.write(plan)

    def phase(self, began: PhaseBegan) -> None:
        """See :meth:`Output.phase`."""
        self.write(began)

    @contextmanager
    def progress(self, total: int) -> Iterator[Progress]:
        """See :meth:`Output.progress`."""
        yield _JsonProgress(self, total)

    def ranked(self, board: Leaderboard, folder: Path) -> None:
        """See :meth:`Output.ranked`."""
        self.write(Ranked(folder=str(folder), board=leaderboard.values_of(board), answers=answers(board)))

    def answer(self, board: Leaderboard, folder: Path) -> None:
        """The leaderboard's event has it."""

    def ended(self, ended: Ended) -> None:
        """See :meth:`Output.ended`."""
        self.write(ended)

    def farewell(self, text: str) -> str:
        """See :meth:`Output.farewell`."""
        return Ended(time=NOW, status="killed", exit_code=None, text=text).model_dump_json()


class _JsonProgress:
    """Hears of trials, and makes events of it."""

    def __init__(self, output: JsonLines, total: int) -> None:
        self._output, self._total, self._done, self._working = output, total, 0, -1

    def started(self, trial: Trial) -> None:
        """See :class:`bench.reporting.events.TrialStarted`."""
        steps = trial.train.steps if trial.train.epochs is None else None
        self._output.write(TrialStarted(trial=trial.id, steps=steps, **_common(trial)))

    def reported(self, trial: Trial, point: Point) -> None:
        """Curves are in the records and in MLflow."""

    def finished(self, record: Record) -> None:
        """See :class:`bench.reporting.events.TrialFinished`."""
        self._finished(record, known=False)

    def known(self, record: Record) -> None:
        """See :class:`bench.reporting.events.TrialFinished`."""
        self._finished(record, known=True)

    def _finished(self, record: Record, *, known: bool) -> None:
        self._done += 1
        ended = TrialFinished(
            trial=record.trial,
            status=record.status,
            error=record.error,
            scores=record.scores_of(),
            seconds=record.train_seconds,
            known=known,
            done=self._done,
            total=self._total,
            **_common(record),
        )
        self._output.write(ended)

    def slots(self, working: int, planned: int) -> None:
        """A sentence says it, whenever it changes."""
        if working == self._working:
            return
        self._working = working
        self._output.say(f"{working} of {planned} slots have a node", level="warning" if working < planned else "note")

    def said(self, sentence: str, style: str = "") -> None:
        """See :class:`bench.reporting.events.Said`."""
        self._output.say(sentence, level=_level(style))


def _common(of: Trial | Record) -> dict[str, Any]:
    return {"method": of.method, "phase": of.phase, "seed": of.seed, "hyperparameters": dict(of.hyperparameters)}
