"""``imagenet1k:<path>``: ImageNet-1k in its usual folders, ``train/<class>`` and ``val/<class>``."""

from __future__ import annotations

from pathlib import Path

from bench.data._files import scan, split_off
from bench.data._folders import Part, split_folders, unwrapped
from bench.data._kinds import Request, Source
from bench.spec import SpecError, printable


def check(argument: str) -> None:
    """Raise a SpecError if the folders are not there."""
    _folders(argument)


def source(request: Request) -> Source:
    """Bank: the training images; queries: one half of ``val`` each, stratified."""
    folders = _folders(request.argument or "")
    names, bank = scan(folders["train"], request)
    _, queries = scan(folders["val"], request, classes=names)
    val, test = split_off(queries, [0.5], names=names)
    return Source(bank=bank, val=val, test=test, class_names=[printable(name) for name in names])


def _folders(argument: str) -> dict[Part, Path]:
    """Those of training and validation; the challenge's test images have no labels."""
    found = split_folders(unwrapped(Path(argument))) if argument and Path(argument).is_dir() else {}
    parts: tuple[Part, Part] = ("train", "val")
    if missing := [part for part in parts if part not in found]:
        raise SpecError(
            f"imagenet1k:<path> needs the folders train and val with one folder of images per class; "
            f"{argument or 'no path'!r} has no {' and no '.join(missing)}: give --source imagenet1k:/data/imagenet"
        )
    return found
