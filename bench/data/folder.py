"""``folder:<path>``: one folder of images per class, or ``train``, ``val`` and ``test`` folders of that kind."""

from __future__ import annotations

from pathlib import Path

from bench.data._files import FileImages, scan, split_off
from bench.data._kinds import Request, Target
from bench.spec import SpecError

SHARE = 0.15
"""Validation and test each get so much of the images where there are no folders for them."""


def check(argument: str) -> None:
    """Raise a SpecError if there is no such folder, or none of classes in it."""
    if not argument:
        raise SpecError("say which folder, as in folder:/data/birds")
    if not Path(argument).is_dir():
        raise SpecError(f"there is no folder {argument}")


def target(request: Request) -> Target:
    """Its splits: the folders ``train``, ``val`` and ``test``; a missing one is split off ``train``, stratified."""
    check(request.argument or "")
    root = Path(request.argument or "")
    train = root / "train" if (root / "train").is_dir() else root
    names, images = scan(train, request)
    parts: dict[str, FileImages] = {}
    for part in ("val", "test"):
        if train != root and (root / part).is_dir():
            parts[part] = scan(root / part, request, classes=names)[1]
    missing = [part for part in ("val", "test") if part not in parts]
    rest, *split = split_off(images, [SHARE] * len(missing), names=names)
    parts |= dict(zip(missing, split, strict=True))
    return Target(rest, parts["val"], parts["test"], len(names), class_names=names)
