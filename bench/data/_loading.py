"""Work that is done ahead of its use, by processes beside the one that trains."""

from __future__ import annotations

import ctypes
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
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
        yield from ((item, pinned(make(item)) if pin else make(item)) for item in items)
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
    stream: Any = iter(loader)
    try:
        for item, sent in zip(kept, stream, strict=True):
            made = sent.received() if isinstance(sent, _Sent) else sent  # one in pinned memory has been received there
            if isinstance(made, _Problem):
                raise ValueError(made.message)
            yield item, made
    finally:
        stream._shutdown_workers()  # now: a process that is forked meanwhile must not find it among its garbage


def pinned(made: Any) -> Any:
    """The same with its tensors in pinned memory: a copy out of other memory waits until the GPU has nothing to do."""
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(made)


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


class _Sent:
    """What a loader process has made, on its way: tensors in shared memory, or within the bytes where there is none.

    The loader itself would share tensors in a thread of its own, whose errors nobody hears: where ``/dev/shm`` is full
    (a container's has 64 MiB) or the path of a socket is too long (in TMPDIR), it would wait for ever.
    """

    def __init__(self, made: Any) -> None:
        import torch.multiprocessing  # noqa: F401  # it teaches the pickler to share tensors

        try:
            self._bytes = bytes(ForkingPickler.dumps(made))
        except (RuntimeError, OSError):
            self._bytes = pickle.dumps(made, protocol=pickle.HIGHEST_PROTOCOL)

    def received(self) -> Any:
        """The thing itself, in the process that has asked for it."""
        return pickle.loads(self._bytes)

    def pin_memory(self) -> Any:
        """The same in pinned memory; the loader's own thread asks for it."""
        return pinned(self.received())


class _Makes:
    """What the loader indexes by items."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __getitem__(self, item: Any) -> Any:
        try:
            return _Sent(self._make(item))
        except ValueError as error:
            return _Problem(error)
