"""MLflow stores: whether they can be written to, and how they are opened."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from bench.reporting.mlflow_address import (
    LOGIN,
    SERVERS,
    SPECIAL,
    SQLITE,
    database_file,
    default_uri,
    reason,
    sqlite_uri,
    with_login_apart,
    without_password,
    without_secrets,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["check", "database_file", "default_uri", "experiment_id", "open_store", "passing", "without_password"]

TRAINING_VIEW = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's pages open with runs and curves, not with its views for language models."""

SQLITE_HEADER = b"SQLite format 3\x00"

RECORD = "record.json"
CHECKPOINTS = "checkpoints"
"""A trial's run keeps its record and its trained tensors under these names."""

ANSWERS_SECONDS = 10.0
"""A store that has not answered until then is none."""

WRITE = "write sqlite:///file.db or http://host:port"

PASSING_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED")

PASSING_IN_SQLITE = tuple(f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "PROTOCOL", "IOERR", "FULL", "CANTOPEN"))

PING = "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"


def check(uri: str, *, timeout: float = 3.0) -> None:
    """Refuse a store that cannot be written to, before anything is computed; nothing is written.

    SQLite's file is looked at; all other stores MLflow itself is asked for, with the login that it has.

    Args:
        timeout: of a server, in seconds.

    Raises:
        ValueError: one sentence that says why.
    """
    scheme, file = urlsplit(uri).scheme, database_file(uri)
    if file is not None:
        _check_file(without_password(uri), file)
    elif scheme in SERVERS:
        _check_server(uri, timeout)
    elif scheme or uri == "databricks":
        _within(ANSWERS_SECONDS, uri, _ask_database if scheme.startswith(("postgresql", "mysql", "mssql")) else _ask)
    else:
        raise ValueError(f"{uri!r} is no MLflow store; {WRITE}")


def _check_file(shown: str, file: Path) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise ValueError(f"the folder of {shown} does not exist or cannot be written to")
    if file.is_dir():
        raise ValueError(f"{shown} is a folder, not a database")
    if not file.exists():
        return
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{shown} is no regular file")
    if not os.access(file, os.W_OK) or not file.stat().st_mode & 0o222:
        raise ValueError(f"{shown} is read-only: make it writable (chmod u+w), or choose another store")
    with file.open("rb") as start:
        header = start.read(len(SQLITE_HEADER))
    if header not in (b"", SQLITE_HEADER):
        raise ValueError(f"{shown} is a file, but no SQLite database")
    if header:
        _check_content(shown, file)


def _check_content(shown: str, file: Path) -> None:
    """Whether SQLite can write to a file, and it is a store of this version of MLflow."""
    revision = None
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=1)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            if "alembic_version" in tables:
                revision = next((one for (one,) in database.execute("select version_num from alembic_version")), None)
            database.execute("begin immediate")
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):  # whoever writes at the moment ends; what is written is tried again
            return
        raise ValueError(f"{shown} cannot be written to ({error})") from None
    if tables and not {"experiments", "runs"} <= tables:
        raise ValueError(f"{shown} is a database of something else than MLflow; choose another file")
    if tables and (newest := _newest_schema()) and revision != newest:
        raise ValueError(
            f"{shown} was made by another version of MLflow, or only in part: make a copy and run `mlflow db upgrade "
            f"{shown}`, or choose another store"
        )


@functools.cache
def _newest_schema() -> str | None:
    """The schema of the MLflow that is installed, without the seconds of its import; None if it does not say."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    files = (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py")
    texts = [file.read_text(encoding="utf-8") for file in files]
    before = "\n".join(line for text in texts for line in re.findall(r"^down_revision\b.*", text, re.MULTILINE))
    made = {name for text in texts for name in re.findall(r"^revision\b.*?['\"](\w+)", text, re.MULTILINE)}
    newest = made - set(re.findall(r"\w+", before))
    return newest.pop() if len(newest) == 1 else None


def _check_server(uri: str, timeout: float) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = without_password(uri)
    try:
        login = get_default_host_creds(with_login_apart(uri))
        health, ping = (
            http_request(login, place, "GET", max_retries=0, timeout=timeout, raise_on_status=False)
            for place in ("/health", PING)
        )
    except (MlflowException, OSError, ValueError) as error:
        said = without_secrets(str([*_causes(error)][-1]), uri)
        raise ValueError(f"there is no MLflow server at {shown} ({said}); start one, or leave the option out") from None
    if {health.status_code, ping.status_code} & {401, 403}:
        raise ValueError(
            f"the MLflow server at {shown} refuses the login; set {' and '.join(LOGIN)}, or MLFLOW_TRACKING_TOKEN"
        )
    if not (health.ok or ping.ok or "error_code" in ping.text):
        raise ValueError(f"what answers at {shown} is no MLflow server ({ping.status_code} {ping.reason})")


def _ask_database(uri: str) -> None:
    """Connect once, where MLflow tries for minutes."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    with create_sqlalchemy_engine(uri).connect():
        pass


