"""MLflow: one parent run a launch, one child run a trial. The only module that imports it.

Everything is handed to one thread that writes in batches, so that neither the search nor a worker ever waits for a
database. What cannot be written is kept as :attr:`Tracker.problem`: a study is never lost to its bookkeeping.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import queue
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench import records

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from numpy.typing import NDArray

    from bench.leaderboard import Leaderboard
    from bench.records import Record

log = logging.getLogger(__name__)

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages open with runs and curves, not with its views for language models."""

SQLITE_HEADER = b"SQLite format 3\x00"

BATCH_SECONDS = 1.0
"""Longest time that a metric waits before it is written."""

BATCH_METRICS = 1000
"""MLflow takes no more in one request."""

SCORES = (
    "target_accuracy",
    "source_accuracy",
    "source_accuracy_before",
    "forgetting",
    "mean",
    "val_target_accuracy",
    "val_source_accuracy",
    "val_source_accuracy_before",
    "val_forgetting",
    "val_mean",
    "trainable_parameters",
    "train_seconds",
    "eval_seconds",
    "images_per_second",
)
RECORD = "record.json"
CHECKPOINTS = "checkpoints"
"""Where a trial's run keeps its record and its trained tensors."""

RUN_STATUS = {"ok": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def default_uri(results: Path) -> str:
    """The SQLite store of a results folder."""
    return f"sqlite:///{results.absolute() / 'mlflow.db'}"


def check(uri: str, *, timeout: float = 3.0) -> None:
    """Refuse a store that cannot be written to, before anything is computed.

    Raises:
        ValueError: one sentence that says why.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        _check_server(uri, timeout)
    elif parts.scheme.startswith("sqlite"):
        _check_file(uri, Path(uri.partition(":///")[2]).absolute())
    elif not parts.scheme.startswith(("postgresql", "mysql", "mssql", "file", "databricks")):
        raise ValueError(f"{uri!r} is no MLflow store; write sqlite:///file.db or http://host:port")


def _check_file(uri: str, file: Path) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise ValueError(f"the folder of {uri} does not exist or cannot be written to")
    if file.is_dir():
        raise ValueError(f"{uri} is a folder, not a database")
    if file.is_file():
        with file.open("rb") as start:
            header = start.read(len(SQLITE_HEADER))
        if header not in (b"", SQLITE_HEADER):
            raise ValueError(f"{uri} is a file, but no SQLite database")


def _check_server(uri: str, timeout: float) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout):
            return
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise ValueError(f"there is no MLflow server at {uri} ({reason}); start one, or leave the option out") from None


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
    """Open the parent run of a launch; returns at once.

    The store is prepared by the writing thread, as soon as there is news.

    Args:
        uri: of the store, checked by :func:`check`.
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

    def finish(self, folder: Path, board: Leaderboard | None, status: str) -> None:
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


def _open(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment, which is made if need be."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):  # otherwise MLflow puts the files under the current folder
        place = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        place = f"{place}/{name}"
    return str(client.create_experiment(name, artifact_location=place, tags=TRAINING_VIEW))


def fetch(uri: str, run_id: str, folder: Path) -> Path:
    """Copy a trial's record, and its trained tensors if it kept them, from its run into a results folder.

    Args:
        uri: of the store.
        run_id: of the trial's run, a child of its launch's.
        folder: to write to: ``records/<trial>.json`` and ``checkpoints/<trial>.safetensors``.

    Returns:
        The record's file.

    Raises:
        ValueError: there is no such store or run, or it is no trial's.
    """
    check(uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ValueError(f"there is no MLflow store {uri}; name the run's store with --tracking-uri")
    client = _open(uri)
    from mlflow.exceptions import MlflowException

    try:
        found = {artifact.path for artifact in client.list_artifacts(run_id)}
    except MlflowException:
        raise ValueError(f"there is no run {run_id} in {uri}") from None
    if RECORD not in found:
        raise ValueError(
            f"run {run_id} holds no record: name the run of a trial that has ended, a child of its launch's"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        record = records.read(Path(client.download_artifacts(run_id, RECORD, place)))
        for artifact in client.list_artifacts(run_id, CHECKPOINTS):
            file = Path(client.download_artifacts(run_id, artifact.path, place))
            records.write_atomically(folder / "checkpoints" / file.name, file.read_bytes())
    return record.write(folder / "records")


def register(
    uri: str,
    name: str,
    model: Any,
    *,
    example: NDArray[np.float32],
    classes: int,
    experiment: str,
    run_name: str,
    facts: Mapping[str, Any],
    requirements: Sequence[str],
) -> Sequence[str]:
    """Register a model in MLflow as a traced graph, which needs neither this package nor unpickling to be loaded.

    Args:
        uri: of the store.
        name: of the registered model; it gets a new version if it exists.
        model: maps normalised images ``[b, 3, h, w]`` to logits ``[b, classes]``, in evaluation mode.
        example: at least two images; with one the graph would take one at a time only.
        facts: what is to be known of the model besides, such as class names.
        requirements: of pip, to run it.

    Returns:
        Python lines that load it with MLflow alone.

    Raises:
        ValueError: the name or the store cannot be used.
    """
    if not name or set(name) & set("/:"):
        raise ValueError(f"--mlflow-model {name!r} cannot be a name of a registered model: leave out '/' and ':'")
    check(uri)
    client = _open(uri)
    import mlflow

    mlflow.set_tracking_uri(uri)
    place = _experiment(client, uri, experiment)
    with mlflow.start_run(experiment_id=place, run_name=run_name):
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            signature=_signature(example, classes),
            input_example=example,
            registered_model_name=name,
            serialization_format="pt2",
            pip_requirements=list(requirements),
            metadata=dict(facts),
        )
    return [
        "import mlflow",
        f"mlflow.set_tracking_uri({uri!r})",
        f"model = mlflow.pytorch.load_model('models:/{name}/{info.registered_model_version}')",
    ]


def _signature(example: NDArray[np.float32], classes: int) -> Any:
    """Any number of images in, their logits out."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
    return ModelSignature(Schema([inputs]), Schema([TensorSpec(example.dtype, (-1, classes))]))


class _Writer:
    """The MLflow side; lives in the tracker's thread."""

    def __init__(self, launch: _Launch) -> None:
        self._client = _open(launch.uri)
        self._experiment = _experiment(self._client, launch.uri, launch.experiment)
        run = self._client.create_run(self._experiment, run_name=launch.run_name, tags=launch.tags)
        self._parent: str = run.info.run_id
        self._children: dict[str, _Child] = {}
        self._flushed = time.monotonic()
        self._ended = False
        self._log_parameters(self._parent, launch.parameters)

    def _log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])

    def start(self, trial: str, parameters: Mapping[str, str], tags: Mapping[str, str], begun: int) -> None:
        if trial in self._children:
            return  # started again after its workers died: the run goes on
        run = self._client.create_run(
            self._experiment,
            run_name=trial,
            start_time=begun,
            tags={**tags, "status": "running", "mlflow.parentRunId": self._parent},
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
        scores = {name: getattr(record, name) for name in SCORES}
        child.metrics += [
            (name, float(value), now, record.steps) for name, value in scores.items() if value is not None
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

    def finish(self, folder: Path, board: Leaderboard | None, status: str) -> None:
        if board is not None:
            self._client.log_table(self._parent, _columns(board), "leaderboard.json")
            for name in ("leaderboard.md", "leaderboard.csv", "pareto.png"):
                self._client.log_artifact(self._parent, str(folder / name))
            self._client.set_tag(self._parent, "mlflow.note.content", (folder / "leaderboard.md").read_text())
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
            self._client.log_metric(self._parent, f"best_{name}", getattr(best, name).mean)
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


def _columns(board: Leaderboard) -> dict[str, list[Any]]:
    """The leaderboard as MLflow's table: one list a column."""
    columns: dict[str, list[Any]] = {
        "row": [row.label for row in board.rows],
        "hyperparameters": [json.dumps(dict(row.hyperparameters)) for row in board.rows],
        "trainable_parameters": [row.trainable_parameters for row in board.rows],
    }
    for name in ("target_accuracy", "source_accuracy", "forgetting", "mean"):
        spreads = [getattr(row, name) for row in board.rows]
        columns[name] = [spread.mean if spread else None for spread in spreads]
        columns[f"{name}_std"] = [spread.std if spread else None for spread in spreads]
    columns["pareto"] = [row.pareto for row in board.rows]
    columns["test_selected"] = [row.test_selected for row in board.rows]
    return columns


def _now() -> int:
    return int(time.time() * 1000)
