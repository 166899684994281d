"""MLflow stores: those that cannot be used are refused in a sentence, soon, and before anything is computed."""

from __future__ import annotations

import base64
import http.server
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bench.reporting import mlflow_store
from bench.reporting.mlflow_tracker import open_tracker
from tests.unit.conftest import First

VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@pytest.mark.parametrize(
    ("kind", "said"), [("folder", "is a folder, not a database"), ("text", "is a file, but no SQLite database")]
)
def test_what_is_no_database_is_refused_beforehand(tmp_path: Path, kind: str, said: str) -> None:
    """MLflow itself would try again for a hundred seconds."""
    if kind == "folder":
        (tmp_path / "mlflow.db").mkdir()
    else:
        (tmp_path / "mlflow.db").write_text("this is no database " * 100)
    with pytest.raises(ValueError, match=rf"mlflow\.db {said}"):
        mlflow_store.check(mlflow_store.default_uri(tmp_path))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "there is no MLflow server at http://127.0.0.1:9 ("),
        ("https://127.0.0.1:9/", "there is no MLflow server at https://127.0.0.1:9/ ("),
        ("http://", "there is no MLflow server at http:// ("),
        ("sqlite:////nowhere/mlflow.db", "the folder of sqlite:////nowhere/mlflow.db does not exist"),
        ("ftp://host/x", "'ftp://host/x' is no MLflow store"),
        ("results", "'results' is no MLflow store"),
        ("http://127.0.0.1:port", "127.0.0.1:port"),
        ("file:///nowhere/mlruns", "'file:///nowhere/mlruns' is no MLflow store that can be used (MlflowException: "),
        ("postgresql://me:s3cret@127.0.0.1:1/x", "(the driver psycopg"),
        ("mssql+nodriver://me:s3cret@127.0.0.1:1/x", "mssql+nodriver://me:***@127.0.0.1:1/x' is no MLflow store"),
        ("sqlite://", "'sqlite://' names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:x.db?uri=true", "names no file"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(uri: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        mlflow_store.check(uri)
    assert time.monotonic() - began < 3.5
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_never_answers_is_refused_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ValueError, match="there is no MLflow server at"):
            mlflow_store.check(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=1.0)
        assert time.monotonic() - began < 3


def test_a_server_of_another_kind_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(b"I am no HTTP server\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ValueError, match="there is no MLflow server at"):
            mlflow_store.check(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()


def test_a_store_that_can_be_used_is_accepted(tmp_path: Path) -> None:
    mlflow_store.check(mlflow_store.default_uri(tmp_path))
    assert mlflow_store.default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:pass@word@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("http://me:secret@127.0.0.1:9", "http://me:***@127.0.0.1:9"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ],
)
def test_a_password_is_not_shown(uri: str, shown: str) -> None:
    assert mlflow_store.without_password(uri) == shown


def test_a_refusal_does_not_show_it_either() -> None:
    with pytest.raises(ValueError, match=r"http://me:\*\*\*@127.0.0.1:9") as caught:
        mlflow_store.check("http://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards, whoever changes it
        monkeypatch.delenv(name)


@pytest.fixture
def guarded(no_login: None) -> Iterator[str]:
    """The port of a server that answers to one user, and to one token."""
    good = {"Basic " + base64.b64encode(b"me:p@ss/w:rd").decode(), "Bearer t0ken"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers.get("Authorization") in good else 401)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *said: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_port)
        server.shutdown()


@pytest.mark.parametrize(
    ("before", "login"),
    [
        ("", {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p@ss/w:rd"}),
        ("", {"MLFLOW_TRACKING_TOKEN": "t0ken"}),
        (f"me:{quote('p@ss/w:rd', safe='')}@", {}),
        (f"me:{quote('p@ss/w:rd', safe='')}@", {"MLFLOW_TRACKING_PASSWORD": "another"}),
    ],
)
def test_a_login_that_mlflow_has_is_used(
    guarded: str, before: str, login: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    mlflow_store.check(f"http://{before}127.0.0.1:{guarded}")


@pytest.mark.parametrize("before", ["", "me:wr0ng@", "me:@", "wr0ng@"])
def test_a_login_that_the_server_refuses_is_said(guarded: str, before: str) -> None:
    with pytest.raises(ValueError, match=f"127.0.0.1:{guarded} refuses the login; set MLFLOW_TRACKING_USER") as caught:
        mlflow_store.check(f"http://{before}127.0.0.1:{guarded}")
    assert "wr0ng" not in str(caught.value)


def test_a_password_stands_in_nothing_that_is_written(
    no_login: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.reporting.mlflow_tracker.PATIENCE_SECONDS", 2.0)
    for uri in ("http://me:s3cret@127.0.0.1:9", "http://s3cret@127.0.0.1:9", "mysql://me:s3cret@127.0.0.1:9/x"):
        tracker = open_tracker(uri, experiment="x", run_name="x", parameters={}, tags={})
        tracker.trial_started("a", {}, {})
        tracker.close()
        assert tracker.problem is not None
        assert "127.0.0.1:9" in tracker.problem
        assert "s3cret" not in tracker.problem + caplog.text
    assert caplog.records


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://t0ken@host:5000", "http://***@host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("postgresql://me:pa/ss@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=s3cret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("https://host/mlflow?access_token=s3cret", "https://host/mlflow?access_token=***"),
    ],
)
def test_what_else_is_secret_is_not_shown_either(uri: str, shown: str) -> None:
    assert mlflow_store.without_password(uri) == shown


ODD = ("a b", "50%", "a%20b", "what?", "c#1", "%3F", "ä", "50%20 what?#é")


@pytest.mark.parametrize("name", ODD)
def test_the_address_of_an_odd_folder_means_that_folder(name: str) -> None:
    assert mlflow_store.database_file(mlflow_store.default_uri(Path("/x", name))) == Path("/x", name, "mlflow.db")


def test_a_store_in_an_odd_folder_is_made_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "in" / ODD[-1]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    results.mkdir(parents=True)
    (results / ".mlflow.db.1234.new").write_text("left by one that was killed")
    uri = mlflow_store.default_uri(results)
    mlflow_store.check(uri)
    tracker = open_tracker(uri, experiment="a b", run_name="x", parameters={}, tags={})
    tracker.trial_started("a", {}, {})
    tracker.close()
    assert tracker.problem is None
    client = mlflow_store.open_store(uri)
    experiment = client.get_experiment_by_name("a b")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    client.log_text(run.info.run_id, "text", "a.txt")
    assert [path.read_text() for path in (results / "mlartifacts" / "a b").rglob("a.txt")] == ["text"]
    mlflow_store.check(uri)
    assert sorted(path.name for path in results.iterdir()) == [".mlflow.db.lock", "mlartifacts", "mlflow.db"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == [results.name]
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_a_store_is_made_once_and_never_seen_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def client(file: Path) -> None:
        if file.name != "mlflow.db":
            assert not (tmp_path / "mlflow.db").exists()
            with file.open("w") as half:
                half.write("made by ")
                half.flush()
                time.sleep(0.3)
                half.write("one")
            made.append(file)
        assert (tmp_path / "mlflow.db").exists() or file.name != "mlflow.db"

    monkeypatch.setattr(mlflow_store, "_client", client)
    threads = [
        threading.Thread(target=mlflow_store.open_store, args=(mlflow_store.default_uri(tmp_path),)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (tmp_path / "mlflow.db").read_text() == "made by one"


@pytest.fixture
def database(tmp_path: Path, first: First) -> Path:
    return Path(shutil.copy(first.results / "mlflow.db", tmp_path))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("read-only", "is read-only: make it writable"),
        ("older", "was made by another version of MLflow, or only in part: .* `mlflow db upgrade sqlite:///"),
        ("part", "was made by another version of MLflow, or only in part"),
        ("other", "is a database of something else than MLflow"),
        ("damaged", "cannot be written to"),
        ("pipe", "is no regular file"),
    ],
)
def test_a_database_that_mlflow_cannot_write_to_is_refused(database: Path, kind: str, said: str) -> None:
    uri = f"sqlite:///{database}"
    mlflow_store.check(uri)
    change = {
        "older": "update alembic_version set version_num = '451aebb31d03'",
        "part": "delete from alembic_version",
        "other": "drop table runs",
    }
    if kind == "read-only":
        database.chmod(0o444)
    elif kind == "damaged":
        database.write_bytes(database.read_bytes()[:100] + b"\xff" * 5000)
    elif kind == "pipe":
        database.unlink()
        os.mkfifo(database)
    else:
        with closing(sqlite3.connect(database)) as opened:
            opened.execute(change[kind])
            opened.commit()
    with pytest.raises(ValueError, match=said):
        mlflow_store.check(uri)


def test_a_database_that_somebody_writes_to_at_the_moment_is_accepted(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("begin exclusive")
        mlflow_store.check(f"sqlite:///{database}")


def test_an_experiment_that_was_deleted_is_restored(database: Path) -> None:
    uri = f"sqlite:///{database}"
    client = MlflowClient(uri)
    deleted = client.get_experiment_by_name("first")
    assert deleted is not None
    client.delete_experiment(deleted.experiment_id)
    tracker = open_tracker(uri, experiment="first", run_name="again", parameters={}, tags={})
    tracker.close()
    assert tracker.problem is None
    restored = client.get_experiment_by_name("first")
    assert restored is not None
    assert restored.lifecycle_stage == "active"
    assert "again" in [run.info.run_name for run in client.search_runs([restored.experiment_id])]


def test_an_experiment_that_somebody_makes_at_the_same_moment_is_used() -> None:
    answers = iter([None, SimpleNamespace(experiment_id="7", lifecycle_stage="active")])

    def create(*_: Any, **__: Any) -> None:
        raise MlflowException("it exists")

    client: Any = SimpleNamespace(get_experiment_by_name=lambda _: next(answers), create_experiment=create)
    assert mlflow_store.experiment_id(client, "http://host", "x") == "7"
