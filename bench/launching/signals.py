"""Signals that end a launch: Ctrl-C, SIGTERM and SIGHUP, all in good order, and each with its own exit code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SECONDS = 25.0
"""Tidying up may take so long; then the process ends as it stands. Ray's processes are ended in any case."""

TOLD = "the launch has said how it ended"
"""A note of the KeyboardInterrupt that a launch has told of."""

_received: list[int] = []
"""The first signal, once there was one: it ends the process, and all others are ignored."""


_handlers: list[Callable[[int, Any], None]] = []
"""What hears the signals in this process."""


def received() -> int | None:
    """The signal that is ending this process; None if there was none."""
    return _received[0] if _received else None


@contextmanager
def heard(*, goodbye: str = "") -> Iterator[None]:
    """Let the first of the signals raise KeyboardInterrupt: of all exceptions the one that comes through Ray unchanged.

    Further signals are ignored, so that none of them cuts off the tidying up. One that whoever started the process lets
    it ignore (``nohup``) stays ignored.

    Args:
        goodbye: is written to what is stderr now where tidying up takes too long.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) in _handlers:  # they are heard already
        yield
        return
    screen = os.dup(2)

    def end(number: int, frame: object) -> None:
        if not _received:
            _received.append(number)
            _end_late(128 + number, screen, goodbye)
            raise KeyboardInterrupt

    _handlers.append(end)
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        if not _received:
            os.close(screen)
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_late(code: int, screen: int, goodbye: str) -> None:
    """End the process if it is still there after a while."""

    def end() -> None:
        try:
            os.write(screen, f"{goodbye}\n".encode())
        finally:
            os._exit(code)

    timer = threading.Timer(SECONDS, end)
    timer.daemon = True
    timer.start()
