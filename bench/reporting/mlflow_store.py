"""MLflow stores: where they are, whether they can be written to, and how they are opened."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages open with runs and curves, not with its views for language models."""

SQLITE_HEADER = b"SQLite format 3\x00"

RECORD = "record.json"
CHECKPOINTS = "checkpoints"
"""A trial's run keeps its record and its trained tensors under these names."""


def default_uri(results: Path) -> str:
    """The SQLite store of a results folder."""
    return f"sqlite:///{results.absolute() / 'mlflow.db'}"


def without_password(uri: str) -> str:
    """A store's address as it may be shown: without the password that it may hold."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)


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
        raise ValueError(f"{without_password(uri)!r} is no MLflow store; write sqlite:///file.db or http://host:port")


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
        raise ValueError(
            f"there is no MLflow server at {without_password(uri)} ({reason}); start one, or leave the option out"
        ) from None


def open_store(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return MlflowClient(uri)


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment, which is made if need be."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):  # otherwise MLflow puts the files under the current folder
        place = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        place = f"{place}/{name}"
    return str(client.create_experiment(name, artifact_location=place, tags=TRAINING_VIEW))
