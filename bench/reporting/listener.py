"""The listener: it hears every event of the pool, and tells screen, records and MLflow. Nobody else writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from bench.cluster.board import Event
from bench.cluster.pool import Pool
from bench.folder import LaunchFolder
from bench.readings import curve
from bench.records import Record
from bench.reporting.mlflow_tracker import Tracker
from bench.reporting.progress import StudyProgress
from bench.spec import Trial


class Listener:
    """Follows the pool's events in a thread: screen, MLflow and records all hear the same."""

    def __init__(self, pool: Pool, progress: StudyProgress, tracker: Tracker, folder: LaunchFolder) -> None:
        self.records: list[Record] = []
        self._closing = False
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
            if self._error is not None:
                raise self._error
            return sorted(ended(), key=lambda record: record.trial)

    def close(self) -> None:
        """All is over: hear what there is to hear, and end."""
        self._closing = True
        self._pool.wake()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        try:
            while (events := self._pool.events()) or not self._closing:
                for event in events:
                    self._handle(event)
        except BaseException as error:  # handed to the main thread, which raises it
            with self._news:
                self._error = error
                self._news.notify_all()

    def _handle(self, event: Event) -> None:
        if event.kind == "started":
            self._progress.started(event.trial)
            self._tracker.trial_started(event.trial.id, parameters(event.trial), tags(event.trial))
        elif event.kind == "report":
            assert event.point is not None
            self._progress.reported(event.trial, event.point)
            self._tracker.trial_reported(event.trial.id, curve(event.point), event.point.step)
        else:
            assert event.record is not None
            self._ended(event, event.record)

    def _ended(self, event: Event, record: Record) -> None:
        checkpoint = self._folder.checkpoint(record.trial)
        if event.kind == "known":
            self._progress.known(record)
            self._tracker.trial_known(record, checkpoint if checkpoint.is_file() else None)
        else:
            # The tensors first: whoever finds the record finds all of the trial.
            kept = [self._folder.keep_tensors(record.trial, self._pool.fetch(reference)) for reference in event.weights]
            record.write(self._folder.records)
            self._progress.finished(record)
            self._tracker.trial_finished(record, checkpoint if kept else None)
        with self._news:
            self.records.append(record)
            self._news.notify_all()


def parameters(trial: Trial) -> dict[str, Any]:
    """A trial's parameters as MLflow shows them, nested; tracking flattens them."""
    return {
        "method": trial.method,
        **trial.hyperparameters,
        "train": trial.train.model_dump(),
        "seed": trial.seed,
        "phase": trial.phase,
    }


def tags(trial: Trial) -> dict[str, str]:
    """What MLflow filters trials by."""
    return {
        "method": trial.method,
        "benchmark": trial.benchmark.name,
        "study": trial.study,
        "phase": trial.phase,
    }
