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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting.mlflow_address import reason, without_password
from bench.reporting.mlflow_runs import LAUNCH, About, Launch, Point, Runs, flatten
from bench.reporting.mlflow_store import passing
from bench.reporting.rows import Leaderboard

log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""A metric waits at most so long before it is written."""

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
) -> Tracker:
    """Open the parent run of a launch, or take it up again if there is one with the same tag ``launch``.

    Returns at once.

    The store is prepared by the writing thread, as soon as there is news.

    Args:
        uri: of the store, checked by :func:`bench.reporting.mlflow_store.check`.
        experiment: the study's name.
        parameters: of the launch, nested.
        folder: where the launch writes, and nobody else: runs that an earlier launch has left open there are ended.
    """
    tags = {LAUNCH: uuid.uuid4().hex, **tags}
    return Tracker(Launch(uri, experiment, run_name, flatten(parameters), tags, folder))


class Tracker:
    """Writes one launch to MLflow, in a thread of its own."""

    def __init__(self, launch: Launch) -> None:
        self.problem: str | None = None
        self._launch = launch
        self._due: dict[str, bool] = {}
        self._jobs: queue.Queue[Callable[[_Writer], None] | None] = queue.Queue()
        self._keeper = Keeper()
        self._writer: _Writer | None = None
        self._closed, self._over = False, False
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
        points = [(name, float(value), now, step) for name, value in metrics.items()]
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
        said = f"{runs} did not arrive at {without_password(uri)} ({self._keeper.reason or 'it is slow'})"
        if self._launch.folder is None:
            return said
        folder, store = (shlex.quote(str(one)) for one in (self._launch.folder.path, without_password(uri)))
        return f"{said}; once it is there again: python -m bench sync {folder} --tracking-uri {store}"

    def _write(self) -> None:
        try:
            job = self._jobs.get()  # MLflow is not imported while the workers start: they need the cores
            missed = []
            while job is not None:
                if not self._do(job):
                    missed.append(job)
                job = self._next()
            missed = [job for job in missed if not self._do(job)]
            self._over = self._do(lambda writer: writer.close()) and not missed
        except BaseException as error:
            log.error("MLflow: %s", reason(error, self._launch.uri))
            self._keeper.reason = reason(error, self._launch.uri)

    def _next(self) -> Callable[[_Writer], None] | None:
        """The next job; while there is none, what is due is written."""
        while True:
            try:
                return self._jobs.get(timeout=BATCH_SECONDS)
            except queue.Empty:
                self._do(lambda writer: writer.flush())

    def _do(self, job: Callable[[_Writer], None]) -> bool:
        """Do a job, as often as it takes; False if it cannot be done."""

        def attempt(again: bool) -> None:
            if self._writer is None:
                self._writer = _Writer(self._launch)
            elif again:
                self._writer.runs.recall()
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


class _Writer:
    """The MLflow side; lives in the tracker's thread. Whatever fails is kept, and can be done again."""

    def __init__(self, launch: Launch) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # or MLflow would sleep for minutes between tries
        self.runs = Runs(launch)
        self.runs.go_on()
        self._about: dict[str, About] = {}
        self._points: dict[str, list[Point]] = {}
        self._flushed = time.monotonic()
        self._ended = False

    def start(self, trial: str, about: About) -> None:
        self.runs.start(trial, self._about.setdefault(trial, about))
        self._points.setdefault(trial, [])

    def report(self, trial: str, points: list[Point]) -> None:
        self._points.setdefault(trial, []).extend(points)
        if time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        for trial in list(self._points):
            self._flush(trial)

    def _flush(self, trial: str) -> None:
        points = self._points.get(trial)
        if points and trial in self._about:
            self.runs.log(trial, self._about[trial], points)
            self._points[trial] = []

    def end(self, record: Record, checkpoint: Path | None, now: int, *, known: bool) -> None:
        if known and self.runs.is_written(record.trial):
            return
        self._flush(record.trial)
        about = self._about.get(record.trial) or About.of(record)  # it may have failed before it started
        self.runs.end(record, about, checkpoint, now)
        self._points.pop(record.trial, None)

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        self.runs.finish(folder, board, status)
        self._ended = True

    def close(self) -> None:
        self.flush()
        self.runs.interrupt(parent=not self._ended)


def _now() -> int:
    return int(time.time() * 1000)
