"""Optuna's storage: what a search has found, where ``optuna.load_study`` and optuna-dashboard look for it."""

from __future__ import annotations

import itertools
import queue
import tempfile
import threading
import urllib.parse
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from bench.spec import SpecError, Study, sentence

LAUNCH = "launch"
"""This attribute of Optuna's studies holds the launch's id."""

CLOSE_SECONDS = 25.0
"""So long after its last trial a launch waits for a storage."""

BUSY_SECONDS = 60
"""A SQLite file that somebody reads is waited for so long."""


def opened(place: Path | str) -> BaseStorage:
    """Open a storage, or make it.

    Args:
        place: a SQLite file, whatever characters its path has; or a database's URL, as SQLAlchemy has it; or, as text
            without ``://``, a journal file.
    """
    url = _url(place) if isinstance(place, Path) else place
    if "://" not in url:
        return JournalStorage(JournalFileBackend(url))
    options = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite:") else None
    return RDBStorage(url, engine_kwargs=options)


def _url(file: Path) -> str:
    from sqlalchemy import URL  # takes half a second, which the thread that writes has

    database = f"file:{urllib.parse.quote(str(file.absolute()))}"  # SQLite's own form, which it decodes
    return URL.create("sqlite", database=database, query={"uri": "true"}).render_as_string()


def check(url: str) -> None:
    """Refuse a storage that cannot be written to, before anything is computed.

    Raises:
        SpecError: one sentence that says why.
    """
    file = file_of(url)
    try:
        if file is None or file.exists():
            opened(url).get_all_studies()
            return
        with tempfile.TemporaryFile(dir=file.parent):  # opened, it would be made
            return
    except Exception as error:  # each database's driver has errors of its own
        raise SpecError(
            f"--optuna-storage cannot be used: {_reason(error)}; it takes the URL of a database, such as "
            f"sqlite:///optuna.db, or the path of a journal file"
        ) from None


def file_of(url: str) -> Path | None:
    """The file of a storage that is one, absolute; None of a database's server."""
    if "://" not in url:
        return Path(url).absolute()
    if not url.startswith("sqlite:"):
        return None
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:  # which is said when it is opened
        return None
    name = parsed.database or ""
    return None if name in ("", ":memory:") or "uri" in parsed.query else Path(name).absolute()


def _reason(error: Exception) -> str:
    """The first line of what a database's driver says, which has no password in it."""
    return sentence(error).split("\\n")[0].rstrip(".:")


class SearchStorage:
    """Writes the ended trials of a launch's searches to a storage, by a thread of its own.

    The searches themselves are held in memory: a database costs a second to make and a tenth of one a trial. A launch
    that goes on makes its studies anew, from the records that it is answered by. Optuna's studies are called after
    launch and study; where another launch has left one of that name, a number is added.
    """

    def __init__(self, place: Path | str, *, name: str, launch: str) -> None:
        """Write to a storage, as soon as there is something to write.

        Args:
            place: see :func:`opened`.
            name: of the suite.
            launch: its id.
        """
        self._place, self._name, self._launch = place, name, launch
        self._queue: queue.SimpleQueue[tuple[Study, FrozenTrial] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """Why something is missing in the storage, if that is so."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher with all that hangs on it, and nobody reads that."""
        return {}

    def add(self, study: Study, trial: FrozenTrial) -> None:
        """Write a trial of a study's search; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="optuna-storage", daemon=True)
            self._thread.start()
        self._queue.put((study, trial))

    def close(self) -> None:
        """Wait until all is written, or has failed."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self.problem = self.problem or f"the storage has not answered for {CLOSE_SECONDS:.0f} seconds"

    def _write(self) -> None:
        try:
            storage, made = opened(self._place), dict[str, optuna.Study]()
            while (item := self._queue.get()) is not None:
                study, trial = item
                name = study.labelled(study.name)
                if name not in made:
                    made[name] = self._make(storage, study)
                made[name].add_trial(trial)
        except Exception as error:  # said at the end of the launch, whose records have all of it
            self.problem = _reason(error)

    def _make(self, storage: BaseStorage, study: Study) -> optuna.Study:
        """An empty study; what an earlier try of the same launch has written of it is removed."""
        plain = f"{self._name}/{study.labelled(study.name)}"
        for name in itertools.chain([plain], (f"{plain} #{number}" for number in itertools.count(2))):
            found = {one.study_name: one._study_id for one in storage.get_all_studies()}
            if name in found and storage.get_study_user_attrs(found[name]).get(LAUNCH) == self._launch:
                storage.delete_study(found[name])
            elif name in found:
                continue
            break
        maximise, minimise = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [maximise if mode == "max" else minimise for mode in study.objective.modes]
        made = optuna.create_study(storage=storage, study_name=name, directions=directions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made.set_metric_names(list(study.objective.quantities))
        attributes = {LAUNCH: self._launch, "method": study.method, "objective": str(study.objective)}
        for key, value in attributes.items():
            made.set_user_attr(key, value)
        return made
