"""Archives: a launch in one file, to be published or kept, and checked by whoever unpacks it.

A gzipped tar of one folder, which is a launch folder again: records, tables and pictures, what the launch was asked
for, and trained tensors if wanted. Beside them ``per_image.csv`` says which images were right, ``environment.json`` and
``constraints.txt`` what computed it. ``SHA256SUMS`` comes first (``sha256sum --check`` reads it). Equal launches give
equal bytes with one version of Python and zlib: members are sorted, and bear neither times nor owners.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_string
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench import __version__
from bench.folder import WEIGHTS, LaunchFolder, launch_folders
from bench.records import MOST, Record, provenance
from bench.reporting._tar import UNREADABLE, Tar, is_plain, opened
from bench.reporting.archive_checks import (
    PIN,
    check_constraints,
    check_manifest,
    check_tensors,
    differing,
    fault,
    kept,
    page_of,
    redrawn,
    rendered,
    strangers,
)
from bench.spec import SpecError, shown
from bench.spec.text import check_name, read_text

FORMAT = 1
SUFFIX = ".tar.gz"
SUMS, PER_IMAGE, ENVIRONMENT, CONSTRAINTS = "SHA256SUMS", "per_image.csv", "environment.json", "constraints.txt"

OWN = (SUMS, PER_IMAGE, ENVIRONMENT, CONSTRAINTS)
"""What an archive holds beside what lies at the top of a launch folder."""

DISTRIBUTION = "vit-forgetting-bench"

UNFINISHED = "the launch has not ended: what it has still to run is not in the archive"
OTHER_CODE = (
    "it was packed by {then} and is unpacked by {now}, which may make other tables of the same records: unpack it with "
    "the former to tell what differs for that from what has been changed"
)
"""What is said of an archive in which something differs, and that other code has packed."""

REDRAWN = "{name} was not what the records give here, and has been made again from them"
REMOVED = "{name} is nothing that the records give here, and has been removed"

MOST_TEXT = 32 * MOST
"""Bytes that all but the trained tensors may have together."""


@dataclass(frozen=True)
class Archive:
    """An archive that was written or read: its file, the SHA-256 of it, and the folder that it was made of or became.

    ``said``: what is to be known of it, in sentences; ``faults``: which of its files are not what its records give.
    """

    file: Path
    digest: str
    folder: Path
    said: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


def pack(folder: LaunchFolder, out: Path | None = None, *, checkpoints: bool = False) -> Archive:
    """Write a launch into one file.

    Args:
        out: the file; ``<study>-<benchmark>.tar.gz`` in the current folder if None.
        checkpoints: whether trained tensors go into it.

    Raises:
        ValueError: there are no records, a launch is writing to the folder, its tables, pictures or page are not what
            the records say, trained tensors are wanted and not all of them are there, or the file cannot be written.
    """
    records = folder.read_records()
    name = f"{records[0].study}-{records[0].benchmark}"
    out = Path(f"{name}{SUFFIX}") if out is None else out
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {out / name}{SUFFIX}")
    if out.exists():
        raise ValueError(f"{out} exists: choose another --out, or remove it")
    with folder.undisturbed(), _beside(out) as place:
        staged, said = _staged(folder, place / "staged", place / "made", checkpoints=checkpoints)
        written = place / "archive"
        _write(written, name, staged)
        digest = _digest(written)
        written.rename(out)
    return Archive(out, digest, folder.path, said)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder to work in, beside what is to be written."""
    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} to write to")
    try:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".archive-") as place:
            yield Path(place)
    except OSError as error:
        if error.filename is not None and ".archive-" not in str(error.filename):
            raise
        raise ValueError(f"{out} cannot be written: {error.strerror}") from None


