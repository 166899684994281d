"""An MLflow store is brought up to date from records: after an outage, or because it is another one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import cache
from bench.folder import LaunchFolder, launch_folders
from bench.records import Record
from bench.reporting.mlflow_address import default_uri, without_password
from bench.reporting.mlflow_content import LAUNCH, STATUS, source_tags
from bench.reporting.mlflow_runs import (
    Launch,
    Runs,
    attached,
    ended,
    on_the_way,
)
from bench.reporting.mlflow_tracker import Keeper
from bench.reporting.rows import build

__all__ = ["Synced", "launch_folders", "store_of", "sync"]

PATIENCE_SECONDS = 120.0
"""A store that is busy or away is waited for so long."""


@dataclass(frozen=True)
class Synced:
    """What became of a launch: its trials, and how many of their runs were made or completed."""

    folder: LaunchFolder
    trials: int
    brought: int
    changed: bool


def store_of(folder: LaunchFolder) -> str:
    """The store that a launch writes to if it is told of no other: that of its results folder."""
    place = folder.path.absolute()
    if place.parent.name == "previous":
        place = place.parent.parent
    return default_uri(place.parent.parent)


def sync(folder: LaunchFolder, uri: str) -> Synced:
    """Bring the runs of a launch, as its records tell them, to a store. What is there already is left as it is.

    Args:
        uri: of the store, checked by :func:`bench.reporting.mlflow_store.check`.

    Raises:
        ValueError: there are no records, one is none, a launch is writing to the folder, or the store takes nothing.
    """
    with folder.undisturbed():
        records = folder.read_records()
        keeper, done, brought = Keeper(), [], set[str]()
        timer = threading.Timer(PATIENCE_SECONDS, keeper.give_up)
        timer.daemon = True
        timer.start()
        try:
            arrived = keeper.keep(lambda again: done.append(_bring(folder, records, uri, brought)), uri)
        finally:
            timer.cancel()
    if not arrived:
        raise ValueError(f"{folder.path} did not arrive at {without_password(uri)} ({keeper.reason}); try again later")
    return done[-1]


def _bring(folder: LaunchFolder, records: Sequence[Record], uri: str, brought: set[str]) -> Synced:
    runs = Runs(_launch(folder, records, uri), keep=True)
    there = {str(run.info.run_name): run for run in runs.children()}
    for record in records:
        runs.note(record)
        file = folder.checkpoint(record.trial)
        checkpoint = file if file.is_file() else None
        run = there.get(record.trial)
        if run is not None and runs.is_complete(run, record, checkpoint):
            continue
        brought.add(record.trial)
        if run is not None:
            runs.end(record, runs.about(record), checkpoint, ended(record), there=run.data.metrics)
            if runs.is_complete(runs.read(run.info.run_id), record, checkpoint):
                continue
        _make(runs, record, checkpoint)  # in place of a run that says something else
    changed = _conclude(runs, folder, records)
    return Synced(folder, len(records), len(brought), changed or runs.changed or bool(brought))


def _make(runs: Runs, record: Record, checkpoint: Path | None) -> None:
    about, now = runs.about(record), ended(record)
    runs.start(record.trial, about)
    runs.log(record.trial, about, on_the_way(record, now))
    runs.end(record, about, checkpoint, now)


def _conclude(runs: Runs, folder: LaunchFolder, records: Sequence[Record]) -> bool:
    """End the parent as the launch has ended, and what nobody writes to any more; whether anything was to be done."""
    tables = all(path.is_file() for path in attached(folder))
    status = "FINISHED" if tables else "FAILED" if folder.read_manifest().get("ended") is True else "KILLED"
    said = {"FINISHED": "ok", "FAILED": "failed", "KILLED": "interrupted"}[status]
    open_before = [run for run in runs.children() if run.info.status == "RUNNING"]
    runs.interrupt(parent=status == "KILLED")
    parent = runs.read(runs.parent)
    board = build(records, ended=folder.ended is not False) if tables else None
    ended = parent.data.tags.get(STATUS) == said and parent.info.status == status
    if ended and runs.is_concluded(parent, folder, board):
        return bool(open_before)
    runs.finish(folder, board, status)
    return True


def _launch(folder: LaunchFolder, records: Sequence[Record], uri: str) -> Launch:
    """What the launch told MLflow of itself, read off its folder."""
    manifest, first = folder.read_manifest(), min(records, key=lambda one: (str(one.provenance.get("time")), one.trial))
    asked = manifest.get("asked", {})
    begun = datetime.fromtimestamp(ended(first) / 1000)
    tags = {"benchmark": first.benchmark, "study": first.study, LAUNCH: manifest.get("id") or _id_of(first)}
    return Launch(
        uri,
        experiment=first.study,
        run_name=f"{first.study} on {first.benchmark}, {begun:%Y-%m-%d %H:%M}",
        parameters={},
        tags={**tags, **source_tags(first.provenance)},
        asked={
            "benchmark": asked.get("benchmark") or first.config.get("benchmark", {}),
            "studies": _without_names(asked.get("study", {})),
        },
    )


def _without_names(studies: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {key: value for key, value in study.items() if key != "name"} for name, study in studies.items()}


def _id_of(first: Record) -> str:
    """The id of a launch that has left none: always the same for its records."""
    return cache.digest([first.study, first.benchmark, first.trial, json.dumps(first.provenance, sort_keys=True)])
