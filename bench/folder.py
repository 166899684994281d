"""The launch folder: the one place that knows what a launch leaves where.

``<results>/<study>/<benchmark>/`` holds records, trained tensors, tables, logs, and the earlier launches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.records import MOST, Record, read, write_atomically
from bench.spec import SpecError, read_text

WEIGHTS = ".safetensors"

SNAPSHOT = ".pt"
"""Of a trial that has not ended."""

LOCK_SECONDS = 2.0
"""A folder's lock is waited for so long: what marks the end of a killed launch holds it for a moment."""


@dataclass(frozen=True)
class LaunchFolder:
    """Where one launch writes. Every path is absolute if ``path`` is."""

    path: Path

    @classmethod
    def of(cls, results: Path, suite: str, benchmark: str) -> LaunchFolder:
        """The folder of a suite on a benchmark."""
        return cls(results / suite / benchmark)

    @classmethod
    def holding(cls, record: Path) -> LaunchFolder:
        """The folder that a record's file, or a checkpoint's, lies in."""
        return cls(record.parent.parent)

    @property
    def records(self) -> Path:
        """One JSON file a trial."""
        return self.path / "records"

    @property
    def checkpoints(self) -> Path:
        """The trained tensors of confirmed trials."""
        return self.path / "checkpoints"

    @property
    def unfinished(self) -> Path:
        """What trials that have not ended need to go on."""
        return self.path / "unfinished"

    @property
    def evaluation(self) -> Path:
        """What ``python -m bench evaluate`` writes, one folder a trial."""
        return self.path / "evaluation"

    @property
    def ray(self) -> Path:
        """Ray's own files."""
        return self.path / "ray"

    @property
    def table(self) -> Path:
        """The leaderboard as Markdown."""
        return self.path / "leaderboard.md"

    @property
    def table_csv(self) -> Path:
        """The leaderboard as numbers."""
        return self.path / "leaderboard.csv"

    @property
    def table_json(self) -> Path:
        """The leaderboard with all that belongs to it."""
        return self.path / "leaderboard.json"

    @property
    def manifest(self) -> Path:
        """What the launch was asked for, and whether it has ended."""
        return self.path / "launch.json"

    @property
    def picture(self) -> Path:
        """Source accuracy over target accuracy."""
        return self.path / "pareto.png"

    @property
    def page(self) -> Path:
        """The leaderboard for the browser."""
        return self.path / "index.html"

    @property
    def curves(self) -> Path:
        """What was learned and forgotten over steps, if that was read on the way."""
        return self.path / "curves.png"

    @property
    def curves_csv(self) -> Path:
        """The same as numbers."""
        return self.path / "curves.csv"

    @property
    def optuna(self) -> Path:
        """The searches, as Optuna's tools read them."""
        return self.path / "optuna.db"

    def record(self, trial: str) -> Path:
        """The file of a trial's record."""
        return self.records / f"{trial}.json"

    def checkpoint(self, trial: str) -> Path:
        """The file of a trial's trained tensors."""
        return self.checkpoints / f"{trial}{WEIGHTS}"

    def snapshot(self, trial: str) -> Path:
        """The file that a trial goes on from if it is cut."""
        return self.unfinished / f"{trial}{SNAPSHOT}"

    @property
    def derived(self) -> tuple[Path, ...]:
        """What the records give: tables, pictures and the page."""
        tables = (self.table, self.table_csv, self.table_json, self.curves_csv)
        return (*tables, self.picture, self.curves, self.page)

    @property
    def ended(self) -> bool | None:
        """Whether the launch has ended; None if the folder does not say."""
        try:
            return bool(json.loads(self.manifest.read_text(encoding="utf-8"))["ended"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    def read_manifest(self) -> dict[str, Any]:
        """What the launch has written of itself; empty if it wrote nothing.

        Raises:
            ValueError: it is something else.
        """
        if not self.manifest.exists():
            return {}
        try:
            values = json.loads(read_text(self.manifest, most=MOST))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.manifest} is not what a launch writes: {error}") from None
        asked = values.get("asked") if isinstance(values, dict) else None
        parts = [asked.get(name, {}) for name in ("study", "benchmark")] if isinstance(asked, dict) else [None]
        studies = parts[0].values() if isinstance(parts[0], dict) else [None]
        if not all(isinstance(part, dict) for part in (*parts, *studies)) or not str(values.get("id", "")).isalnum():
            raise ValueError(f"{self.manifest} is not what a launch writes: remove it, or name another folder")
        return dict(values)

    def remove_snapshots(self) -> None:
        """Remove the snapshots of trials that have ended; one that failed, and is tried again, goes on from its own."""
        for path in self.unfinished.glob(f"*{SNAPSHOT}"):
            record = self.record(path.stem)
            if record.is_file() and not read(record).is_tried_again:
                path.unlink(missing_ok=True)

    def new_log(self) -> Path:
        """A file for what Ray, Optuna and MLflow say, named after the time."""
        place = self.path / "logs"
        place.mkdir(parents=True, exist_ok=True)
        return place / f"{datetime.now():%Y%m%d-%H%M%S}.log"

    def read_records(self) -> list[Record]:
        """All records, by file name.

        Raises:
            ValueError: there are none, one of them is no record, or the record of another trial than its name says: a
                copy, which would count as a further seed.
        """
        paths = sorted(self.records.glob("*.json"))
        if not paths:
            raise ValueError(f"there are no records in {self.records}; run a study first")
        records = [read(path) for path in paths]
        for path, record in zip(paths, records, strict=True):
            if path.stem != record.trial:
                raise ValueError(f"{path} holds the record of {record.trial}: remove the file, or name it after that")
        return records

    def keep_tensors(self, trial: str, tensors: bytes) -> Path:
        """Write a trial's trained tensors (the bytes of a safetensors file); returns the file."""
        write_atomically(self.checkpoint(trial), tensors)
        return self.checkpoint(trial)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other launch out.

        Raises:
            SpecError: there is one in it already.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise SpecError(
                f"another launch is writing to {self.path}: wait until it has ended, or choose another --results"
            ) from None
        try:
            self._remove_unfinished()
            yield
        finally:
            lock.release()

    def undisturbed(self) -> AbstractContextManager[None]:
        """Keep every launch out while the folder is read; one that nobody can write to needs no lock."""
        return self.locked() if os.access(self.path, os.W_OK) else nullcontext()

    def _remove_unfinished(self) -> None:
        """Remove what a launch that was killed had begun to write."""
        for place in (self.records, self.checkpoints):
            for path in place.glob(".*"):
                path.unlink()

    def put_aside(self) -> Path | None:
        """Move an earlier launch to ``previous/``, so that a leaderboard never mixes two launches.

        Returns:
            Where it is now; None if there was none.
        """
        own = (self.records, self.checkpoints, self.unfinished, self.evaluation, self.manifest, self.optuna)
        return self._move([path for path in (*own, *self.derived) if path.exists()])

    def keep_only(self, trials: Collection[str]) -> None:
        """Move the records and checkpoints of all other trials to ``previous/``."""
        files = [*self.records.glob("*.json"), *self.checkpoints.glob(f"*{WEIGHTS}")]
        self._move([path for path in files if path.stem not in trials])

    def _move(self, old: Sequence[Path]) -> Path | None:
        if not old:
            return None
        stamp = datetime.fromtimestamp(max(path.stat().st_mtime for path in old))
        place = self.path / "previous" / f"{stamp:%Y%m%d-%H%M%S-%f}"
        for path in old:
            (place / path.relative_to(self.path)).parent.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.relative_to(self.path))
        return place


