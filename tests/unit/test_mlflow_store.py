"""MLflow stores: those that cannot be used are refused in a sentence, soon, and before anything is computed."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from bench.reporting import mlflow_store


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
    ],
)
def test_a_store_that_cannot_be_used_is_refused(uri: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("?", r"\?")) as caught:
        mlflow_store.check(uri)
    assert time.monotonic() - began < 3.5
    assert "\n" not in str(caught.value)


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
