"""Folders of pictures: what in them counts, what is left out and why, and which of them are splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data._pictures import SUFFIXES
from bench.spec import SpecError, printable

Part = Literal["train", "val", "test"]

PARTS: dict[Part, str] = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
"""Usual names of split folders, in any case; ``set``, ``data``, ``images`` or ``split`` may follow (``test_set``)."""

JUNK = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found")
"""Systems leave these behind: they are hidden, as everything that begins with a dot is."""

WRAPPERS = 8
"""At most so many folders that hold nothing but one folder are opened to find the data."""


@dataclass(frozen=True)
class Listing:
    """Pictures below a folder, sorted, and how many files were left out for which reason."""

    pictures: list[Path]
    left_out: Counter[str]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name never counts."""
    return name.startswith(".") or name.lower() in JUNK


def listing(folder: Path) -> Listing:
    """All pictures below a folder; links to folders are not followed, so that no loop can trap it.

    Raises:
        SpecError: a folder cannot be read.
    """
    found = list(_walk(folder))
    return Listing(sorted(path for path, reason in found if not reason), Counter(why for _, why in found if why))


def beside(folder: Path) -> Counter[str]:
    """How many files lie in a folder itself, beside its folders of pictures, where they do not count."""
    reasons: Counter[str] = Counter()
    for entry in _entries(folder):
        if is_hidden(entry.name) or not entry.is_dir():
            reasons.update(reason or "beside the class folders" for _, reason in _judged(entry))
    return reasons


def subfolders(folder: Path) -> list[Path]:
    """Folders that may hold pictures, sorted; a link that leads back to where it lies is none."""
    own = folder.resolve()
    found = [Path(entry) for entry in _entries(folder) if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(one for one in found if not (one.is_symlink() and own.is_relative_to(one.resolve())))


def unwrapped(root: Path) -> Path:
    """The folder itself, or the one inside it that holds the data where there is nothing beside it."""
    for _ in range(WRAPPERS):
        inside = subfolders(root)
        if len(inside) != 1 or part_of(inside[0].name) or _loose_pictures(root):
            break
        if _loose_pictures(inside[0]) or not subfolders(inside[0]):
            break  # a class
        root = inside[0]
    return root


def part_of(name: str) -> Part | None:
    """The split that a folder of this name usually holds."""
    for part, names in PARTS.items():
        if re.fullmatch(rf"({names})([ _.-]*(set|data|images|split))?", name.strip().lower()):
            return part
    return None


def split_folders(root: Path) -> dict[Part, Path]:
    """The folders of a data set's splits by their usual names.

    Raises:
        SpecError: two folders are the same split.
    """
    found: dict[Part, Path] = {}
    for folder in subfolders(root):
        part = part_of(folder.name)
        if part is None:
            continue
        if part in found:
            raise SpecError(
                f"{root} holds {found[part].name} and {folder.name}, which both mean the {part} split: keep one of "
                f"them there, or rename both if they are classes"
            )
        found[part] = folder
    return {part: _opened(folder, part) for part, folder in found.items()}


def _opened(folder: Path, part: Part) -> Path:
    """A split's folder, or the one in it that alone bears the same name, as archives are often unpacked."""
    inside = subfolders(folder)
    return inside[0] if len(inside) == 1 and part_of(inside[0].name) == part else folder


def check_splits(root: Path, found: dict[Part, Path]) -> None:
    """Refuse folders that could be splits as well as classes.

    Raises:
        SpecError: with both readings.
    """
    splits = ", ".join(folder.name for folder in found.values())
    others = [one for one in subfolders(root) if part_of(one.name) is None and holds_pictures(one)]
    if found and others:
        raise SpecError(
            f"{root} holds {splits}, usual names of splits, beside {_some(others)}: if {splits} are splits, move the "
            f"other folders out of it; if all of them are classes, rename {splits}"
        )
    if found and "train" not in found:
        raise SpecError(
            f"{root} holds {splits}, usual names of splits, but no train folder: add train if they are splits, "
            f"rename them if they are classes"
        )


def check_classes(root: Path, folders: Sequence[Path]) -> None:
    """Refuse class folders that are not what they seem.

    Raises:
        SpecError: there are none but pictures, or splits lie inside them.
    """
    if not folders and _loose_pictures(root):
        raise SpecError(
            f"{root} holds pictures but no class folders, so that nothing says what they show: sort them into one "
            f"folder a class, or move {root} elsewhere"
        )
    for folder in folders:
        if len(inside := split_folders(folder)) > 1:
            names = " and ".join(one.name for one in inside.values())
            raise SpecError(
                f"{folder} holds {names}: if these are splits, they belong above the class folders, as in "
                f"train/{folder.name}; if they are kinds of {folder.name}, rename them"
            )


def describe(left_out: Counter[str]) -> str:
    """Reasons with how many files they concern, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())


def but(left_out: Counter[str]) -> str:
    """The same behind a sentence; nothing where nothing was left out."""
    return f" (left out: {describe(left_out)})" if left_out else ""


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture at any depth."""
    return any(not reason for _, reason in _walk(folder))


def _loose_pictures(folder: Path) -> bool:
    return any(not reason for entry in _entries(folder) if not entry.is_dir() for _, reason in _judged(entry))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, and why it is left out; the reason is empty for a picture."""
    for entry in _entries(folder):
        yield from _judged(entry)


def _judged(entry: os.DirEntry[str]) -> Iterator[tuple[Path, str]]:
    path, suffix = Path(entry), Path(entry.name).suffix.lower()
    if is_hidden(entry.name):
        below = [Path(place, name) for place, _, names in os.walk(path) for name in names]
        yield from ((one, "hidden") for one in (below if entry.is_dir(follow_symlinks=False) else [path]))
    elif entry.is_dir():
        yield from [(path, "link to a folder")] if entry.is_symlink() else _walk(path)
    elif suffix not in SUFFIXES:
        yield path, f"suffix {printable(suffix)}" if suffix else "no suffix"
    elif entry.is_file() or entry.is_symlink():  # a link to nothing is named when it is read
        yield path, ""
    else:
        yield path, "no regular file"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SpecError(f"the folder {folder} cannot be read: {error.strerror}") from None


def _some(folders: Sequence[Path]) -> str:
    return ", ".join(folder.name for folder in folders[:3]) + (", ..." if len(folders) > 3 else "")
