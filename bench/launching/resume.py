"""Going on where a launch stopped: what it was asked for stands in its folder, and its records are the truth."""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import cache
from bench.folder import LaunchFolder
from bench.launching.launch import Launch
from bench.records import Record, read, write_atomically
from bench.resources import Plan

PACKAGE = Path(__file__).parent.parent
NO_NUMBERS = ("reporting", "__main__.py")
"""A change of these parts of the code changes no record."""

CHANGED = {
    "code": "the code has changed",
    "weights": "the file of weights has changed",
    "files.source": "files of the source have changed",
    "files.target": "files of the target have changed",
}
"""How to say that something is different whose values nobody reads."""

COMPUTING = ("torch", "torchvision", "timm", "peft", "optuna", "numpy", "scikit-learn", "pillow")
"""A change of the version of these packages may change a number."""


@dataclass(frozen=True)
class Begun:
    """A launch that may begin: its id in MLflow, what it was asked for, and records of an earlier try, by trial."""

    id: str
    asked: Mapping[str, Any]
    known: Mapping[str, Record] = field(default_factory=dict)
    said: str = ""
    """One sentence on what was found in the folder, if there is something to say."""


def begin(launch: Launch, plan: Plan) -> Begun:
    """Make the launch's folder ready, and find out whether an unfinished launch in it can be gone on with.

    It can if it was asked for the same and computes the same; otherwise, or if a fresh start was asked for, everything
    of it is moved to ``previous/``, as is a finished launch.

    Args:
        plan: of the pool that it runs on.
    """
    folder, asked = launch.folder, _asked(launch, plan)
    earlier = _earlier(folder)
    difference = earlier and _difference(earlier["asked"], asked)
    if earlier is None or earlier["ended"] or difference or launch.options.fresh:
        place, said = folder.put_aside(), ""
        if place is not None and earlier is not None and not earlier["ended"]:
            said = f"starting anew: {difference or '--fresh'}; the unfinished launch was moved to {place}"
        begun = Begun(uuid.uuid4().hex, asked, said=said)
    else:
        known = _known(folder)
        begun = Begun(earlier["id"], asked, known, f"continuing: {len(known)} of {launch.trials} trials are there")
    _write(folder, begun, ended=False)
    return begun


def end(launch: Launch, begun: Begun) -> None:
    """Note that a launch is over: the same command starts anew."""
    _write(launch.folder, begun, ended=True)


def unfinished(folder: LaunchFolder) -> str | None:
    """The id of the launch in a folder that has not ended; None if there is none."""
    earlier = _earlier(folder)
    return None if earlier is None or earlier["ended"] else str(earlier["id"])


def _write(folder: LaunchFolder, begun: Begun, *, ended: bool) -> None:
    values = {"id": begun.id, "ended": ended, "asked": begun.asked}
    write_atomically(folder.manifest, json.dumps(values, indent=2) + "\n")


def _earlier(folder: LaunchFolder) -> dict[str, Any] | None:
    """What an earlier launch left in the folder; None if it left no legible word of itself."""
    try:
        values = json.loads(folder.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    legible = isinstance(values, dict) and isinstance(values.get("asked"), dict) and {"id", "ended"} <= set(values)
    return values if legible else None


def _asked(launch: Launch, plan: Plan) -> dict[str, Any]:
    """Everything that the launch's records depend on."""
    studies = {study.name: study.model_dump(mode="json", exclude={"trial_minutes"}) for study in launch.suite.studies}
    benchmark = launch.benchmark
    files = {"source": _listed(benchmark.source.name), "target": _listed(benchmark.target.name)}
    values = {
        "study": studies,
        "benchmark": benchmark.model_dump(mode="json"),
        "files": {name: found for name, found in files.items() if found},
        "weights": _stamp(Path(benchmark.backbone.weights)) if benchmark.backbone.weights else None,
        "device": "cuda" if plan.gpu else "cpu",
        "workers": plan.workers,
        "versions": {name: metadata.version(name) for name in COMPUTING},
        "code": _code(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


@functools.cache
def _code() -> str:
    """A digest of the code that records depend on."""
    every = (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.safetensors"))
    files = sorted(path for path in every if path.relative_to(PACKAGE).parts[0] not in NO_NUMBERS)
    return cache.digest(part for path in files for part in (str(path.relative_to(PACKAGE)), path.read_bytes()))


def _listed(name: str) -> str | None:
    """A digest of the names, sizes and times of the files of a data set that lies in a folder."""
    _, colon, folder = name.partition(":")
    if not colon:
        return None
    paths = sorted(Path(place, file) for place, _, files in os.walk(folder) for file in files)
    return cache.digest(part for path in paths for part in (os.fsencode(path), str(_stamp(path))))


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a file; None if there is none."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None


def _difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first field in which two nested values differ, in words."""
    if before == now:
        return None
    if name in CHANGED:
        return CHANGED[name]
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if found := _difference(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")):
                return found
    return f"{name} was {before!r} and is {now!r}"


def _known(folder: LaunchFolder) -> dict[str, Record]:
    """Records of trials that need not be run again, by name.

    A trial that was measured and whose tensors are to be kept counts if they are there. One that failed counts if that
    was its own doing, as a loss that became NaN: another try would end the same.
    """
    known = {}
    for path in sorted(folder.records.glob("*.json")):
        try:
            record = read(path)
        except ValueError:
            continue  # it is written again
        complete = record.phase == "search" or record.status != "ok" or folder.checkpoint(record.trial).is_file()
        if path.stem == record.trial and complete and not record.is_tried_again:
            known[record.trial] = record
    return known