def _staged(
    folder: LaunchFolder, place: Path, made: Path, *, checkpoints: bool
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The files of an archive by their names in it, and what is to be known of them.

    All but trained tensors are copies in ``place``: whatever is written meanwhile, one archive holds one state.
    """
    staged = LaunchFolder(place)
    staged.records.mkdir(parents=True)
    for path in (*folder.records.glob("*.json"), *_at_top(folder)):
        shutil.copyfile(path, place / path.relative_to(folder.path))
    records = staged.read_records()
    tensors = kept(folder, records) if checkpoints else []
    if stale := differing(staged, rendered(folder, records, made)):
        raise ValueError(f"{fault(folder.path / stale[0])}: run python -m bench leaderboard {folder.path} first")
    if not checkpoints:  # there the page leads to none
        staged.page.write_text(page_of(staged, records), encoding="utf-8")
    (place / PER_IMAGE).write_text(per_image(records), encoding="utf-8")
    (place / CONSTRAINTS).write_text(_constraints(), encoding="utf-8")
    (place / ENVIRONMENT).write_text(_as_json(_environment(staged, records)), encoding="utf-8")
    files = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    said = (*_remarks(staged, records), *_left_out(folder))
    return files | {f"checkpoints/{path.name}": path for path in tensors}, said


def _at_top(folder: LaunchFolder) -> list[Path]:
    """The files at the top of a launch folder that go into its archive."""
    return [path for path in (folder.manifest, *folder.derived) if path.is_file()]


def _left_out(folder: LaunchFolder) -> Iterator[str]:
    """What somebody has put beside a launch's own files."""
    known = {*(path.name for path in (*_at_top(folder), folder.optuna)), *OWN}
    strange = [path.name for path in sorted(folder.path.iterdir()) if path.is_file() and path.name not in known]
    if others := [name for name in strange if not name.startswith(".")]:
        yield f"an archive holds what a launch has written, and not {', '.join(others)}"


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _write(archive: Path, name: str, files: Mapping[str, Path]) -> None:
    digests = {title: _digest(files[title]) for title in sorted(files)}
    sums = "".join(f"{digest}  {title}\n" for title, digest in digests.items()).encode()
    with (
        archive.open("xb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, f"{name}/{SUMS}", io.BytesIO(sums), len(sums))
        for title, digest in digests.items():
            with files[title].open("rb") as file:
                _add(tar, f"{name}/{title}", file, files[title].stat().st_size)
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError(f"{files[title]} has changed while it was packed: pack again")


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    """Add a file without owner, time and rights of its own."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    tar.addfile(member, content)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def per_image(records: Sequence[Record]) -> str:
    """Which test images were right: a line for every reading that says so, and in it a 0 or 1 for every image.

    ``images`` is the identity of the images in their order: lines that agree in it answer the same ones.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("step", "split", "domain", "probe", "variant")
    writer.writerow(["trial", "method", "row", "seed", *columns, "n", "images", "right"])
    for record in records:
        own = [record.trial, record.method, json.dumps(record.row), record.seed]
        for reading in record.readings:
            if reading.answers is not None and reading.n is not None:
                right = "".join("01"[int(one)] for one in reading.answers.array(reading.n))
                key = [getattr(reading, name) for name in columns]
                writer.writerow([*own, *key, reading.n, reading.answers.images, right])
    return text.getvalue()


def _constraints() -> str:
    """What is installed here, as pip takes it."""
    found = {name: pin for one in metadata.distributions() for name, pin in _pinned(one)}
    lines = [f"{found[name]}\n" for name in sorted(found) if name != DISTRIBUTION]
    return "".join(["# What was installed where the archive was made, as pip's --constraint takes it.\n", *lines])


def _pinned(distribution: metadata.Distribution) -> Iterator[tuple[str, str]]:
    """A distribution's name, and the line that pins it; nothing of one that pip has left half removed."""
    said = message_from_string(distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "")
    if "Name" in said and "Version" in said:
        name = _spelt(said["Name"])
        if PIN.fullmatch(pin := f"{name}=={said['Version']}"):
            yield name, pin


def _spelt(name: str) -> str:
    """A distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _environment(folder: LaunchFolder, records: Sequence[Record]) -> dict[str, Any]:
    """What computed the records, and what wrote the archive."""
    here = provenance()
    return {
        "format": FORMAT,
        "study": records[0].study,
        "benchmark": records[0].benchmark,
        "trials": len(records),
        "ended": folder.ended,
        "records": {
            "versions": _versions(records),
            "commits": _said(record.provenance.get("commit") for record in records),
            "dirty": any(record.provenance.get("dirty") for record in records),
            "platforms": _said(record.provenance.get("platform") for record in records),
            "devices": _said(device for record in records for device in _hardware(record).get("devices", ())),
            "cpus": _said(_hardware(record).get("cpu") for record in records),
        },
        "packed": {"version": __version__, "python": platform.python_version(), "commit": here["commit"]},
    }


def _said(values: Iterable[Any]) -> list[str]:
    """What records say of something, each once; nothing of those that do not say."""
    return sorted({str(value) for value in values if value is not None})


def _hardware(record: Record) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record.provenance.get("hardware", {})
    return found


def _versions(records: Sequence[Record]) -> dict[str, list[str]]:
    """Versions that the records name, by package."""
    named = [record.provenance.get("versions", {}) for record in records]
    packages = sorted({package for own in named for package in own})
    return {package: sorted({str(own[package]) for own in named if package in own}) for package in packages}


def _remarks(folder: LaunchFolder, records: Sequence[Record]) -> Iterator[str]:
    if folder.ended is False:
        yield UNFINISHED
    for package, versions in _versions(records).items():
        here = _installed(package)
        if here is not None and versions != [here]:
            yield (
                f"the records were made with {package} {' and '.join(versions)}, and {here} is installed here, which "
                f"{CONSTRAINTS} names"
            )
    if any(record.provenance.get("dirty") for record in records):
        yield "some records were made with changes that are in no commit"


def _installed(package: str) -> str | None:
    if package == "python":
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def differences(folder: LaunchFolder, records: Sequence[Record]) -> list[str]:
    """Which tables, pictures and pages of a launch folder are not, byte for byte, what its records give, in sentences.

    Args:
        records: all of the folder's.
    """
    with tempfile.TemporaryDirectory() as place:
        names = differing(folder, rendered(folder, records, Path(place, "made")))
    return [fault(folder.path / name) for name in names]


def unpack(file: Path, out: Path | None = None) -> Archive:
    """Unpack an archive into a new launch folder, checking every byte on the way.

    Tables have to be what the records give, see :attr:`Archive.faults`. A page and pictures that are something else
    are made again from the records, so that nothing foreign is ever opened in a browser.

    Args:
        out: the folder, which must be new or empty; named after the archive, in the current folder, if None.

    Raises:
        ValueError: it is no archive, is damaged, holds what an archive does not hold, or does not fit; or the folder
            exists. Nothing of it is left then.
    """
    if not file.is_file():
        raise ValueError(f"there is no archive {file}; python -m bench pack makes one")
    out = Path(file.name.removesuffix(SUFFIX).removesuffix(".tgz")) if out is None else out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder: choose another --out")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with _beside(out) as place:
        inside = LaunchFolder(place / "inside")
        inside.path.mkdir()
        try:
            with opened(file) as tar:
                _unpack(tar, inside.path, file)
        except UNREADABLE as error:
            raise ValueError(f"{file} is not an archive, or is damaged ({error})") from None
        _check_format(inside.path, file)
        try:
            said, faults = _checked(inside, place / "made")
        except ValueError as error:
            raise ValueError(f"{file}: {_without(place, str(error))}") from None
        if out.exists():
            out.rmdir()
        inside.path.rename(out)
    return Archive(file, _digest(file), out, tuple(said), tuple(_without(place, one, out) for one in faults))


def _without(place: Path, text: str, out: Path | None = None) -> str:
    """A sentence on files in a place for the time being, as one on those of the archive, or of ``out``."""
    return text.replace(f"{place / 'inside'}/", f"{out}/" if out else "")


def _checked(folder: LaunchFolder, made: Path) -> tuple[list[str], list[str]]:
    """Compare what was unpacked with its records; returns what is to be known of it, and what is wrong with it."""
    for path in (folder.path / PER_IMAGE, folder.path / CONSTRAINTS, folder.table, folder.table_csv, folder.table_json):
        if not path.is_file():
            raise ValueError(f"it is not whole: {path.name} is missing")
    if not folder.records.is_dir():
        raise ValueError("it is not whole: it holds no records")
    records = folder.read_records()
    check_manifest(folder, records)
    check_constraints(folder.path / CONSTRAINTS)
    for record in records:
        if folder.checkpoint(record.trial).is_file():
            check_tensors(folder.checkpoint(record.trial), record)
    now = rendered(folder, records, made)
    names = differing(folder, now)
    again = dict(redrawn(folder, now, names))
    environment = json.loads((folder.path / ENVIRONMENT).read_text(encoding="utf-8"))
    here = _environment(folder, records)
    own = {name: value for name, value in here.items() if name != "packed"}
    faults = [fault(folder.path / name) for name in names if name not in again]
    faults += strangers(folder, records)
    faults += [fault(folder.path / PER_IMAGE)] if _text_of(folder.path / PER_IMAGE) != per_image(records) else []
    faults += [fault(folder.path / ENVIRONMENT)] if {name: environment.get(name) for name in own} != own else []
    said = [UNFINISHED] if folder.ended is False else []
    if faults and environment.get("packed", {}) != here["packed"]:
        said.append(OTHER_CODE.format(then=_code(environment.get("packed", {})), now=_code(here["packed"])))
    return [*said, *((REDRAWN if made else REMOVED).format(name=name) for name, made in again.items())], faults


def _code(packed: Mapping[str, Any]) -> str:
    """What packs an archive, or has packed one, in words."""
    return f"version {packed.get('version', 'unknown')} (commit {str(packed.get('commit') or 'unknown')[:12]})"


def _text_of(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def records_of(place: Path) -> list[Record]:
    """The records of a launch: of its folder, of all launches in a results folder, or of what :func:`pack` wrote.

    Raises:
        ValueError: it is none of these, or a record cannot be read.
    """
    if not place.is_file():
        return [record for folder in launch_folders(place) for record in folder.read_records()]
    with tempfile.TemporaryDirectory() as unpacked:
        return LaunchFolder(unpack(place, Path(unpacked, "launch")).folder).read_records()


def _unpack(tar: Tar, folder: Path, file: Path) -> None:
    members, text_left = tar.members(), MOST_TEXT
    first = next(members, None)
    top, _, title = (first.name if first else "").partition("/")
    if first is None or title != SUMS or not is_plain(first):
        raise ValueError(f"{file} is not an archive of python -m bench pack: its first member is not {SUMS}")
    text = _text(tar, first, file)
    sums = _sums(text, file)
    (folder / SUMS).write_text(text, encoding="utf-8")
    for member in members:
        name = member.name.removeprefix(f"{top}/")
        if not is_plain(member) or member.name == name or name not in sums:
            raise ValueError(f"{file} holds {shown(member.name)}, which no archive holds")
        most = shutil.disk_usage(folder).free
        if not name.endswith(WEIGHTS):
            most = min(most, MOST, text_left)
            text_left -= member.size
        if _copied(tar, member, folder / name, file, most) != sums.pop(name):
            raise ValueError(f"{file} is damaged: {name} is not what {SUMS} says")
    if sums:
        raise ValueError(f"{file} is damaged: {min(sums)} is missing")


def _text(tar: Tar, member: tarfile.TarInfo, file: Path) -> str:
    if member.size > MOST:
        raise ValueError(f"{file}: {member.name} is larger than {MOST:,} bytes")
    try:
        return b"".join(tar.pieces(member)).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: {member.name} is no text in UTF-8") from None


def _sums(text: str, file: Path) -> dict[str, str]:
    """SHA-256 by name, of names that stay in the folder."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if not re.fullmatch("[0-9a-f]{64}", digest) or name in sums or not _may_be_held(name):
            raise ValueError(f"{file}: {SUMS} holds the line {shown(line)}, which no archive has")
        sums[name] = digest
    return sums


def _may_be_held(name: str) -> bool:
    """Whether an archive may hold a file of this name, which then lies in the folder it is unpacked to."""
    place, slash, title = name.rpartition("/")
    if not slash:
        folder = LaunchFolder(Path())
        return name in {*OWN, *(path.name for path in (folder.manifest, *folder.derived))} - {SUMS}
    suffix = {"records": ".json", "checkpoints": WEIGHTS}.get(place)
    if suffix is None or not title.endswith(suffix) or title.startswith("."):
        return False
    try:
        return bool(check_name(title.removesuffix(suffix)))
    except SpecError:
        return False


def _copied(tar: Tar, member: tarfile.TarInfo, path: Path, file: Path, most: int) -> str:
    """Write a member to a new file; returns its SHA-256."""
    path.parent.mkdir(exist_ok=True)
    if member.size > most:
        raise ValueError(f"{file}: {member.name} has {member.size:,} bytes, and may have {most:,}")
    digest = hashlib.sha256()
    with path.open("xb") as written:
        for piece in tar.pieces(member):
            digest.update(piece)
            written.write(piece)
    return digest.hexdigest()


def _check_format(folder: Path, file: Path) -> None:
    """Refuse an archive of a later version of this package."""
    try:
        environment = json.loads(read_text(folder / ENVIRONMENT, most=MOST))
        version, packed = environment["format"], environment.get("packed", {})
        if not isinstance(packed, dict):
            raise ValueError(f"packed is {shown(packed)} and no mapping")
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not an archive: {ENVIRONMENT} does not say its format ({error})") from None
    if version != FORMAT:
        raise ValueError(f"{file} has the format {shown(version)}, and this version reads {FORMAT}: use a newer one")
