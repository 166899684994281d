"""What a rank that trains leaves behind when it stands still or dies: where it stood, and why."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bench.cluster.board import MARK, Snapshots

GRACE_SECONDS = 20.0
"""After its time a process that could say nothing, since Python does not run, ends so much later."""

STDERR = 2


_warned: set[str] = set()
"""Folders that there was a warning about in this process."""


def here(snapshots: Snapshots) -> Path | None:
    """The launch's folder for unfinished trials; None, with one warning, where this machine does not see it."""
    folder = Path(snapshots.folder)
    try:
        seen = (folder / MARK).read_text(encoding="utf-8") == snapshots.mark
    except OSError:
        seen = False
    if seen:
        return folder
    if snapshots.folder not in _warned:
        _warned.add(snapshots.folder)
        message = f"no checkpoints are kept, as this machine does not see {folder}: name a --results folder that all "
        warnings.warn(f"{message}machines share, and a trial goes on where it stopped", RuntimeWarning, stacklevel=2)
    return None


def words_of(folder: Path, slot: int) -> Iterator[Path]:
    """The files in which the ranks of a slot note why they die, by rank."""
    yield from sorted(folder.glob(f"slot-{slot}-rank-*.txt"))


@contextmanager
def noting(words: Path | None, stand: Callable[[str], bool], seconds: float | None) -> Iterator[None]:
    """Follow what is done in here.

    After ``seconds`` the process ends, however deep it hangs. If it ends in another way that it can know of (a fatal
    signal such as SIGSEGV, ``os._exit``), that and a stack are in the file ``words``, which is removed otherwise.

    Args:
        words: None: on stderr.
        stand: is told the stack of this thread when the time is over, again and again until it returns True.
        seconds: None: there is no end.
    """
    done, thread = threading.Event(), threading.get_ident()
    file = _opened(words)
    descriptor = STDERR if file is None else file.fileno()
    faulthandler.enable(descriptor)
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=descriptor)
        watch = functools.partial(_watch, done, thread, seconds, stand, os._exit)
        threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        with _exit_noted(descriptor):
            yield
    finally:
        done.set()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.enable(STDERR)
        if words is not None and file is not None:
            file.close()
            words.unlink(missing_ok=True)


def _opened(words: Path | None) -> BinaryIO | None:
    try:
        return None if words is None else words.open("wb", buffering=0)
    except OSError as error:
        warnings.warn(f"{words} cannot be written ({error}); it goes to stderr", RuntimeWarning, stacklevel=3)
        return None


def _watch(
    done: threading.Event, thread: int, seconds: float, stand: Callable[[str], bool], leave: Callable[[int], None]
) -> None:
    """Say where a thread stands when its time is over, and end the process."""
    if done.wait(seconds):
        return
    stack = "".join(traceback.format_stack(sys._current_frames()[thread]))
    end = time.monotonic() + GRACE_SECONDS
    while not stand(stack) and time.monotonic() < end and not done.wait(0.2):
        pass
    if not done.is_set():
        leave(1)


@contextmanager
def _exit_noted(descriptor: int) -> Iterator[None]:
    """Let ``os._exit`` say so first, which nothing else gets to know; in processes forked meanwhile it is as ever."""
    leave, owner = os._exit, os.getpid()

    def note(code: int) -> None:
        if os.getpid() == owner:
            stack = "".join(traceback.format_stack()[:-1])
            with contextlib.suppress(OSError):  # with nowhere to note it, it leaves all the same
                os.write(descriptor, f"os._exit({code}) was called:\n{stack}".encode())
        leave(code)

    os._exit = note  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave
