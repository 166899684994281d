"""What is kept on disk between launches: downloaded data, and measurements that are the same for many trials.

A kept file ends in a checksum, and is used only if it fits. What is damaged is computed again, and where nothing can be
kept, because the folder is full or cannot be written to, everything goes on without; either with one warning.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


def root() -> Path:
    """The folder: the environment variable BENCH_DATA, else a cache folder of the user's."""
    return Path(os.environ.get("BENCH_DATA", "~/.cache/vit-forgetting-bench")).expanduser()


def digest(parts: Iterable[str | bytes | memoryview]) -> str:
    """A key for something that depends on all of the parts, which may be names of files, and on their order."""
    hashed = hashlib.sha256()
    for part in parts:
        data = memoryview(part.encode(errors="surrogateescape") if isinstance(part, str) else part)
        data = data.cast("B") if data.nbytes else memoryview(b"")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()


CODECS = ("jpg", "libjpeg_turbo", "zlib", "libtiff", "webp", "jpg_2000", "avif")
"""Pillow decodes by these libraries, whose versions are not Pillow's."""


def decoders() -> Iterator[str]:
    """What makes pixels of picture files, with versions: a part of every key of what depends on pixels."""
    import PIL
    from PIL import features

    yield f"Pillow {PIL.__version__}"
    for name in CODECS:
        yield f"{name} {features.version(name)}"


def read(name: str) -> bytes | None:
    """What :func:`write` has kept under a name; None if there is nothing, or, with a warning, if it is damaged."""
    path = intact(name)
    if path is None:
        return None
    with path.open("rb") as file:
        return file.read(path.stat().st_size - SEAL_BYTES)


def write(name: str, *parts: bytes | memoryview) -> bool:
    """Keep bytes under a name, whole or not at all.

    Returns:
        Whether they could be kept; where they could not there was a warning, one a process.
    """

    def put(file: BinaryIO) -> None:
        for part in parts:
            file.write(part)

    return _replace(name, put)


def fill(name: str, size: int, place: Callable[[NDArray[np.uint8]], None]) -> bool:
    """Like :func:`write`, for bytes ``[size]`` that are put in their places by a function, in any order."""
    import numpy as np

    def put(file: BinaryIO) -> None:
        _reserve(file, size)
        mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
        place(mapped)
        mapped.flush()

    return _replace(name, put)


def _reserve(file: BinaryIO, size: int) -> None:
    """Make a file so large; a mapped page for which there is no room on the disk would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:  # macOS
        file.truncate(size)


def intact(name: str) -> Path | None:
    """The file that is kept under a name, to be mapped: what was kept, and SEAL_BYTES after it.

    All of it is read: about a second a GiB where the processor knows SHA-256, three seconds elsewhere.

    Returns:
        None if there is no such file, or, with a warning, if it is not what was kept.
    """
    path = root() / name
    try:
        with path.open("rb") as file:
            size = path.stat().st_size - SEAL_BYTES
            if size >= 0 and _seal(name, file, size) == file.read():
                return path
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        _warn(f"{path} cannot be read ({error.strerror or error}): it is computed again")
        return None
    damaged(name)
    return None


def damaged(name: str) -> None:
    """Warn that what is kept under a name cannot be used."""
    _warn(f"{root() / name} is damaged, or of an earlier version: it is computed again")


SEAL_BYTES = 66
"""A kept file ends in a line with the SHA-256 of its name and of all that stands before."""


def _seal(name: str, file: BinaryIO, size: int) -> bytes:
    """What follows the first ``size`` bytes of a file, which is read up to there."""
    hashed = hashlib.sha256(f"{name}\n".encode())
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        hashed.update(chunk)
        size -= len(chunk)
    return f"\n{hashed.hexdigest()}\n".encode()


CHUNK = 2**20


def _replace(name: str, put: Callable[[BinaryIO], None]) -> bool:
    """Let a new, sealed file take a name's place."""
    path = root() / name
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # of other machines, too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:
                put(file)
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                seal = _seal(name, file, size)
                file.seek(size)
                file.write(seal)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        unusable(error)
        return False
    return True


def unusable(error: OSError) -> None:
    """Say, once a process, that nothing can be kept."""
    _warn(
        f"the cache folder {root()} cannot be written to ({error.strerror or error}), so that every process computes "
        f"what would be kept there: set BENCH_DATA to a folder with room",
        about=str(root()),
    )


_warned: set[str] = set()
"""What there was a warning about in this process."""


def _warn(message: str, *, about: str | None = None) -> None:
    if (about or message) not in _warned:
        _warned.add(about or message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def shared(pixels: Tensor, key: str) -> Tensor:
    """The same uint8 values, mapped from a file, so that all processes of a machine hold them once.

    Where there can be no such file they stay where they are.

    Args:
        key: of the values.
    """
    name = f"shared/{key}.bin"
    mapped = tensor(name, pixels.dtype, tuple(pixels.shape))
    if mapped is not None:
        return mapped
    return _mapped(root() / name, pixels.dtype, tuple(pixels.shape)) if keep(name, pixels) else pixels


def keep(name: str, values: Tensor) -> bool:
    """Keep a tensor's values under a name; returns whether they could be kept."""
    import torch

    return write(name, values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def tensor(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
    """A tensor, mapped from what :func:`keep` has kept; None if there is none, or none like that.

    Args:
        shape: -1 stands for what follows from the number of values.
    """
    path = intact(name)
    if path is None:
        return None
    rows = abs(math.prod(shape)) * dtype.itemsize
    size = path.stat().st_size - SEAL_BYTES
    if not size or (size % rows if -1 in shape else size != rows):
        damaged(name)
        return None
    return _mapped(path, dtype, shape)


def scratch(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """A tensor of any values, mapped from a file that has no name and vanishes with it; None where there is no room."""
    import torch

    size = math.prod(shape)
    path = root() / f".scratch.{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("w+b") as file:
                _reserve(file, size * dtype.itemsize)
            return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        unusable(error)
        return None


def _mapped(path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor whose values are the beginning of a file; changes of it stay in this process."""
    import torch

    count = (path.stat().st_size - SEAL_BYTES) // dtype.itemsize
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype).view(shape)


def remember(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """A JSON value that is computed once for all processes of the machine.

    Args:
        kind: folder below :func:`root`.
        key: of everything that the value depends on, see :func:`digest`.
        compute: makes the value where it is not known yet.
    """
    name = f"{kind}/{key}.json"
    known = read(name)
    if known is not None:
        return json.loads(known)
    value = compute()
    write(name, json.dumps(value).encode())
    return value
