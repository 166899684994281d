"""``folder:<path>``: one folder of images per class, or ``train``, ``val`` and ``test`` folders of that kind."""

from __future__ import annotations

from pathlib import Path

from bench.data import Request, Source, Target
from bench.data._files import FileImages, as_target, balanced, scan, split_off
from bench.spec import SpecError

SHARE = 0.15
"""Part of the images that validation, and that test, get where there are no folders for them."""

SEED = 0


def check(argument: str) -> None:
    """Raise a SpecError if there is no such folder."""
    if not argument:
        raise SpecError("say which folder, as in folder:/data/birds")
    if not Path(argument).is_dir():
        raise SpecError(f"there is no folder {argument}")


def target(request: Request) -> Target:
    """Its splits: the folders ``train``, ``val`` and ``test``; a missing one is split off ``train``, stratified."""
    root = _root(request)
    train = root / "train" if (root / "train").is_dir() else root
    names, paths, labels = scan(train)
    given = {part: root / part for part in ("val", "test") if train != root and (root / part).is_dir()}
    missing = [part for part in ("val", "test") if part not in given]
    rest, *split = split_off(paths, labels, [SHARE] * len(missing), seed=SEED)
    parts = dict(zip(missing, split, strict=True))
    for part, folder in given.items():
        _, own_paths, own_labels = scan(folder, names)
        parts[part] = (own_paths, own_labels)
    return as_target([rest, parts["val"], parts["test"]], classes=len(names), size=request.size)


def source(request: Request) -> Source:
    """Bank: training images; queries: validation images for the search, test images for the confirmation."""
    own = target(request)
    assert isinstance(own.train, FileImages)
    paths, labels = balanced(own.train.paths, own.train.labels.tolist(), request.per_class, seed=SEED)
    return Source(bank=FileImages(paths, labels, size=request.size), val=own.val, test=own.test)


def _root(request: Request) -> Path:
    check(request.argument or "")
    return Path(request.argument or "")
