"""The screen: text that comes from outside is printed as it is, never as Rich's markup nor as a terminal's commands."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.text import Text

from bench.spec import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


WORD = re.compile(r"\S+")


def console(file: TextIO | None = None) -> Console:
    """A console on a file (standard output if None), as wide as its terminal.

    Rich takes a terminal without commands (``TERM=dumb``) to have 80 columns, however many it has.
    """
    from rich.console import Console

    made = Console(file=file)
    if made.is_dumb_terminal:
        made.size = (_columns(made.file) or made.width, made.height)
    return made


def _columns(file: IO[str]) -> int:
    """Columns of a terminal, or those that ``COLUMNS`` asks for; 0 where neither says."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked)
    try:
        return os.get_terminal_size(file.fileno()).columns
    except OSError:  # a file that has no descriptor
        return 0


def plain(text: str, style: str = "") -> Text:
    """A text as it stands, brackets, colons and all; its control characters spelt out, but for line feeds."""
    return Text(printable(text, keep="\n"), style=style)


def say(console: Console, *parts: str | Text) -> None:
    """Print a line of texts. A terminal's width breaks it between words, never inside a path; a file's does not."""
    line = Text.assemble(*(plain(part) if isinstance(part, str) else part for part in parts))
    shown = Text("\n").join(_broken(line, console.width)) if console.is_terminal else line
    console.print(shown, soft_wrap=True)


def _broken(line: Text, width: int) -> Iterator[Text]:
    """A text's lines, broken between words where they are wider than a screen."""
    for part in line.split("\n", allow_blank=True):
        begin, breaks = 0, []
        for word in WORD.finditer(part.plain):
            if word.start() > begin and cell_len(part.plain[begin : word.end()]) > width:
                begin = word.start()
                breaks.append(begin)
        for piece in part.divide(breaks):
            piece.rstrip()
            yield piece


def print_table(shown: Table, console: Console) -> None:
    """Print a table; where the screen is too narrow for it, a block for each of its lines."""
    if _width(shown, console) <= console.width:
        console.print(shown)
        return
    say(console, *filter(None, [shown.title]))  # type: ignore[arg-type]
    names = [str(column.header) for column in shown.columns[1:]]
    for first, *cells in zip(*(column.cells for column in shown.columns), strict=True):
        say(console, _one_line(first))
        for name, value in zip(names, cells, strict=True):
            if (text := _one_line(value)).plain:
                say(console, f"  {name:<{max(map(len, names))}} ", text)
    say(console, *filter(None, [shown.caption]))  # type: ignore[arg-type]


def _width(shown: Table, console: Console) -> int:
    """Columns of the screen that a table needs, so that nothing of it is cut."""
    needed = len(shown.columns) - 1
    for column in shown.columns:
        sizes = [console.measure(cell) for cell in (column.header, *column.cells)]
        needed += max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    return needed


def _one_line(cell: Any) -> Text:
    """A cell's lines beside each other."""
    text = cell if isinstance(cell, Text) else plain(str(cell))
    return Text(" ").join(line for line in text.split("\n") if line.plain)


def wrapped(text: str, width: int) -> str:
    """Lines broken between words where they are longer than a width, and then indented a little more."""
    return "\n".join(_wrapped(line, width) for line in text.splitlines())


def _wrapped(line: str, width: int) -> str:
    indent = " " * min(len(line) - len(line.lstrip()) + 4, width // 3)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
