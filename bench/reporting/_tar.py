"""Gzipped tar files from somebody else, read so that none of them takes more memory than a few blocks."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HEADERS = 16 * 1024
"""Bytes that the headers of one member may have together; of a long name in UTF-8 they have 2 kB."""

UNREADABLE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)

PIECE = 2**20


class _Bounded:
    """A file of which no more is read than is allowed: ``tarfile`` reads headers whole, however large they are."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self.allowed = HEADERS
        self.last = b""
        """What was read last."""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.allowed:
            raise tarfile.ReadError(f"a header has more than {HEADERS:,} bytes")
        self.allowed -= size
        self.last = self._file.read(size)
        return self.last

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, place: int) -> int:
        return self._file.seek(place)


@contextmanager
def _understood() -> Iterator[None]:
    """Whatever ``tarfile`` stumbles over in headers that make no sense is an archive that cannot be read."""
    try:
        yield
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        raise tarfile.ReadError(f"a header makes no sense: {error}") from None


class Tar:
    """The members of an archive, one after another."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._zipped = gzip.GzipFile(fileobj=raw, mode="rb")
        self._source = _Bounded(self._zipped)
        with _understood():
            self._tar = tarfile.TarFile(fileobj=self._source)  # type: ignore[arg-type]

    def members(self) -> Iterator[tarfile.TarInfo]:
        """All members; the content of each has to be read before the next one is asked for.

        Raises:
            one of UNREADABLE: it is no archive, is damaged, or has something behind its end.
        """
        while (member := self._next()) is not None:
            yield member
        rest = self._zipped.read(tarfile.RECORDSIZE + 1)
        ends = self._source.last == bytes(tarfile.BLOCKSIZE)
        if not ends or len(rest) > tarfile.RECORDSIZE or rest.strip(b"\0") or not self._is_one():
            raise tarfile.ReadError("something else follows where it should end")

    def _next(self) -> tarfile.TarInfo | None:
        self._source.allowed = HEADERS
        with _understood():
            member = self._tar.next()
        self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        if self._tar.pax_headers or (member is not None and member.size < 0):
            raise tarfile.ReadError("it has headers that no archive has")
        return member

    def _is_one(self) -> bool:
        """Whether the file is one gzip stream, the last bytes of which say how long its content is."""
        self._raw.seek(-4, os.SEEK_END)
        return int.from_bytes(self._raw.read(4), "little") == self._zipped.tell() % 2**32

    def pieces(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """A member's content."""
        self._source.allowed = member.size
        content = self._tar.extractfile(member)
        assert content is not None
        while piece := content.read(PIECE):
            yield piece


@contextmanager
def opened(file: Path) -> Iterator[Tar]:
    """An archive to be read."""
    with file.open("rb") as raw:
        yield Tar(raw)


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file, with all of its bytes behind its header."""
    return member.isreg() and not member.issparse()
