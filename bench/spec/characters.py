"""Characters that come from outside: what can be stored and shown."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of controls (escape sequences begin with one), broken encodings, line and paragraph breaks."""

TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Unicode's directional controls, which make text look like another."""


UNDECODED = re.compile("[\udc80-\udcff]+")
"""What Python makes of bytes that it cannot decode in the name of a file."""


def is_shown(character: str) -> bool:
    """Whether a character is one to be read, and not one that steers a terminal or cannot be written."""
    return unicodedata.category(character) not in UNSEEN and unicodedata.bidirectional(character) not in TURNS


def printable(text: str | Path, *, keep: str = "") -> str:
    r"""A text that can be stored and shown.

    Bytes of file names that are not UTF-8 are spelt out (``\xe9``), as is what would steer a terminal (``\x1b``).

    Args:
        keep: characters that stay as they are, such as line feeds.
    """
    if str(text).isprintable():
        return str(text)
    plain = UNDECODED.sub(
        lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), str(text)
    )
    return "".join(
        one if one in keep or is_shown(one) else one.encode("unicode_escape").decode("ascii") for one in plain
    )
