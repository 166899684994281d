"""Images that stay in files and are decoded when they are taken."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench import cache
from bench.data._decoded import Decoded, decoded
from bench.data._folders import Listing, beside, but, check_classes, listing, subfolders
from bench.data._kinds import Policy, Request
from bench.data._pictures import VERSION, centre, header, read, to_tensor
from bench.data._splits import stratified
from bench.spec import Size, SpecError, printable

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

Job = TypeVar("Job")
Done = TypeVar("Done")

CACHE_BYTES = 2 * 2**30
"""A split is kept in memory, once decoded, if it fits into this."""

VERIFIED = 20_000
"""Folders with at most so many images are read through before anything starts; larger ones only if bad images are to be
skipped."""


class FileImages:
    """Labelled image files: what :class:`bench.data.Images` is for images in memory.

    Every image is decoded to RGB, its shorter side resized and its centre cropped, see :class:`Size`. ``left_out`` says
    how many files of which folder do not count, by reason, and ``said`` what else is to be known of the folders.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        *,
        size: Size,
        skipped: Sequence[str] = (),
        left_out: Mapping[str, Counter[str]] | None = None,
        keep_decoded: bool = False,
    ) -> None:
        """Refer to files, without opening them.

        Args:
            skipped: what was left out because it cannot be read: one sentence an image.
            left_out: what was left out beside that: how many files for which reason, by folder.
            keep_decoded: decode all of them on first use, into a file that stays.
        """
        import torch

        if not paths:
            raise SpecError("a split holds no images")
        self.paths, self.size, self.skipped = list(paths), size, list(skipped)
        self.left_out = dict(left_out or {})
        self.said: list[str] = []
        self._keep_decoded = keep_decoded
        self.labels: Tensor = torch.tensor(labels, dtype=torch.int64)
        self._kept: dict[int, Tensor] = {}
        self._sizes: dict[int, tuple[int, int]] = {}
        self.kept = len(paths) * 3 * size.pixels**2 <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> Tensor:
        """uint8 ``[len(indices), 3, size.pixels, size.pixels]``."""
        import torch

        return torch.stack(self._each(self._one, indices.tolist()))

    def sizes(self, indices: Tensor) -> Tensor:
        """Height and width of the pictures, int64 ``[len(indices), 2]``; only their headers are read, and once."""
        import torch

        return torch.tensor(self._each(self._size, indices.tolist()))

    def take_crops(self, indices: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
        """Crops of the whole pictures, stretched to the size (bilinear, as torchvision's RandomResizedCrop does it).

        Args:
            boxes: ``[b, 4]``: left, top, width, height, as shares of the picture.
            mirrored: bool ``[b]``.

        Returns:
            uint8 ``[b, 3, size.pixels, size.pixels]``.
        """
        import torch

        jobs = zip(indices.tolist(), boxes.tolist(), mirrored.tolist(), strict=True)
        return torch.stack(self._each(self._crop, list(jobs)))

    def select(self, indices: NDArray[np.int64]) -> FileImages:
        """Some of the images as a split of their own."""
        labels = self.labels.numpy()[indices].tolist()
        chosen = FileImages(
            [self.paths[i] for i in indices],
            labels,
            size=self.size,
            skipped=self.skipped,
            left_out=self.left_out,
            keep_decoded=self._keep_decoded,
        )
        chosen.said = self.said
        return chosen

    def decode_kept(self) -> None:
        """Decode all pictures now, if they are to be kept decoded.

        Raises:
            SpecError: there is too little room on the disk.
        """
        if self._keep_decoded:
            self._decoded  # noqa: B018 - made when first read

    def fingerprint(self) -> str:
        """See :meth:`bench.data.Split.fingerprint`; of the files as :func:`_fingerprints` knows them."""
        return cache.digest([str(self.size), *_fingerprints(self.paths), self.labels.numpy().tobytes()])

    @cached_property
    def _identity(self) -> str:
        files = (f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in self.paths)
        return cache.digest([*files, self.labels.numpy().tobytes()])

    def identity(self) -> str:
        """See :meth:`bench.data.Split.identity`; of the files' names, their folders' and their sizes."""
        return self._identity

    def _one(self, index: int) -> Tensor:
        image = self._kept.get(index)
        if image is None:
            image = centre(self._picture(index), self.size)
            if self.kept:
                self._kept[index] = image
        return image

    def _size(self, index: int) -> tuple[int, int]:
        if self._keep_decoded:
            height, width = self._decoded.sizes[index].tolist()
            return height, width
        size = self._sizes.get(index)
        if size is None:
            size = self._sizes[index] = header(self.paths[index])
        return size

    def _picture(self, index: int) -> PIL.Image.Image:
        return self._decoded[index] if self._keep_decoded else read(self.paths[index])

    @cached_property
    def _decoded(self) -> Decoded:
        return decoded(self.paths, cache.digest(_fingerprints(self.paths)))

    def _crop(self, job: tuple[int, list[float], bool]) -> Tensor:
        from PIL import Image

        index, (left, top, width, height), mirrored = job
        picture, pixels = self._picture(index), self.size.pixels
        x, y = (round(share * side) for share, side in zip((left, top), picture.size, strict=True))
        w, h = (max(1, round(share * side)) for share, side in zip((width, height), picture.size, strict=True))
        picture = picture.crop((x, y, min(x + w, picture.width), min(y + h, picture.height)))
        picture = picture.resize((pixels, pixels), Image.Resampling.BILINEAR)
        return to_tensor(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture)

    def _each(self, function: Callable[[Job], Done], jobs: Sequence[Job]) -> list[Done]:
        """By threads; one after another in a loader process, which has inherited no threads and is not alone."""
        from torch.utils.data import get_worker_info

        if get_worker_info() is not None:
            return [function(job) for job in jobs]
        return list(self._pool.map(function, jobs))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))


