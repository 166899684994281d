"""Addresses of MLflow stores: which file they mean, and how they are shown without what is secret."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from bench.spec import sentence

SQLITE = "sqlite:///"

SERVERS = ("http", "https")

SPECIAL = frozenset("%?#")
"""In a path, these are no plain characters of an address."""

LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Where MLflow looks for a login."""

SECRETS = (LOGIN[1], "MLFLOW_TRACKING_TOKEN")

SECRET_QUERY = re.compile(r"([?&][^=&]*(?:passw|pwd|token|secret)[^=&]*=)[^&#]*", re.IGNORECASE)


def default_uri(results: Path) -> str:
    """The SQLite store of a results folder."""
    return sqlite_uri(results.absolute() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The address of an SQLite store, whatever its path is called."""
    if not SPECIAL & set(str(file)):
        return f"{SQLITE}{file}"
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def database_file(uri: str) -> Path | None:
    """The file of an SQLite store, absolute; None if the store is of another kind.

    Raises:
        ValueError: the address is none of a file.
    """
    if not urlsplit(uri).scheme.startswith("sqlite"):
        return None
    if uri.startswith(SQLITE) and not SPECIAL & set(uri):
        name: str | None = uri.removeprefix(SQLITE)
    else:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            name = make_url(uri).database
        except ArgumentError:
            name = None
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ValueError(f"{uri!r} names no file; write {SQLITE}file.db, or {SQLITE}/folder/file.db")
    return Path(name).absolute()


def without_password(uri: str) -> str:
    """A store's address as it may be shown: without the password or the token that it may hold."""
    if uri.partition(":")[0] in SERVERS:  # whatever follows: it may be no address at all
        hidden = re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", uri)
        hidden = re.sub(r"://[^/@:]+@", "://***@", hidden)  # a name without password is a token
    else:
        hidden = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", uri)
    return SECRET_QUERY.sub(r"\1***", hidden)


def with_login_apart(uri: str) -> str:
    """The address of a server as MLflow is given it: a login in it goes where MLflow looks for one.

    So it stands in none of the addresses that MLflow writes into messages, logs and artifacts' locations.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SERVERS or not parts.username or not parts.password:
        return uri
    for variable, value in zip(LOGIN, (parts.username, parts.password), strict=True):
        os.environ[variable] = unquote(value)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def reason(error: BaseException, uri: str) -> str:
    """What an error of a store says, in one line without what is secret."""
    said = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {said[0] if said else 'no message'}"
    return sentence(ValueError(without_secrets(text, uri)))


def without_secrets(text: str, uri: str) -> str:
    """A text that may quote a store's address or what MLflow logs in with."""
    shown = text.replace(uri, without_password(uri))
    parts = urlsplit(uri)
    known = [parts.password, unquote(parts.password or ""), *(os.environ.get(name) for name in SECRETS)]
    if parts.scheme in SERVERS and parts.password is None:
        known.append(parts.username)
    for secret in filter(None, known):
        shown = shown.replace(secret, "***")
    return shown
