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

from bench.cache import root
from bench.data._pictures import header, read
from bench.records import write_atomically
from bench.spec import SpecError

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray

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


def decoded(paths: Sequence[Path], key: str) -> Decoded:
    """The pictures of some files, in their order; the first process that asks for them decodes them all.

    Args:
        key: of the files.

    Raises:
        SpecError: there is too little room on the disk.
        ValueError: a picture cannot be read.
    """
    pixels, index = (root() / "decoded" / f"{key}.{kind}" for kind in ("bin", "sizes"))
    pixels.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(pixels.with_suffix(".lock")):
        if not index.is_file():  # which is written last
            write_atomically(index, _write(paths, pixels).tobytes())
    return Decoded(pixels, np.frombuffer(index.read_bytes(), dtype=np.int64).reshape(-1, 2))


def _write(paths: Sequence[Path], pixels: Path) -> NDArray[np.int64]:
    """Decode all pictures into a file; returns their heights and widths ``[n, 2]``."""
    from rich.progress import track

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        sizes = np.array(list(pool.map(header, paths)), dtype=np.int64)
        ends = np.cumsum(sizes.prod(1) * 3)
        free = shutil.disk_usage(pixels.parent).free
        if ends[-1] > SHARE * free:
            raise SpecError(
                f"keep_decoded: {len(paths):,} pictures take {ends[-1] / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
                f"are free in {pixels.parent}: leave it out, or set BENCH_DATA to a folder with more room"
            )
        file = np.memmap(pixels, mode="w+", shape=(int(ends[-1]),))

        def place(index: int) -> None:
            flat = np.asarray(read(paths[index])).reshape(-1)
            file[ends[index] - len(flat) : ends[index]] = flat

        done: Iterator[None] = pool.map(place, range(len(paths)))
        for _ in track(done, description="decoding pictures", total=len(paths), disable=len(paths) < 1000):
            pass
        file.flush()
    return sizes
