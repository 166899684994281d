"""What both command lines have in common: exit codes of signals and of a pipe that nobody reads, and private files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from bench.launching import signals

CLOSED_PIPE = 141
"""The exit code that a shell gives a program whose reader has gone (128 + SIGPIPE)."""

PRIVATE = 0o077
"""Rights that files and folders made here give to nobody but their owner."""


def exit_code(main: Callable[[], int], *, interrupted: str = "interrupted") -> int:
    """The exit code of a command line.

    A reader that has seen enough (``| head``) ends it without a word; Ctrl-C, SIGTERM and SIGHUP end it in good order,
    with the exit code that a shell gives them.

    Args:
        interrupted: what is said when it is ended by a signal.
    """
    os.umask(os.umask(PRIVATE) | PRIVATE)
    try:
        with signals.heard(goodbye=interrupted):
            return _exit_code(main)
    except BaseException:
        number = signals.received()
        if number is None:
            raise
        with contextlib.suppress(OSError):  # the terminal may have gone
            print(interrupted, file=sys.stderr)
        return 128 + number


def _exit_code(main: Callable[[], int]) -> int:
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is left is not written when the process ends, either
        return CLOSED_PIPE
    return code


def leave(code: int) -> NoReturn:
    """End the process at once, now that everything is in order: a thread may still wait for a Ray that has gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)
