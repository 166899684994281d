"""``imagenet1k:<path>``: ImageNet-1k in its usual folders, ``train/<class>`` and ``val/<class>``."""

from __future__ import annotations

from pathlib import Path

from bench.data._files import scan, split_off
from bench.data._kinds import Request, Source
from bench.spec import SpecError


def check(argument: str) -> None:
    """Raise a SpecError if the folders are not there."""
    missing = [part for part in ("train", "val") if not argument or not Path(argument, part).is_dir()]
    if missing:
        raise SpecError(
            f"imagenet1k:<path> needs the folders train and val with one folder of images per class; "
            f"{argument or 'no path'!r} has no {' and no '.join(missing)}: give --source imagenet1k:/data/imagenet"
        )


def source(request: Request) -> Source:
    """Bank: the training images; queries: one half of ``val`` each, stratified."""
    root = Path(request.argument or "")
    names, bank = scan(root / "train", request)
    _, queries = scan(root / "val", request, classes=names)
    val, test = split_off(queries, [0.5], names=names)
    return Source(bank=bank, val=val, test=test)
