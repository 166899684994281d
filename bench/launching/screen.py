"""The terminal: what it cannot show is replaced, and costs no result."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def tolerate() -> None:
    """Let stdout print ``?`` for characters that its encoding lacks; stderr spells them out by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def second_stdout() -> TextIO:
    """Another file on what is stdout now, as tolerant, which stays there when stdout is sent elsewhere."""
    return os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