def launches_in(folder: Path) -> list[LaunchFolder]:
    """The launch folder that a path names, or all that a results folder or a study's folder in it holds; or none."""
    own = LaunchFolder(folder)
    if _has_records(own):
        return [own]
    below = [LaunchFolder(place) for pattern in ("*", "*/*") for place in sorted(folder.glob(pattern))]
    return [place for place in below if (place.manifest.is_file() or place.table.is_file()) and _has_records(place)]


def launch_folders(folder: Path) -> list[LaunchFolder]:
    """The same, of which there must be one.

    Raises:
        ValueError: it holds no records.
    """
    if found := launches_in(folder):
        return found
    raise ValueError(f"there are no records in {folder}: name a launch folder, results/<study>/<benchmark>")


def _has_records(folder: LaunchFolder) -> bool:
    return any(folder.records.glob("*.json"))


def trained(path: Path) -> tuple[Record, Path]:
    """A confirmed trial's record and the file of its trained tensors.

    Args:
        path: of either of the two.

    Raises:
        ValueError: it is no record, or its trained tensors were not kept.
    """
    place = LaunchFolder.holding(path)
    file = place.record(path.stem) if path.suffix == WEIGHTS else path
    if not file.is_file():
        raise ValueError(f"there is no record {file}; records are in results/<study>/<benchmark>/records/")
    record, weights = read(file), place.checkpoint(path.stem)
    if not weights.is_file():
        reason = "only confirmed trials that succeeded keep their weights"
        raise ValueError(
            f"there is no checkpoint {weights} for this record ({record.phase}, {record.status}): {reason}"
        )
    return record, weights