def scan(folder: Path, request: Request, *, classes: Sequence[str] | None = None) -> tuple[list[str], FileImages]:
    """Images of a folder of class folders, sorted.

    Args:
        classes: names that are known from another split; others are an error.

    Returns:
        Class names and images.

    Raises:
        SpecError: there are no classes, a class has no images, a class is not known, splits lie inside the classes, or
            an image cannot be read.
    """
    if not folder.is_dir():
        raise SpecError(f"there is no folder {folder}")
    folders = subfolders(folder)
    check_classes(folder, folders)
    present = [one.name for one in folders]
    names = list(classes) if classes is not None else present
    if surplus := sorted(set(present) - set(names)):
        raise SpecError(f"{folder} holds the class {quoted(surplus[0])}, which the training images do not have")
    if len(names) < 2:
        raise SpecError(f"{folder} must hold a folder of images for each of at least two classes, not {len(names)}")
    own = [listing(folder / name) if name in present else Listing([], Counter()) for name in names]
    left_out = sum((found.left_out for found in own), beside(folder))
    if empty := [name for name, found in zip(names, own, strict=True) if not found.pictures]:
        raise SpecError(f"class {quoted(empty[0])} has no images in {folder}{but(left_out)}")
    labels = [label for label, found in enumerate(own) for _ in found.pictures]
    images = readable([path for found in own for path in found.pictures], labels, request)
    images.left_out[printable(folder)] = left_out
    if gone := sorted(set(labels) - set(images.labels.tolist())):
        raise SpecError(f"class {quoted(names[gone[0]])} has no image that can be read in {folder}")
    return names, images


def quoted(name: str) -> str:
    """A class's name in a message."""
    return f"'{printable(name)}'"


def readable(paths: Sequence[Path], labels: Sequence[int], request: Request) -> FileImages:
    """Image files, without those that cannot be read if they are to be skipped.

    Raises:
        SpecError: an image cannot be read and is not to be skipped.
    """
    bad = _unreadable(paths, request.bad_images)
    if bad and request.bad_images == "error":
        others = f" ({len(bad)} of {len(paths)} images are like that)" if len(bad) > 1 else ""
        advice = "mend or remove it, or skip such images with --bad-images skip"
        raise SpecError(f"{next(iter(bad.values()))}; {advice}{others}")
    good = [index for index in range(len(paths)) if index not in bad]
    chosen = [paths[index] for index in good], [labels[index] for index in good]
    return FileImages(*chosen, size=request.size, skipped=list(bad.values()), keep_decoded=request.keep_decoded)


def _unreadable(paths: Sequence[Path], policy: Policy) -> dict[int, str]:
    """Images that cannot be read: index to reason. Read through once, and again only when a file has changed."""
    if policy == "error" and len(paths) > VERIFIED:
        return {}  # each of them raises when it is taken
    bad = cache.remember("verified", cache.digest(_fingerprints(paths)), lambda: _read_through(paths))
    return {int(index): reason for index, reason in bad.items()}


SAMPLE = 4096
"""Of a file's head, middle and tail so many bytes each are part of its fingerprint: all of a file up to three times
that."""

TICK = 0.02
"""Seconds in which a file can change twice and bear one time: a kernel's clock ticks 100 to 1,000 times a second."""


