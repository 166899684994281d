"""Text that comes from outside: what may be a name, what may reach a terminal, and files of text of a bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from bench.spec.characters import is_shown, printable
from bench.spec.parsing import SpecError, shown

LONGEST_NAME = 200
"""Bytes of a name in UTF-8: file systems take 255, and a suffix is added to it."""

LONGEST_MESSAGE = 2000
"""Characters of an error message."""


def sentence(error: BaseException) -> str:
    """What an error says, as one line of a bounded length that a terminal can show."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    text = printable(said or type(error).__name__)
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def check_name(name: str) -> str:
    """A name that can be a part of a path and be shown, as it is.

    Raises:
        SpecError: it cannot.
    """
    fault = None
    if not name.strip() or name in (".", ".."):
        fault = "is no name"
    elif "/" in name or "\\" in name:
        fault = "is a path, not a name"
    elif not all(map(is_shown, name)):
        fault = "holds control characters"
    elif len(name.encode()) > LONGEST_NAME:
        fault = f"is longer than {LONGEST_NAME} bytes"
    if fault:
        raise SpecError(f"the name {shown(name)} {fault}: choose another one")
    return name


Name = Annotated[str, AfterValidator(check_name)]
"""Of a study, a benchmark, a trial, a variant: it becomes a part of a file's name."""


def read_text(path: Path, *, most: int) -> str:
    """The content of a file in UTF-8.

    Args:
        most: bytes that it may have.

    Raises:
        ValueError: it is no regular file, too large, no UTF-8, or cannot be read; the message goes on after its name.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            kind = "a folder" if path.is_dir() else "no regular file" if path.exists() else "missing"
            raise ValueError(f"it is {kind}")
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        return content.decode()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
