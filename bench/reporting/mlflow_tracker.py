"""MLflow's runs: one parent a launch, one child a trial.

Everything is handed to one thread that writes in batches, so that neither the search nor a worker ever waits for a
database. What cannot be written is kept as :attr:`Tracker.problem`: a study is never lost to its bookkeeping.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.folder import LaunchFolder
from bench.readings import flat
from bench.records import Record
from bench.reporting.leaderboard import for_mlflow
from bench.reporting.mlflow_store import CHECKPOINTS, RECORD, experiment_id, open_store
from bench.reporting.rows import Leaderboard, Spread

log = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""A metric waits at most so long before it is written."""

BATCH_METRICS = 1000
"""MLflow takes no more in one request."""

COSTS = ("trainable_parameters", "train_seconds", "eval_seconds", "images_per_second")
"""A record says these of a trial beside its scores."""

PARENT = "mlflow.parentRunId"
"""MLflow's tag of a child run."""

RUN_STATUS = {"ok": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as MLflow takes them: ``{"train": {"lr": 0.1}}`` becomes ``{"train.lr": "0.1"}``."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


def open_tracker(
    uri: str, *, experiment: str, run_name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]
) -> Tracker:
    """Open the parent run of a launch, or take it up again if there is one with the same tag ``launch``.

    Returns at once.

    The store is prepared by the writing thread, as soon as there is news.

    Args:
        uri: of the store, checked by :func:`bench.reporting.mlflow_store.check`.
        experiment: the study's name.
        parameters: of the launch, nested.
    """
    return Tracker(_Launch(uri, experiment, run_name, flatten(parameters), dict(tags)))


@dataclass(frozen=True)
class _Launch:
    uri: str
    experiment: str
    run_name: str
    parameters: dict[str, str]
    tags: dict[str, str]


@dataclass
class _Child:
    """A child run while it is written: its id, and metrics that wait for the next batch."""

    run_id: str
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)


