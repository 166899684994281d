"""What is kept on disk between launches: downloaded data, and measurements that are the same for many trials."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def root() -> Path:
    """The folder: the environment variable BENCH_DATA, else a cache folder of the user's."""
    return Path(os.environ.get("BENCH_DATA", "~/.cache/vit-forgetting-bench")).expanduser()


def digest(parts: Iterable[str | bytes | memoryview]) -> str:
    """A key for something that depends on all of the parts and on their order."""
    hashed = hashlib.sha256()
    for part in parts:
        data = memoryview(part.encode() if isinstance(part, str) else part).cast("B")
        hashed.update(len(data).to_bytes(8, "little"))
        hashed.update(data)
    return hashed.hexdigest()


def shared(pixels: Tensor, key: str) -> Tensor:
    """The same uint8 values, mapped from a file, so that all processes of a machine hold them once.

    Args:
        key: of the values.
    """
    import torch

    path = root() / "shared" / f"{key}.bin"
    if not path.is_file():
        write_atomically(path, pixels.contiguous().numpy().tobytes())
    flat = torch.from_file(str(path), shared=False, size=pixels.numel(), dtype=torch.uint8)
    return flat.view(pixels.shape)


def remember(kind: str, key: str, compute: Callable[[], Any]) -> Any:
    """A JSON value that is computed once for all processes of the machine.

    Args:
        kind: folder below :func:`root`.
        key: of everything that the value depends on, see :func:`digest`.
        compute: makes the value where it is not known yet.
    """
    path = root() / kind / f"{key}.json"
    if path.is_file():
        return json.loads(path.read_text())
    value = compute()
    write_atomically(path, json.dumps(value))
    return value
