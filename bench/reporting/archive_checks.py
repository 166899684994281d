"""What an archive holds is compared with what its records give, when it is packed and when it is unpacked."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bench.folder import LaunchFolder
from bench.records import MOST, Record
from bench.reporting import leaderboard, page
from bench.reporting.rows import Leaderboard, build
from bench.spec import read_text, shown

PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.+!_-]*")
"""A line of a file of constraints. pip would also take options there, as where to install from."""


def rendered(folder: LaunchFolder, records: Sequence[Record], place: Path) -> LaunchFolder:
    """What the records of a launch give, in a new folder: tables, pictures, and the page as it is for ``folder``."""
    made = LaunchFolder(place)
    place.mkdir()
    if folder.manifest.is_file():
        shutil.copyfile(folder.manifest, made.manifest)
    if folder.checkpoints.is_dir():
        made.checkpoints.symlink_to(folder.checkpoints.absolute())
    leaderboard.write(_board(folder, records), made, records)
    return made


def page_of(folder: LaunchFolder, records: Sequence[Record]) -> str:
    """The page of a launch as its records and its folder give it."""
    return page.of_launch(_board(folder, records), records, folder)


def _board(folder: LaunchFolder, records: Sequence[Record]) -> Leaderboard:
    return build(records, forgetting_limit=_limit(folder), ended=folder.ended is not False)


def _limit(folder: LaunchFolder) -> float | None:
    """The limit of forgetting that the tables were made with; None if they do not say."""
    try:
        return float(json.loads(folder.table_json.read_text(encoding="utf-8"))["forgetting_limit"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differing(folder: LaunchFolder, made: LaunchFolder) -> list[str]:
    """Names of the files of a launch folder that are not, byte for byte, what its records give."""
    names = [path.name for path in folder.derived]
    return [name for name in names if _content(folder.path / name) != _content(made.path / name)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def fault(path: Path) -> str:
    """What is wrong with a file that differs."""
    return f"{path} is not what the records say" if path.is_file() else f"{path} is missing"


def kept(folder: LaunchFolder, records: Sequence[Record]) -> list[Path]:
    """The files of all trained tensors that a launch should have kept.

    Raises:
        ValueError: one is not there, or is not whole.
    """
    wanted = [folder.checkpoint(record.trial) for record in records if _keeps(record)]
    missing = [path for path in wanted if not path.is_file()]
    if len(missing) == len(wanted):
        raise ValueError(f"there are no trained tensors in {folder.checkpoints}: pack without --checkpoints")
    if missing:
        few = ", ".join(path.stem for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{len(missing)} of {len(wanted)} files of trained tensors are not in {folder.checkpoints} ({few}): bring "
            f"them back, or pack without --checkpoints"
        )
    for record in records:
        if _keeps(record):
            check_tensors(folder.checkpoint(record.trial), record)
    return wanted


def _keeps(record: Record) -> bool:
    return record.phase == "confirm" and record.status == "ok"


def not_kept(folder: LaunchFolder, records: Sequence[Record]) -> list[str]:
    """Trials that were confirmed, and whose trained tensors are not there."""
    return [one.trial for one in records if _keeps(one) and not folder.checkpoint(one.trial).is_file()]


def strangers(folder: LaunchFolder, records: Sequence[Record]) -> list[str]:
    """What is wrong with files of trained tensors that are of no trial of a launch."""
    known = {folder.checkpoint(record.trial) for record in records if _keeps(record)}
    found = sorted(folder.checkpoints.iterdir()) if folder.checkpoints.is_dir() else []
    return [f"{path} is of no trial that was confirmed" for path in found if path not in known]


def check_tensors(path: Path, record: Record) -> None:
    """Refuse a file of trained tensors that is cut, or of another size than its record says.

    Raises:
        ValueError: one sentence that names the file.
    """
    size, said = path.stat().st_size, record.details.get("checkpoint_bytes")
    if said is not None and said != size:
        raise ValueError(f"{path} is damaged: it has {size:,} bytes, and its record says {said:,}")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def check_manifest(folder: LaunchFolder, records: Sequence[Record]) -> None:
    """Refuse what another launch was asked for.

    Raises:
        ValueError: the folder's ``launch.json`` is none, or is not of the launch that the records are of.
    """
    asked = folder.read_manifest().get("asked", {})
    studies, benchmark = asked.get("study", {}), asked.get("benchmark", {})
    searched = {study.get("method"): study for study in studies.values()}
    for record in records:
        said = record.config.get("benchmark", benchmark)
        own = searched.get(record.method) if searched else {}
        if (benchmark and said != benchmark) or own is None or _contradicts(own, record):
            raise ValueError(f"{folder.manifest} is not of the launch that {record.trial} is a record of")


def _contradicts(study: dict[str, Any], record: Record) -> bool:
    """Whether a study was searched otherwise than a record says."""
    if record.search is None:
        return False
    return any(
        study.get(name, said) != said for name, said in record.search.model_dump(include={"trials", "lag"}).items()
    )


def check_constraints(path: Path) -> None:
    """Refuse what is no list of versions.

    Raises:
        ValueError: a line is neither a comment nor ``name==version``.
    """
    for line in read_text(path, most=MOST).splitlines():
        if not (line.startswith("#") or PIN.fullmatch(line)):
            raise ValueError(f"{path} holds the line {shown(line)}, which names no version")


def redrawn(folder: LaunchFolder, made: LaunchFolder, names: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Put what the records give in place of the page and the pictures that are something else; says of which, and
    whether they give any.
    """
    for path in (folder.page, folder.picture, folder.curves):
        own = made.path / path.name
        if path.name in names:
            if own.is_file():
                shutil.copyfile(own, path)
            else:
                path.unlink()
            yield path.name, own.is_file()
