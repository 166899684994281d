"""Markdown: names and values that come from outside are shown as they are, never as its markup or as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.spec import printable

SPECIAL = re.compile(r"[\\`*<>&|~$\[\]]|(?<!\w)_|_(?!\w)|(?<=\s)#")
"""What means something inside a line; an underscore within a word is a letter."""


def escaped(text: str) -> str:
    """A text as Markdown shows it unchanged, in a table's cell too; its control characters spelt out."""
    return SPECIAL.sub(r"\\\g<0>", printable(text))


def with_escaped(text: str, names: Iterable[str]) -> str:
    """A sentence as Markdown, in which some names are shown unchanged and all else is left as it is."""
    special = sorted({name for name in names if escaped(name) != name}, key=len, reverse=True)
    if not special:
        return text
    return re.sub("|".join(map(re.escape, special)), lambda found: escaped(found[0]), text)


def one_decimal(value: float) -> str:
    """A number in percent, or in points, as it is shown: never -0.0."""
    return f"{round(value, 1) + 0.0:.1f}"