def _ask(uri: str) -> None:
    open_store(uri).search_experiments(max_results=1)


def _within(seconds: float, uri: str, ask: Callable[[str], None]) -> None:
    """Ask a store, and wait no longer than that."""
    needed = "mlflow.store.db.utils" if ask is _ask_database else "mlflow"
    importlib.import_module(needed)  # on a busy machine that alone may take so long
    shown, problems = without_password(uri), [f"no answer within {seconds:g} s"]

    def asked() -> None:
        try:
            ask(uri)
            problems.clear()
        except ModuleNotFoundError as error:
            problems[:] = [f"the driver {error.name} is missing: pip install it"]
        except Exception as error:  # whatever a driver or a plug-in raises
            problems[:] = [reason(error, uri)]

    thread = threading.Thread(target=asked, name="mlflow-check", daemon=True)
    thread.start()
    thread.join(seconds)
    if problems:
        raise ValueError(f"{shown!r} is no MLflow store that can be used ({problems[0]}); {WRITE}")


def passing(error: BaseException) -> bool:
    """Whether an error of a store may be over soon: it is busy, restarting, or out of reach."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException
    from requests.exceptions import InvalidURL, MissingSchema
    from sqlalchemy.exc import OperationalError

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OperationalError):
            name = getattr(cause.orig, "sqlite_errorname", None)
            return name is None or name.startswith(PASSING_IN_SQLITE)
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code in (408, 429) or cause.response.status_code >= 500
        if isinstance(cause, RequestException):
            return not isinstance(cause, InvalidURL | MissingSchema)
    return any(isinstance(cause, MlflowException) and cause.error_code in PASSING_CODES for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def open_store(uri: str) -> MlflowClient:
    """A client of a store; an SQLite store is made if need be.

    Two processes may do so at once: it is made under a lock, beside its place, and moved there when it is complete, so
    that there is never a half-made one.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    file = database_file(uri)
    if file is None:
        from mlflow import MlflowClient

        return MlflowClient(with_login_apart(uri))
    _make(file)
    return _client(file)


def _make(file: Path) -> None:
    with FileLock(file.with_name(f".{file.name}.lock")):
        if file.is_file() and file.stat().st_size:
            return
        prefix, suffix = f".{file.name}.", ".new"
        for left in file.parent.iterdir():  # by one that was killed
            if left.name.startswith(prefix) and suffix in left.name:  # with its journal
                left.unlink()
        new = file.with_name(f"{prefix}{secrets.token_hex(4)}{suffix}")
        _client(new)
        new.replace(file)


def _client(file: Path) -> MlflowClient:
    """A client of an SQLite file. MLflow makes the folder that it reads off the address, which is another one if the
    path holds special characters."""
    from mlflow import MlflowClient

    uri = sqlite_uri(file)
    if not SPECIAL & set(str(file)):
        return MlflowClient(uri)
    misread = Path(uri.removeprefix(SQLITE)).parent
    there = misread.exists()
    client = MlflowClient(uri)
    if not there:
        with suppress(OSError):
            os.removedirs(misread)
    return client


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment, which is made, or restored if it was deleted, if need be."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(uri, name), tags=TRAINING_VIEW))
        except MlflowException:
            known = client.get_experiment_by_name(name)  # somebody else has made it meanwhile
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        client.restore_experiment(known.experiment_id)
    return str(known.experiment_id)


def _artifacts(uri: str, name: str) -> str | None:
    """Where the files of an experiment go: beside an SQLite file, since MLflow would take the current folder."""
    file = database_file(uri)
    return (file.parent / "mlartifacts" / name).as_uri() if file is not None else None
