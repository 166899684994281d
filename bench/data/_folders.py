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

PARTS: dict[Part, str] = {"train": "train|trainings?", "val": "val|valid|validation|dev", "test": "test|testing"}
"""Words for splits in names of folders, in any case; one of CONTENTS may follow (``test_set``)."""

CONTENTS = "set|data|daten|images|imgs|split"

ALONE = ("",)
"""Around the word for a split stands nothing, see :func:`_named`."""

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
    """The split that a folder of this name usually holds: the name says nothing else."""
    named = _named(name)
    return named[0] if named is not None and named[1] == ALONE else None


def _named(name: str) -> tuple[Part, tuple[str, ...]] | None:
    """The split in a name, and the words around it, with nothing in its place: ``img_train2`` is train, (img, "")."""
    words = [word.lower() for word in re.split(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])", name) if word]
    for place, word in enumerate(words):
        for part, own in PARTS.items():
            if re.fullmatch(rf"({own})({CONTENTS})?", word):
                after = words[place + 1 :]
                if after and re.fullmatch(CONTENTS, after[0]):
                    del after[0]
                return part, (*words[:place], "", *after)
    return None


def split_folders(root: Path) -> dict[Part, Path]:
    """The folders of a data set's splits: those of the usual names, else those whose names differ only in the split.

    Raises:
        SpecError: two folders are the same split.
    """
    groups: dict[tuple[str, ...], dict[Part, list[Path]]] = {}
    for folder in subfolders(root):
        if (named := _named(folder.name)) is not None:
            groups.setdefault(named[1], {}).setdefault(named[0], []).append(folder)
    found = groups.pop(ALONE, None) or next(filter(_are_splits, groups.values()), {})
    return {part: _opened(_only(folders, part, root), part) for part, folders in found.items()}


def _are_splits(found: dict[Part, list[Path]]) -> bool:
    """Whether folders whose names differ in the split alone are splits: there are several, or class folders in one."""
    folders = [one for own in found.values() for one in own if holds_pictures(one)]
    return bool(folders) and (len(found) > 1 or any(len(_kinds(one)) > 1 for one in folders))


def _only(folders: list[Path], part: Part, root: Path) -> Path:
    """The one folder of a split; of several the one that holds pictures."""
    full = folders if len(folders) == 1 else [one for one in folders if holds_pictures(one)]
    if len(full) != 1:
        raise SpecError(
            f"{root} holds {' and '.join(one.name for one in folders[:2])}, which both mean the {part} split: keep one "
            f"of them there, or rename both if they are classes"
        )
    return full[0]


def _opened(folder: Path, part: Part) -> Path:
    """A split's folder, or the one in it that alone bears such a name too, as archives are often unpacked."""
    inside = subfolders(folder)
    named = _named(inside[0].name) if len(inside) == 1 else None
    return inside[0] if named is not None and named[0] == part else folder


def check_splits(root: Path, found: dict[Part, Path]) -> None:
    """Refuse folders that could be splits as well as classes.

    Raises:
        SpecError: with both readings.
    """
    if not found:
        return _check_alike(root)
    own = {part: folder.relative_to(root).parts[0] for part, folder in found.items()}
    splits = ", ".join(sorted(own.values()))
    others = [one for one in subfolders(root) if _named(one.name) is None or one.name not in own.values()]
    if others := [one for one in others if holds_pictures(one)]:
        raise SpecError(
            f"{root} holds {splits}, usual names of splits, beside {_some(others)}: if {splits} are splits, move the "
            f"other folders out of it; if all of them are classes, rename {splits}"
        )
    if "train" not in found:
        raise SpecError(
            f"{root} holds {splits}, usual names of splits, but no train folder: add train if they are splits, "
            f"rename them if they are classes"
        )
    classes = [{one.name for one in subfolders(folder)} for folder in found.values()]
    if not all(map(part_of, own.values())) and not (classes[0] and all(one == classes[0] for one in classes)):
        raise SpecError(
            f"{root} holds {splits}, named like splits, but not the same class folders in each of them: mend that, or "
            f"call them train, val and test, if they are splits; rename them if they are classes"
        )
    return None


