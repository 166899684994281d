"""``imagenet1k:<path>``: ImageNet-1k in its usual folders, ``train/<class>`` and ``val/<class>``."""

from __future__ import annotations

from pathlib import Path

from bench.data import Request, Source
from bench.data._files import FileImages, balanced, scan, split_off
from bench.spec import SpecError

SEED = 0


def check(argument: str) -> None:
    """Raise a SpecError if the folders are not there."""
    missing = [part for part in ("train", "val") if not Path(argument, part).is_dir()]
    if not argument or missing:
        raise SpecError(
            f"imagenet1k:<path> needs the folders train and val with one folder of images per class; "
            f"{argument or 'no path'!r} has no {' and no '.join(missing)}"
        )


def source(request: Request) -> Source:
    """Bank: the training images, ``per_class`` of each class; queries: one half of ``val`` each, stratified."""
    root = Path(request.argument or "")
    names, paths, labels = scan(root / "train")
    bank_paths, bank_labels = balanced(paths, labels, request.per_class, seed=SEED)
    _, val_paths, val_labels = scan(root / "val", names)
    first, second = split_off(val_paths, val_labels, [0.5], seed=SEED)
    return Source(
        bank=FileImages(bank_paths, bank_labels, size=request.size),
        val=FileImages(*first, size=request.size),
        test=FileImages(*second, size=request.size),
    )
