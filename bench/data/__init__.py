"""Data sets by name, each with disjoint splits: the folder is the registry.

A data set is one file that defines ``target() -> Target`` (it can be fine-tuned on), ``source() -> Source`` (its
retention can be measured), or both; they may take a :class:`Request`. Every target can be a source as well: its
training images are the bank. A name may carry an argument after a colon, as in ``folder:/data/birds``. What is built
stays in the process, so that the trials of a warm worker share it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.data._folders import Listing, but, describe, is_hidden, listing
from bench.data._kinds import Images, InFiles, InMemory, Policy, Request, Role, Source, Split, Target
from bench.data._loading import ahead, processes_for
from bench.data._pictures import SUFFIXES, decode, whole_picture
from bench.spec import Size, SpecError, printable, unknown

__all__ = [
    "SUFFIXES",
    "Images",
    "InFiles",
    "InMemory",
    "Listing",
    "Policy",
    "Request",
    "Role",
    "Source",
    "Split",
    "Target",
    "ahead",
    "at_hand",
    "but",
    "check",
    "counts",
    "decode",
    "decode_kept",
    "describe",
    "fetch",
    "identical",
    "is_hidden",
    "left_out",
    "listing",
    "names",
    "num_classes",
    "processes_for",
    "remarks",
    "skipped",
    "source",
    "target",
    "whole_picture",
]

TRAIN_SHARE = 0.8
"""So much of a limited budget of images is trained on; the rest is validation (VTAB-1k, Zhai et al. 2019: 800 and
200)."""

SHARED_BYTES = 32 * 2**20
"""A split whose images take more than this is held once for all processes of a machine."""


def names() -> list[str]:
    """Names of all data sets."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return sorted([*files, *_torchvision_sets()])


def num_classes(name: str, *, bad_images: Policy = "error") -> int:
    """Classes of a target; for torchvision's data sets known without their files."""
    known = _torchvision_sets().get(name)
    return known.classes if known else target(name, bad_images=bad_images).num_classes


def fetch(name: str) -> None:
    """Download a data set if it is one of those that can be; SpecError if it cannot be had."""
    known = _torchvision_sets().get(name)
    if known is not None:
        known.fetch()


def at_hand(name: str) -> bool:
    """Whether a data set can be read without a download."""
    known = _torchvision_sets().get(name)
    return known is None or known.at_hand()


def _torchvision_sets() -> Any:
    from bench.data._torchvision import SETS

    return SETS


def check(name: str, role: Role) -> None:
    """Refuse a data set that does not exist, cannot play that role, or whose files are not there.

    Raises:
        SpecError: one sentence that says so.
    """
    kind, _, argument = name.partition(":")
    if kind not in names():
        raise unknown(f"{role} data set", kind, names())
    _builder(kind, role)
    reachable = getattr(_module(kind), "check", None)
    if reachable is not None:
        reachable(argument)
    elif argument:
        raise SpecError(f"data set {kind!r} takes no path, and {argument!r} was given")


def _module(kind: str) -> Any:
    """What offers ``source`` and ``target``: a file of this folder, or an entry of torchvision's."""
    known = _torchvision_sets().get(kind)
    if known is not None:
        return known
    return importlib.import_module(f"{__name__}.{kind}")


def _builder(kind: str, role: Role) -> Any:
    """The function that builds a data set for a role; for a source it may be that of a target."""
    module = _module(kind)
    roles = ("target",) if role == "target" else ("source", "target")
    build = next((getattr(module, name) for name in roles if hasattr(module, name)), None)
    if build is None:
        able = [name for name in names() if hasattr(_module(name), role)]
        raise SpecError(f"data set {kind!r} cannot be a {role} (these can: {', '.join(able)})")
    return build


@functools.cache
def _build(name: str, role: Role, size: Size | int, bad_images: Policy, keep_decoded: bool) -> Any:
    check(name, role)
    kind, _, argument = name.partition(":")
    build = _builder(kind, role)
    if inspect.signature(build).parameters:
        size = size if isinstance(size, Size) else Size(size)
        return build(Request(argument or None, size, bad_images, keep_decoded))
    return build()


@functools.cache
def source(
    name: str,
    *,
    size: Size | int = 224,
    per_class: int | None = None,
    queries: int | None = None,
    bad_images: Policy = "error",
    keep_decoded: bool = False,
) -> Source:
    """A source domain, built once a process.

    Args:
        name: of the data set.
        size: what the backbone wants; a number of pixels stands for the usual crop.
        per_class: images of each class in the bank, chosen by a seed; all if None.
        queries: images of each class in either set of queries, likewise.
        bad_images: what an image file that cannot be read does.
        keep_decoded: whether pictures are kept decoded on disk.

    Raises:
        SpecError: it cannot be built.
    """
    built = _build(name, "source", size, bad_images, keep_decoded)
    is_target = isinstance(built, Target)
    domain: Source = Source(built.train, built.val, built.test, built.class_names) if is_target else built
    return replace(
        domain,
        bank=_thinned(domain.bank, per_class),
        val=_thinned(domain.val, queries),
        test=_thinned(domain.test, queries),
    )


