"""The screen: text that comes from outside is printed as it is, never as Rich's markup nor as a terminal's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from bench.spec import printable

if TYPE_CHECKING:
    from rich.console import Console


def plain(text: str, style: str = "") -> Text:
    """A text as it stands, brackets, colons and all; its control characters spelt out, but for line feeds."""
    return Text(printable(text, keep="\n"), style=style)


def say(console: Console, *parts: str | Text) -> None:
    """Print a line of texts, which are not broken at the screen's width."""
    console.print(Text.assemble(*(plain(part) if isinstance(part, str) else part for part in parts)), soft_wrap=True)