def _fingerprints(paths: Sequence[Path]) -> Iterator[str | bytes]:
    """What is another one when a file's pixels are: place, size, times, inode, and a sample of its bytes.

    The time of a file's last change of any kind (``st_ctime``) cannot be set: what sets the others, as archives,
    ``cp -p`` and ``touch -r`` do, moves it. The sample is for filesystems without it (FAT, some network shares). Of
    more than VERIFIED files none is opened. A thousand files of 55 KB take 40 ms of a core when a process first meets
    them, up to 130 ms if the system has not read them yet, and 6 ms from then on; without samples they take 5 ms,
    which makes 7 s for ImageNet-1k.
    """
    import PIL
    from PIL import Image

    yield f"{VERSION} {PIL.__version__} {Image.MAX_IMAGE_PIXELS}"
    sampled = len(paths) <= VERIFIED
    for path in paths:
        yield os.fsencode(path.absolute())
        state = _state(path)
        yield str(state)
        if sampled and state is not None:
            yield _sample(path.absolute(), state)


def _state(path: Path) -> tuple[int, ...] | None:
    """Size, times and inode of a file; None if there is none. Waits for a file that has changed this very moment."""
    try:
        found = path.stat()
    except OSError:  # it is named when it is read
        return None
    if 0 <= time.time() - found.st_ctime < TICK:  # changed again now, it could bear the same time
        time.sleep(TICK)
        return _state(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


@functools.lru_cache(maxsize=4 * VERIFIED)
def _sample(path: Path, state: tuple[int, ...]) -> bytes:
    """Head, middle and tail of a file of a known state; nothing of one that cannot be read, which is named later."""
    size = state[0]
    try:
        with path.open("rb", buffering=0) as file:
            parts = []
            for start in (0, max(SAMPLE, (size - SAMPLE) // 2), max(2 * SAMPLE, size - SAMPLE)):
                file.seek(start)
                parts.append(file.read(SAMPLE))
    except OSError:
        return b""
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _read_through(paths: Sequence[Path]) -> dict[int, str]:
    from rich.progress import track

    def problem(path: Path) -> str | None:
        try:
            read(path, draft=True)
        except ValueError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        problems = pool.map(problem, paths)
        shown = track(problems, description="reading images through", total=len(paths), disable=len(paths) < 1000)
        return {index: reason for index, reason in enumerate(shown) if reason}


def split_off(images: FileImages, shares: Sequence[float], *, names: Sequence[str] | None = None) -> list[FileImages]:
    """Split files by class into parts of the given shares of the whole; what is left over is the first part.

    Raises:
        SpecError: a class is too small to be in every part.
    """
    labels = images.labels.numpy()
    sizes = [round(share * len(labels)) for share in shares]
    parts = stratified(labels, [len(labels) - sum(sizes), *sizes])
    for part in parts:
        if missing := sorted(set(labels.tolist()) - set(labels[part].tolist())):
            name = quoted(names[missing[0]]) if names else f"number {missing[0]}"
            raise SpecError(
                f"class {name} has {int((labels == missing[0]).sum())} images, too few to be in every one of "
                f"training, validation and test: add images, or make train, val and test folders"
            )
    return [images.select(part) for part in parts]


@functools.cache
def identical(*splits: FileImages) -> list[tuple[Path, Path]] | None:
    """Files with the content of a file in an earlier split, each with that file; None if they are too many to look."""
    paths = [path for split in splits for path in split.paths]
    if len(paths) > VERIFIED:
        return None
    if len(splits) < 2:
        return []
    places = [place for place, split in enumerate(splits) for _ in split.paths]
    key = cache.digest([json.dumps([len(split) for split in splits]), *_fingerprints(paths)])
    found = cache.remember("identical", key, lambda: _same_content(paths, places))
    return [(paths[first], paths[second]) for first, second in found]


def _same_content(paths: Sequence[Path], places: Sequence[int]) -> list[tuple[int, int]]:
    """Indices of files with the same bytes in different places, the earlier one first; each second file once."""
    sizes: dict[int, list[int]] = {}
    for index, path in enumerate(paths):
        sizes.setdefault(path.stat().st_size, []).append(index)
    found: dict[int, int] = {}
    known: dict[str, int] = {}
    for own in sizes.values():
        if len({places[index] for index in own}) < 2:
            continue
        for index in own:
            first = known.setdefault(cache.digest([paths[index].read_bytes()]), index)
            if places[first] != places[index]:
                found[index] = first
    return sorted((first, second) for second, first in found.items())