def skipped(*splits: Split) -> list[str]:
    """What was left out of some splits because it cannot be read: one sentence an image."""
    return list(dict.fromkeys(reason for split in splits for reason in getattr(split, "skipped", ())))


def left_out(*splits: Split) -> Counter[str]:
    """How many files of some splits' folders do not count, by reason: hidden, by their suffix, unreadable, ..."""
    by_folder = {folder: why for split in splits for folder, why in getattr(split, "left_out", {}).items()}
    unreadable = len(skipped(*splits))
    return sum(by_folder.values(), Counter(unreadable=unreadable) if unreadable else Counter())


def identical(*splits: Split) -> list[tuple[Path, Path]] | None:
    """Files with the content of a file in an earlier one of some splits, each with that file.

    None where there are so many files that it would take long to find out; images in memory are no files.
    """
    from bench.data._files import FileImages, identical

    return identical(*(split for split in splits if isinstance(split, FileImages)))


def counts(split: Split, classes: int = 0) -> list[int]:
    """Images of every class, from class 0 on; of at least so many classes."""
    return [int(count) for count in split.labels.bincount(minlength=classes)]


def remarks(*splits: Split) -> list[str]:
    """What there is to say of some splits' files: how they were read, which do not count, which are in two splits."""
    said = list(dict.fromkeys(sentence for split in splits for sentence in getattr(split, "said", ())))
    if why := left_out(*splits):
        said.append(f"left out: {describe(why)}")
    pairs = identical(*splits)
    if pairs is None:
        return [*said, "there are too many files to look for identical ones in two splits"]
    if pairs:
        first, second = pairs[0]
        said.append(f"{len(pairs)} files have the content of one in another split, such as {second} and {first}")
    return [printable(sentence) for sentence in said]


def decode_kept(*splits: Split) -> None:
    """Decode now the pictures that are to be kept decoded on disk, instead of when they are first asked for.

    Raises:
        SpecError: there is too little room on the disk.
    """
    from bench.data._files import FileImages

    for split in splits:
        if isinstance(split, FileImages):
            split.decode_kept()


def _thinned(images: Split, per_class: int | None) -> Split:
    from bench.data._splits import balanced

    return images if per_class is None else images.select(balanced(images.labels.numpy(), per_class))


@functools.cache
def target(
    name: str,
    *,
    size: Size | int = 224,
    samples: int | None = None,
    bad_images: Policy = "error",
    keep_decoded: bool = False,
) -> Target:
    """A target data set, built once a process.

    Args:
        name: of the data set.
        size: what the backbone wants; a number of pixels stands for the usual crop.
        samples: images to learn from, four fifths of them in ``train`` and one in ``val``; all if None. Test images
            are all kept.
        bad_images: what an image file that cannot be read does.
        keep_decoded: whether pictures are kept decoded on disk.

    Raises:
        SpecError: it cannot be built.
    """
    whole: Target = _build(name, "target", size, bad_images, keep_decoded)
    if samples is None:
        return replace(whole, train=_shared(whole.train), val=_shared(whole.val), test=_shared(whole.test))
    training = round(samples * TRAIN_SHARE)
    train, val = (
        _budgeted(getattr(whole, part), count, name, part, samples)
        for part, count in (("train", training), ("val", samples - training))
    )
    if missing := whole.num_classes - len(set(train.labels.tolist())):
        raise SpecError(
            f"target.samples = {samples} leaves {missing} of {name}'s {whole.num_classes} classes without a training "
            f"image: ask for more"
        )
    return replace(whole, train=train, val=val)


def _shared(images: Split) -> Split:
    """Images in memory, if they are many, from memory that all processes of the machine share."""
    if not isinstance(images, Images) or images.images.nbytes < SHARED_BYTES:
        return images
    from bench.cache import shared

    return Images(shared(images.images, images.fingerprint()), images.labels)


def _budgeted(images: Split, count: int, name: str, part: str, samples: int) -> Split:
    from bench.data._splits import stratified

    if count > len(images):
        raise SpecError(
            f"target.samples = {samples} needs {count} {part} images, and {name} has {len(images)}: ask for fewer"
        )
    return images.select(stratified(images.labels.numpy(), [count])[0])
