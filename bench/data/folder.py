"""``folder:<path>``: one folder of images per class, or ``train``, ``val`` and ``test`` folders of that kind."""

from __future__ import annotations

from pathlib import Path

from bench.data._files import FileImages, scan, split_off
from bench.data._folders import Part, beside, check_splits, how_read, split_folders, unwrapped
from bench.data._kinds import Request, Target
from bench.spec import SpecError, printable

SHARE = 0.15
"""Validation and test each get so much of the images where there are no folders for them."""


def check(argument: str) -> None:
    """Raise a SpecError if there is no such folder."""
    if not argument:
        raise SpecError("say which folder, as in folder:/data/birds")
    if not Path(argument).is_dir():
        raise SpecError(f"there is no folder {argument}")


def target(request: Request) -> Target:
    """Its splits: folders of the usual names (``train``, ``Training``, ``valid``, ``test``, ...), or of names that
    differ in these words alone (``img_train``, ``img_test``).

    A missing one is split off ``train``, stratified. Folders that hold nothing but one folder are opened.

    Raises:
        SpecError: the folders could be classes as well as splits, or see :func:`bench.data._files.scan`.
    """
    check(request.argument or "")
    root = unwrapped(Path(request.argument or ""))
    folders = split_folders(root)
    check_splits(root, folders)
    names, images = scan(folders.get("train", root), request)
    if folders:
        images.left_out[printable(root)] = beside(root)
        images.said.extend(how_read(root, folders))
    held_out: tuple[Part, Part] = ("val", "test")
    parts: dict[Part, FileImages] = {
        part: scan(folders[part], request, classes=names)[1] for part in held_out if part in folders
    }
    missing = [part for part in held_out if part not in parts]
    rest, *split = split_off(images, [SHARE] * len(missing), names=names)
    parts |= dict(zip(missing, split, strict=True))
    shown = [printable(name) for name in names]
    return Target(rest, parts["val"], parts["test"], len(names), class_names=shown)
