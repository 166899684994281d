"""The listener: it hears every event of the pool, and tells screen, records and MLflow. Nobody else writes."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.cluster.board import Event
from bench.cluster.pool import Pool
from bench.folder import LaunchFolder
from bench.readings import curve
from bench.records import Record, commit
from bench.reporting.mlflow_content import source_tags, trial_parameters
from bench.reporting.mlflow_tracker import Tracker
from bench.reporting.output import Progress
from bench.spec import Trial, row_label, sentence

log = logging.getLogger(__name__)

WAKE = signal.SIGUSR1
"""Gets the main thread out of whatever it waits for, also where Ctrl-C is ignored (nohup)."""

WAKE_SECONDS = 0.1


class ListenerError(Exception):
    """What happens cannot be written down or shown any more, so the launch has to end; the message says why."""


class Listener:
    """Follows the pool's events in a thread: screen, MLflow and records all hear the same.

    If that fails, :meth:`ending` ends what the main thread does meanwhile. Trials that still finish leave records.
    """

    def __init__(self, pool: Pool, progress: Progress, tracker: Tracker, folder: LaunchFolder) -> None:
        self.records: list[Record] = []
        self._closing, self._ends, self._woken, self._waited = False, False, False, False
        self._refused = 0
        self._pool, self._progress, self._tracker, self._folder = pool, progress, tracker, folder
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="listener", daemon=True)
        self._thread.start()

    def wait_for(self, count: int, wanted: Callable[[Record], bool]) -> list[Record]:
        """Block until that many of the wanted trials have ended; returns their records by trial name."""

        def ended() -> list[Record]:
            return [record for record in self.records if wanted(record)]

        with self._news:
            self._news.wait_for(lambda: len(ended()) >= count or self._error is not None)
            self._raise()
            return sorted(ended(), key=lambda record: record.trial)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End what is done in here, by the main thread, as soon as the listener fails.

        Raises:
            ListenerError: it has failed.
        """

        def wake(number: int, frame: object) -> None:
            if self._woken:
                return
            self._woken = True
            raise KeyboardInterrupt  # of all exceptions the one that comes through Ray unchanged

        before = signal.signal(WAKE, wake)
        try:
            try:
                self._set_ending(True)
                self._raise()
                yield
            finally:
                self._set_ending(False)
        except KeyboardInterrupt:
            self._raise()
            raise
        finally:
            signal.signal(WAKE, before)

    def close(self) -> None:
        """All is over: hear what there is to hear, and end."""
        self._closing = True
        self._pool.wake()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise ListenerError(f"{type(self._error).__name__}: {sentence(self._error)}") from self._error

    def _set_ending(self, ends: bool) -> None:
        with self._news:
            self._ends = ends

    def _fail(self, error: BaseException) -> None:
        """Keep the first reason, and get the main thread out of what it waits for."""
        with self._news:
            if self._error is not None:
                log.error("the listener has failed again", exc_info=error)
            else:
                self._error = error
                threading.Thread(target=self._wake, name="listener-wake", daemon=True).start()
            self._news.notify_all()

    def _wake(self) -> None:
        """Send the signal until it is heard: one that comes just before the main thread begins to wait is not."""
        while True:
            with self._news:
                if self._woken or not self._ends:
                    return
                signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
            time.sleep(WAKE_SECONDS)

    def _follow(self) -> None:
        try:
            while (events := self._pool.events()) or not self._closing:
                for event in events:
                    self._handle(event)
                self._tell_refusals()
                if self._pool.absent or self._waited:
                    self._waited, planned = True, self._pool.plan.slots
                    self._progress.slots(planned - len(self._pool.absent), planned)
        except BaseException as error:  # the board has ended: there is nothing more to hear
            self._fail(error)

    def _tell_refusals(self) -> None:
        for reason in self._pool.refusals[self._refused :]:
            self._refused += 1
            self._progress.said(f"a slot is refused: {reason}", "red")

    def _handle(self, event: Event) -> None:
        for do in (self._keep, self._tell):
            try:
                do(event)
            except BaseException as error:  # raised again by the main thread
                self._fail(error)

    def _keep(self, event: Event) -> None:
        """A finished trial's record and tensors come first, so that no failure of anything else loses them."""
        if event.record is None:
            return
        record, checkpoint = event.record, self._folder.checkpoint(event.record.trial)
        if event.kind == "known":
            kept = checkpoint.is_file()
        else:  # the tensors first: whoever finds the record finds all of the trial
            kept = bool([self._folder.keep_tensors(record.trial, bytes(weights)) for weights in event.weights])
            record.write(self._folder.records)
        self._remove_snapshot(record)
        with self._news:
            self.records.append(record)
            self._news.notify_all()
        write = self._tracker.trial_known if event.kind == "known" else self._tracker.trial_finished
        write(record, checkpoint if kept else None)

    def _remove_snapshot(self, record: Record) -> None:
        """Only now that the record is safe; a trial that is tried again goes on from its snapshot."""
        if record.is_tried_again:
            return
        try:
            self._folder.snapshot(record.trial).unlink(missing_ok=True)
        except OSError as error:  # it does no harm
            log.warning("%s cannot be removed (%s)", error.filename, error.strerror)

    def _tell(self, event: Event) -> None:
        if self._error is not None:
            return
        if event.kind == "started":
            self._progress.started(event.trial)
            self._tracker.trial_started(event.trial.id, self._parameters(event.trial), tags(event.trial))
        elif event.kind == "report":
            assert event.point is not None
            self._progress.reported(event.trial, event.point)
            self._tracker.trial_reported(event.trial.id, curve(event.point), event.point.step)
        else:
            assert event.record is not None
            tell = self._progress.known if event.kind == "known" else self._progress.finished
            tell(event.record)

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        """What MLflow shows as a trial's parameters."""
        train = trial.train.model_dump(mode="json")
        return trial_parameters(trial.method, trial.hyperparameters, train, trial.seed, self._tracker.compared)


def tags(trial: Trial) -> dict[str, str]:
    """What MLflow filters trials by, and where they come from."""
    return {
        "method": trial.method,
        "benchmark": trial.benchmark.name,
        "study": trial.study,
        "phase": trial.phase,
        "row": row_label(trial.method, trial.row),
        **source_tags(commit()),
    }
