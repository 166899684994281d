"""MLflow follows a launch: one parent run, one child a trial.

Everything is handed to one thread that writes in batches, so that neither the search nor a worker ever waits for a
database. While the store is busy or away it tries again, and nothing is dropped. What has not arrived when the launch
ends is said in :attr:`Tracker.problem`, and :mod:`bench.reporting.mlflow_sync` brings it: a study is never lost to its
bookkeeping.
"""

from __future__ import annotations

import logging
import os
import queue
import shlex
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting.mlflow_address import reason, without_password
from bench.reporting.mlflow_content import LAUNCH
from bench.reporting.mlflow_points import Point, shown
from bench.reporting.mlflow_runs import About, Launch, Runs, flatten
from bench.reporting.mlflow_store import passing
from bench.reporting.mlflow_system import SystemMetrics
from bench.reporting.rows import Leaderboard

log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""A metric waits so long before it is written, and longer where there is much to write: see :data:`FLUSH_SHARE`."""

FLUSH_SHARE = 0.02
"""Writing the metrics of all trials that run takes at most so much of the time, however many there are: the runs that
begin and end need the rest."""

PATIENCE_SECONDS = 25.0
"""The end of a launch waits at most so long for the store."""

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries while a store is busy or away; the last one again and again."""


def open_tracker(
    uri: str,
    *,
    experiment: str,
    run_name: str,
    parameters: Mapping[str, Any],
    tags: Mapping[str, str],
    folder: LaunchFolder | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Tracker:
    """Open the parent run of a launch, or take it up again if there is one with the same tag ``launch``.

    Returns at once.

    The store is prepared by the writing thread, as soon as there is news.

    Args:
        uri: of the store, checked by :func:`bench.reporting.mlflow_store.check`.
        experiment: the study's name.
        parameters: of the launch, nested.
        asked: all that it was asked for, see :class:`bench.reporting.mlflow_runs.Launch`.
        folder: where the launch writes, and nobody else: runs that an earlier launch has left open there are ended.
    """
    tags = {LAUNCH: uuid.uuid4().hex, **tags}
    return Tracker(Launch(uri, experiment, run_name, flatten(parameters), tags, folder, asked or {}))


class Tracker:
    """Writes one launch to MLflow, in a thread of its own."""

    def __init__(self, launch: Launch) -> None:
        self.problem: str | None = None
        self.compared = launch.compared
        """Fields of the recipe that a trial's parameters should hold, see :attr:`Launch.compared`."""
        self._launch = launch
        self._due: dict[str, bool] = {}
        self._jobs: queue.Queue[Callable[[_Writer], None] | None] = queue.Queue()
        self._keeper = Keeper()
        self._writer: _Writer | None = None
        self._closed, self._over = False, False
        self._lost: list[str] = []
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def trial_started(self, trial: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open a child run."""
        about = About(flatten(parameters), dict(tags), _now())
        self._due[trial] = True
        self._jobs.put(lambda writer: writer.start(trial, about))

    def trial_reported(self, trial: str, metrics: Mapping[str, float], step: int) -> None:
        """Add points to a child run's curves."""
        now = _now()
        points = [(name, shown(name, value), now, step) for name, value in metrics.items()]
        self._jobs.put(lambda writer: writer.report(trial, points))

    def trial_finished(self, record: Record, checkpoint: Path | None = None) -> None:
        """Write the final scores, the record and the file of trained tensors if there is one; end the child run."""
        self._ended(record, checkpoint, known=False)

    def trial_known(self, record: Record, checkpoint: Path | None = None) -> None:
        """Make sure that a trial of an earlier try of the launch has its child run."""
        self._ended(record, checkpoint, known=True)

    def _ended(self, record: Record, checkpoint: Path | None, *, known: bool) -> None:
        now = _now()

        def end(writer: _Writer) -> None:
            writer.end(record, checkpoint, now, known=known)
            self._due[record.trial] = False

        self._due[record.trial] = True
        self._jobs.put(end)

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        """Attach the leaderboard of ``folder`` to the parent run and end it with an MLflow run status."""
        self._jobs.put(lambda writer: writer.finish(folder, board, status))

    def close(self) -> None:
        """Write what is left, for half a minute at most; :attr:`problem` says afterwards whether all of it arrived."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join(PATIENCE_SECONDS)
        self._keeper.give_up()
        if not self._over:
            self.problem = self._missing()

    def _missing(self) -> str:
        """One line that says what has not arrived, why, and what brings it."""
        missing, uri = sum(self._due.values()), self._launch.uri
        runs = f"{missing} of {len(self._due)} trials" if missing else "the end of the launch"
        why = "what was written is gone" if self._lost else self._keeper.reason or "it is slow"
        said = f"{runs} did not arrive at {without_password(uri)} ({why})"
        if self._launch.folder is None:
            return said
        folder, store = (shlex.quote(str(one)) for one in (self._launch.folder.path, without_password(uri)))
        return f"{said}; once it is there again: python -m bench sync {folder} --tracking-uri {store}"

    def _write(self) -> None:
        try:
            job = self._jobs.get()  # MLflow is not imported while the workers start: they need the cores
            missed: list[Callable[[_Writer], None]] = []
            while job is not None:
                if self._writer is None and missed and self._do(lambda writer: None):  # no news comes before older ones
                    missed = self._missed(missed)
                missed += self._missed([job])
                job = self._next()
            missed = self._missed(missed)
            closed = self._do(lambda writer: writer.close()) and self._do(self._look_up)
            self._over = closed and not missed and not self._lost
        except BaseException as error:
            log.error("MLflow: %s", reason(error, self._launch.uri))
            self._keeper.reason = reason(error, self._launch.uri)

    def _missed(self, jobs: Sequence[Callable[[_Writer], None]]) -> list[Callable[[_Writer], None]]:
        """Do jobs; returns those that could not be done."""
        return [job for job in jobs if not self._do(job)]

    def _look_up(self, writer: _Writer) -> None:
        """Whether what was written is there; a trial whose run is not is due again."""
        self._lost = writer.runs.lost([trial for trial, due in list(self._due.items()) if not due])
        self._due |= dict.fromkeys(self._lost, True)

    def _next(self) -> Callable[[_Writer], None] | None:
        """The next job; while there is none, what is due is written."""
        while True:
            try:
                return self._jobs.get(timeout=BATCH_SECONDS)
            except queue.Empty:
                self._do(lambda writer: writer.flush_if_due())

    def _do(self, job: Callable[[_Writer], None]) -> bool:
        """Do a job, as often as it takes; False if it cannot be done."""

        def attempt(again: bool) -> None:
            if self._writer is None:
                self._writer = _Writer(self._launch)
            elif again:
                self._writer.runs.doubt()
            job(self._writer)

        return self._keeper.keep(attempt, self._launch.uri)


class Keeper:
    """Tries again what a store does not take at once, until somebody gives up."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Try nothing again from now on."""
        self._given_up.set()

    def keep(self, attempt: Callable[[bool], None], uri: str) -> bool:
        """Call until it succeeds, or fails in a way that another try does not mend; :attr:`reason` is the last failure.

        Args:
            attempt: is told whether it was tried before.

        Returns:
            Whether it has succeeded.
        """
        tries = 0
        while not self._given_up.is_set():
            try:
                attempt(tries > 0)
                return True
            except Exception as error:
                said = reason(error, uri)
                if said != self.reason:
                    log.warning("MLflow: %s", said)
                self.reason = said
                if not passing(error):
                    return False
            self._given_up.wait(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
        return False


@dataclass
class _Child:
    """A trial that has not ended, as far as it was told of.

    Whoever goes on with a trial that was cut is told its curves again from their beginning. What is told twice is
    written once; if it is not the same, the trial has begun again from its first step, and so does its run.
    """

    about: About | None = None
    begun: bool = False
    """Its run is there."""
    stale: bool = False
    """The run that is there is to be made again."""
    told: dict[tuple[int, str], Point] = field(default_factory=dict)
    """The points of its curves, by step and name."""
    pending: list[Point] = field(default_factory=list)
    """Those of them that are not written yet."""

    def add(self, points: Sequence[Point]) -> None:
        """Take up what was not told before."""
        known = [(self.told.get((step, name)), value) for name, value, _, step in points]
        if any(before is not None and repr(before[1]) != repr(value) for before, value in known):  # NaN is itself
            self._begin_again(min(step for _, _, _, step in points))
        for point in points:
            name, _, _, step = point
            if (step, name) not in self.told:
                self.told[step, name] = point
                self.pending.append(point)

    def _begin_again(self, step: int) -> None:
        """Forget what an earlier try told from a step on: until there both have told the same."""
        self.told = {key: point for key, point in self.told.items() if key[0] < step}
        self.pending = list(self.told.values())
        self.stale, self.begun = self.stale or self.begun, False


class _Writer:
    """The MLflow side; lives in the tracker's thread. Whatever fails is kept, and can be done again."""

    def __init__(self, launch: Launch) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # or MLflow would sleep for minutes between tries
        self.runs = Runs(launch)
        self.runs.go_on()
        self._machine, self._of_machine = SystemMetrics(self.runs.began), list[Point]()
        self._children: dict[str, _Child] = {}
        self._complete: set[str] = set()
        self._flush_at = 0.0
        self._ended = False

    def start(self, trial: str, about: About) -> None:
        if trial in self._complete:  # done again, since it had failed: the trial's run was made all the same
            return
        child = self._children.setdefault(trial, _Child())
        child.about = child.about or about
        self._begin(trial, child, child.about)

    def report(self, trial: str, points: Sequence[Point]) -> None:
        if trial in self._complete:
            return
        self._children.setdefault(trial, _Child()).add(points)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        if time.monotonic() >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        start = time.monotonic()
        for trial, child in self._children.items():
            self._flush(trial, child)
        self._of_machine += self._machine.sample()
        if self._of_machine:
            self.runs.log_of_launch(self._of_machine)
            self._of_machine = []
        end = time.monotonic()
        self._flush_at = end + max(BATCH_SECONDS, (end - start) * (1 - FLUSH_SHARE) / FLUSH_SHARE)

    def _flush(self, trial: str, child: _Child) -> None:
        if child.about is None:
            return
        self._begin(trial, child, child.about)
        if child.pending or not self.runs.is_described(trial):
            self.runs.log(trial, child.about, child.pending)
            child.pending = []

    def _begin(self, trial: str, child: _Child, about: About) -> None:
        """Make a trial's run, unless it is there."""
        if child.begun:
            return
        if child.stale:
            self.runs.drop(trial)
        self.runs.start(trial, about)
        child.begun, child.stale = True, False

    def end(self, record: Record, checkpoint: Path | None, now: int, *, known: bool) -> None:
        trial = record.trial
        self.runs.note(record)
        if known and self.runs.is_written(trial):
            return
        child = self._children.setdefault(trial, _Child())
        child.about = about = child.about or self.runs.about(record)  # it may have failed before it started
        self._begin(trial, child, about)
        self.runs.end(record, about, checkpoint, now, pending=child.pending)
        self._complete.add(trial)
        del self._children[trial]

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        self.runs.finish(folder, board, status)
        self._ended = True

    def close(self) -> None:
        self.flush()
        self.runs.interrupt(parent=not self._ended)


def _now() -> int:
    return int(time.time() * 1000)
