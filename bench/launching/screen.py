"""The terminal: what it cannot show is replaced, and costs no result."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TextIO

from bench.reporting.screen import wrapped
from bench.spec import printable


def tolerate() -> None:
    """Let stdout print ``?`` for characters that its encoding lacks; stderr spells them out by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def show(text: str) -> None:
    """Print lines, in which names from data cannot steer the terminal; one that is too narrow gets more of them."""
    lines = printable(text, keep="\n")
    print(wrapped(lines, shutil.get_terminal_size().columns) if sys.stdout.isatty() else lines)


def second_stdout() -> TextIO:
    """Another file on what is stdout now, as tolerant, which stays there when stdout is sent elsewhere."""
    return os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
