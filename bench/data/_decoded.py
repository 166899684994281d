"""Pictures that are decoded once for all processes of a machine, and all launches: one file of pixels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from bench import cache
from bench.data._pictures import header, read
from bench.spec import SpecError

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

FOLDER = "decoded"
"""They lie here in the cache folder."""

SHARE = 0.9
"""Pictures may take so much of the free disk space."""


class Decoded:
    """RGB pictures of any sizes in one mapped file; the operating system keeps in memory what is used."""

    def __init__(self, pixels: Path, sizes: NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._ends = np.cumsum(sizes.prod(1) * 3)
        self._pixels = np.memmap(pixels, mode="r")

    def __getitem__(self, index: int) -> PIL.Image.Image:
        """The picture at an index."""
        from PIL import Image

        height, width = self.sizes[index]
        end = self._ends[index]
        return Image.fromarray(self._pixels[end - height * width * 3 : end].reshape(height, width, 3))


class Undecoded(Decoded):
    """The same where nothing can be kept: a picture is decoded whenever it is asked for."""

    def __init__(self, paths: Sequence[Path], sizes: NDArray[np.int64]) -> None:
        self.sizes = sizes
        self._paths = paths

    def __getitem__(self, index: int) -> PIL.Image.Image:
        """The picture at an index."""
        return read(self._paths[index])


def decoded(paths: Sequence[Path], key: str) -> Decoded:
    """The pictures of some files, in their order; the first process that asks for them decodes them all.

    Args:
        key: of the files.

    Raises:
        SpecError: there is too little room on the disk.
        ValueError: a picture cannot be read.
    """
    key = cache.digest([key, *cache.decoders()])
    try:
        (cache.root() / FOLDER).mkdir(parents=True, exist_ok=True)
        with FileLock(cache.root() / FOLDER / f"{key}.lock"):
            kept = _kept(key) or _write(paths, key)
    except OSError as error:
        cache.unusable(error)
        kept = None
    return kept or Undecoded(paths, _sizes(paths))


def _kept(key: str) -> Decoded | None:
    """What is kept of some pictures, if all of it is whole."""
    sizes, pixels = cache.read(f"{FOLDER}/{key}.sizes"), cache.intact(f"{FOLDER}/{key}.bin")
    if sizes is None or pixels is None:
        return None
    return Decoded(pixels, np.frombuffer(sizes, dtype=np.int64).reshape(-1, 2))


def _sizes(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Heights and widths ``[n, 2]``, of the pictures' headers."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return np.array(list(pool.map(header, paths)), dtype=np.int64)


def _write(paths: Sequence[Path], key: str) -> Decoded | None:
    """Decode all pictures into a file; None if it cannot be written."""
    from rich.progress import track

    name, sizes = f"{FOLDER}/{key}.bin", _sizes(paths)
    ends = np.cumsum(sizes.prod(1) * 3)
    place = cache.root() / FOLDER
    free = shutil.disk_usage(place).free
    if ends[-1] > SHARE * free:
        raise SpecError(
            f"keep_decoded: {len(paths):,} pictures take {ends[-1] / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            f"are free in {place}: leave it out, or set BENCH_DATA to a folder with more room"
        )

    def fill(pixels: NDArray[np.uint8]) -> None:
        def one(index: int) -> None:
            flat = np.asarray(read(paths[index])).reshape(-1)
            pixels[ends[index] - len(flat) : ends[index]] = flat

        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            done: Iterator[None] = pool.map(one, range(len(paths)))
            for _ in track(done, description="decoding pictures", total=len(paths), disable=len(paths) < 1000):
                pass

    whole = cache.fill(name, int(ends[-1]), fill) and cache.write(f"{FOLDER}/{key}.sizes", sizes.tobytes())
    return Decoded(cache.root() / name, sizes) if whole else None
