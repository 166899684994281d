"""Work that is done ahead of its use, by processes beside the one that trains."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from bench import resources

if TYPE_CHECKING:
    import torch

AHEAD = 2
"""Every process makes so many items ready before they are asked for."""

MOST = 16
"""At most so many processes load for one that trains on a GPU: each holds ``AHEAD`` whole batches in shared memory."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def processes_for(device: torch.device) -> int:
    """Loader processes for one training process: with a GPU its share of the cores up to 16, else one a thread."""
    import torch

    if device.type == "cuda":
        return min(MOST, max(1, resources.cores() // max(1, resources.gpus_of_node())))
    return torch.get_num_threads()


def ahead(
    items: Iterable[Item], make: Callable[[Item], Made], *, processes: int, pin: bool = False
) -> Iterator[tuple[Item, Made]]:
    """Every item and what ``make`` makes of it, in the order of the items.

    Args:
        make: runs in forked processes, so it sees what is here now, and must use neither CUDA nor other threads.
        processes: with 0 all is made here, when it is asked for.
        pin: put tensors into pinned memory, from where a GPU takes them without waiting.

    Raises:
        ValueError: as ``make`` raised it.
    """
    if not processes:
        yield from ((item, make(item)) for item in items)
        return
    import torch
    from torch.utils.data import DataLoader

    _release_freed_memory()
    sent, kept = itertools.tee(items)
    made_of_items: Any = _Makes(make)
    loader: Any = DataLoader(
        made_of_items,
        sampler=sent,
        batch_size=None,
        num_workers=processes,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",  # nothing is imported again, and images in memory are shared
        pin_memory=pin,
        generator=torch.Generator(),  # the loader draws a number, which must not shift the trial's own
    )
    for item, made in zip(kept, loader, strict=True):
        if isinstance(made, _Problem):
            raise ValueError(made.message)
        yield item, made


def _release_freed_memory() -> None:
    """Hand freed memory back to the system, where the C library can (glibc's ``malloc_trim``).

    What a process shares with the ones it has forked is copied, page by page, when it is written. Memory that an
    earlier trial has freed would be copied for nothing by the first step of the next.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Problem:
    """A ValueError that crosses to another process; the loader itself would bury its words in a traceback."""

    def __init__(self, error: ValueError) -> None:
        self.message = str(error)


class _Makes:
    """What the loader indexes by items."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __getitem__(self, item: Any) -> Any:
        try:
            return self._make(item)
        except ValueError as error:
            return _Problem(error)