def how_read(root: Path, found: dict[Part, Path]) -> list[str]:
    """What there is to say of splits that do not bear the usual names."""
    own = {part: folder.relative_to(root).parts[0] for part, folder in found.items()}
    if all(map(part_of, own.values())):
        return []
    return ["read as splits: " + ", ".join(f"{name} as {part}" for part, name in own.items())]


def _check_alike(root: Path) -> None:
    """Refuse folders that hold folders of the same names: splits of any name, or classes with the same kinds in each.

    Raises:
        SpecError: with both readings.
    """
    inside = {folder: _kinds(folder) for folder in subfolders(root)}
    counted = Counter(name for names in inside.values() for name in names)
    shared = {name for name, count in counted.items() if count > 1}
    if len({part for name in shared if (part := part_of(name))}) > 1:
        return  # splits inside of classes are looked for there
    wide = [names for names in inside.values() if len(names) > 1]
    alike = [
        folder
        for folder, names in inside.items()
        if len(names & shared) > 1 or (names and names <= shared and any(names <= other for other in wide))
    ]
    if alike:
        own = inside[alike[0]] & shared
        alike = [folder for folder, names in inside.items() if names & own]
        common = ", ".join(printable(name) for name in sorted(own)[:3])
        raise SpecError(
            f"{root} holds {_some(alike)}, with folders of the same names in them ({common}): if {_some(alike)} are "
            f"splits of one data set, name them train, val and test; if they are classes, move all class folders into "
            f"one folder named train, as {root}/train/{alike[0].name}"
        )


def _kinds(folder: Path) -> set[str]:
    """Names of the folders of pictures in a folder, or in the only one of them that is in it, whatever their case."""
    inside = _full(folder)
    for _ in range(WRAPPERS):
        if len(inside) != 1 or not (deeper := _full(inside[0])):
            break
        inside = deeper
    return {one.name.casefold() for one in inside}


def _full(folder: Path) -> list[Path]:
    return [one for one in subfolders(folder) if holds_pictures(one)]


def check_classes(root: Path, folders: Sequence[Path]) -> None:
    """Refuse class folders that are not what they seem.

    Raises:
        SpecError: there are none but pictures, or splits lie among or inside them.
    """
    if not folders and _loose_pictures(root):
        raise SpecError(
            f"{root} holds pictures but no class folders, so that nothing says what they show: sort them into one "
            f"folder a class, or move {root} elsewhere"
        )
    _check_copies(root, folders)
    found: dict[tuple[str, ...], dict[Part, Path]] = {}
    for folder in (below for own in folders for below in _below(own)):
        named = _named(folder.name)
        if named is None or not holds_pictures(folder):
            continue
        group = found.setdefault(named[1], {})
        group.setdefault(named[0], folder)
        if len(group) > 1:
            first, second = sorted(one.relative_to(root) for one in group.values())
            above = first.parts[0] if len(first.parts) > 1 else "<class>"
            raise SpecError(
                f"{root} holds {first} and {second}: if these are splits, they belong above the class folders, as in "
                f"train/{above}; if they are classes, or kinds of one, rename them"
            )


def _check_copies(root: Path, folders: Sequence[Path]) -> None:
    """Refuse a class folder that holds folders named like those beside it: it is a split, or a copy of all."""
    names = {folder.name.casefold() for folder in folders}
    for folder in folders:
        copied = sorted((_kinds(folder) & names) - {folder.name.casefold()})
        if len(copied) > 1 or (copied and part_of(folder.name)):
            shown = ", ".join(map(printable, copied[:3]))
            raise SpecError(
                f"{folder} holds {shown}, as {root} does: if {folder.name} is a split or a copy, move it out of "
                f"{root}; if it is a class, rename the folders in it"
            )


def _below(folder: Path) -> Iterator[Path]:
    """A folder, and all in it at any depth; no links."""
    yield folder
    for one in subfolders(folder):
        if not one.is_symlink():
            yield from _below(one)


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