class Tracker:
    """Writes one launch to MLflow, in a thread of its own."""

    def __init__(self, launch: _Launch) -> None:
        self.problem: str | None = None
        self._launch = launch
        self._jobs: queue.Queue[Callable[[_Writer], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def trial_started(self, trial: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open a child run."""
        flat, begun = flatten(parameters), _now()
        self._jobs.put(lambda writer: writer.start(trial, flat, dict(tags), begun))

    def trial_reported(self, trial: str, metrics: Mapping[str, float], step: int) -> None:
        """Add points to a child run's curves."""
        points, now = dict(metrics), _now()
        self._jobs.put(lambda writer: writer.report(trial, points, step, now))

    def trial_finished(self, record: Record, checkpoint: Path | None = None) -> None:
        """Write the final scores, the record and the file of trained tensors if there is one; end the child run."""
        now = _now()
        self._jobs.put(lambda writer: writer.end(record, checkpoint, now))

    def trial_known(self, record: Record, checkpoint: Path | None = None) -> None:
        """Make sure that a trial of an earlier try of the launch has its child run."""
        now = _now()
        self._jobs.put(lambda writer: writer.make_up_for(record, checkpoint, now))

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        """Attach the leaderboard of ``folder`` to the parent run and end it with an MLflow run status."""
        self._jobs.put(lambda writer: writer.finish(folder, board, status))

    def close(self) -> None:
        """Write what is left; :attr:`problem` says afterwards whether all of it arrived."""
        self._jobs.put(None)
        self._thread.join()

    def _write(self) -> None:
        try:
            first = self._jobs.get()  # MLflow is not imported while the workers start: they need the cores
            writer = _Writer(self._launch)
            going = self._do(writer, first)
            while going:
                going = self._next(writer)
        except Exception as error:
            log.exception("MLflow")
            self.problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"

    def _next(self, writer: _Writer) -> bool:
        """Do one job, or write what is due if there is none; False at the end."""
        try:
            job = self._jobs.get(timeout=BATCH_SECONDS)
        except queue.Empty:
            writer.flush()
            return True
        return self._do(writer, job)

    def _do(self, writer: _Writer, job: Callable[[_Writer], None] | None) -> bool:
        if job is None:
            writer.close()
            return False
        job(writer)
        return True


class _Writer:
    """The MLflow side; lives in the tracker's thread."""

    def __init__(self, launch: _Launch) -> None:
        self._client = open_store(launch.uri)
        self._experiment = experiment_id(self._client, launch.uri, launch.experiment)
        self._children: dict[str, _Child] = {}
        self._written: dict[str, str] = {}
        self._flushed = time.monotonic()
        self._ended = False
        earlier = self._runs(f"tags.launch = '{launch.tags['launch']}'") if "launch" in launch.tags else []
        parent = next((run for run in earlier if PARENT not in run.data.tags), None)
        if parent is None:
            run = self._client.create_run(self._experiment, run_name=launch.run_name, tags=launch.tags)
            self._parent: str = run.info.run_id
            self._log_parameters(self._parent, launch.parameters)
        else:
            self._take_up(parent.info.run_id)

    def _runs(self, filter_string: str) -> list[Any]:
        runs, token = [], None
        while token != "":
            page = self._client.search_runs([self._experiment], filter_string, page_token=token, max_results=1000)
            runs += list(page)
            token = page.token or ""
        return runs

    def _take_up(self, parent: str) -> None:
        """Go on with a launch that ended before its time; child runs of trials that had not ended go."""
        self._parent = parent
        self._client.update_run(parent, status="RUNNING")
        self._client.set_tag(parent, "status", "running")
        for run in self._runs(f"tags.`{PARENT}` = '{parent}'"):
            if run.data.tags.get("status") in RUN_STATUS:
                self._written[run.info.run_name] = run.info.run_id
            else:
                self._client.delete_run(run.info.run_id)

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])

    def start(self, trial: str, parameters: Mapping[str, str], tags: Mapping[str, str], begun: int) -> None:
        if trial in self._children:
            return  # started again after its workers died: the run goes on
        if trial in self._written:  # it failed in an earlier try of the launch
            self._client.delete_run(self._written.pop(trial))
        run = self._client.create_run(
            self._experiment,
            run_name=trial,
            start_time=begun,
            tags={**tags, "status": "running", PARENT: self._parent},
        )
        self._children[trial] = _Child(run.info.run_id)
        self._log_parameters(run.info.run_id, parameters)

    def report(self, trial: str, metrics: Mapping[str, float], step: int, now: int) -> None:
        child = self._children[trial]
        child.metrics += [(name, float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def end(self, record: Record, checkpoint: Path | None, now: int) -> None:
        child = self._children.get(record.trial)
        if child is None:  # it failed before it started
            tags = {"method": record.method, "benchmark": record.benchmark, "phase": record.phase}
            self.start(record.trial, flatten(record.hyperparameters), tags, now)
            child = self._children[record.trial]
        values = {**flat(record.scores, record.phase), **{name: getattr(record, name) for name in COSTS}}
        child.metrics += [
            (name, float(value), now, record.steps) for name, value in values.items() if value is not None
        ]
        self._flush(child)
        self._client.log_text(child.run_id, record.model_dump_json(indent=2), RECORD)
        if checkpoint is not None:
            self._client.log_artifact(child.run_id, str(checkpoint), CHECKPOINTS)
        self._client.set_tag(child.run_id, "status", record.status)
        if record.error:
            self._client.set_tag(child.run_id, "error", record.error[:500])
        self._client.set_terminated(child.run_id, RUN_STATUS[record.status], end_time=now)
        del self._children[record.trial]

    def make_up_for(self, record: Record, checkpoint: Path | None, now: int) -> None:
        if record.trial not in self._written:
            self.end(record, checkpoint, now)

    def flush(self) -> None:
        self._flushed = time.monotonic()
        for child in self._children.values():
            self._flush(child)

    def _flush(self, child: _Child) -> None:
        from mlflow.entities import Metric

        points = [Metric(*point) for point in child.metrics]
        child.metrics.clear()
        for start in range(0, len(points), BATCH_METRICS):
            self._client.log_batch(child.run_id, metrics=points[start : start + BATCH_METRICS])

    def finish(self, folder: LaunchFolder, board: Leaderboard | None, status: str) -> None:
        if board is not None:
            self._client.log_table(self._parent, for_mlflow(board), "leaderboard.json")
            for path in (folder.table, folder.table_csv, folder.picture):
                self._client.log_artifact(self._parent, str(path))
            self._client.set_tag(self._parent, "mlflow.note.content", folder.table.read_text(encoding="utf-8"))
            self._log_headline(board)
        self._client.set_tag(self._parent, "status", "ok" if status == "FINISHED" else status.lower())
        self._client.set_terminated(self._parent, status)
        self._ended = True

    def _log_headline(self, board: Leaderboard) -> None:
        """The best row's numbers on the parent, so that launches can be compared in MLflow's run table."""
        best = next((row for row in board.rows if row.best), None)
        if best is None:
            return
        for name in ("target_accuracy", "source_accuracy", "forgetting", "mean"):
            spread: Spread = getattr(best, name)
            self._client.log_metric(self._parent, f"best_{name}", spread.mean)
        self._client.set_tag(self._parent, "best", best.label)

    def close(self) -> None:
        """End whatever is still open: the launch was interrupted."""
        self.flush()
        for child in self._children.values():
            self._client.set_tag(child.run_id, "status", "interrupted")
            self._client.set_terminated(child.run_id, "KILLED")
        if not self._ended:
            self._client.set_tag(self._parent, "status", "interrupted")
            self._client.set_terminated(self._parent, "KILLED")


def _now() -> int:
    return int(time.time() * 1000)
