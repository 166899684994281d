"""What both command lines have in common: the exit code of a pipe that nobody reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CLOSED_PIPE = 141
"""The exit code that a shell gives a program whose reader has gone (128 + SIGPIPE)."""


def exit_code(main: Callable[[], int]) -> int:
    """The exit code of a command line; a reader that has seen enough (``| head``) ends it without a word."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # what is left is not written when the process ends, either
        return CLOSED_PIPE
    return code
