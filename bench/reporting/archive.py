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
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench import __version__
from bench.folder import WEIGHTS, LaunchFolder, launch_folders
from bench.records import MOST, Record, provenance
from bench.reporting import leaderboard
from bench.reporting.comparisons import FORGETTING_LIMIT
from bench.reporting.rows import build
from bench.spec import SpecError, shown
from bench.spec.text import check_name, read_text

FORMAT = 1
SUFFIX = ".tar.gz"
SUMS, PER_IMAGE, ENVIRONMENT, CONSTRAINTS = "SHA256SUMS", "per_image.csv", "environment.json", "constraints.txt"

SHOWN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.(md|csv|json|txt|png|svg|html)")
"""Files at the top of a launch folder that an archive holds: tables, pictures and pages."""

PIECE = 2**20

UNREADABLE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Archive:
    """An archive that was written or read: its file, the SHA-256 of it, and the folder that it was made of or became.

    ``said``: what is to be known of it, in sentences.
    """

    file: Path
    digest: str
    folder: Path
    said: tuple[str, ...] = ()


def pack(folder: LaunchFolder, out: Path | None = None, *, checkpoints: bool = False) -> Archive:
    """Write a launch into one file.

    Args:
        out: the file; ``<study>-<benchmark>.tar.gz`` in the current folder if None.
        checkpoints: whether trained tensors go into it.

    Raises:
        ValueError: there are no records, the tables are not what the records say, there are no tensors though they are
            wanted, or the file exists.
    """
    records = folder.read_records()
    if stale := differences(folder, records):
        raise ValueError(f"{stale[0]}: run python -m bench leaderboard {folder.path} first")
    name = f"{records[0].study}-{records[0].benchmark}"
    out = Path(f"{name}{SUFFIX}") if out is None else out
    if out.exists():
        raise ValueError(f"{out} exists: choose another --out, or remove it")
    files = dict(_of_folder(folder, records, checkpoints))
    made = {PER_IMAGE: per_image(records), CONSTRAINTS: _constraints()}
    made[ENVIRONMENT] = json.dumps(_environment(folder, records), indent=2, sort_keys=True) + "\n"
    with tempfile.TemporaryDirectory(dir=_existing(out.absolute().parent)) as place:
        for title, text in made.items():
            files[title] = Path(place, title)
            files[title].write_text(text, encoding="utf-8")
        written = Path(place, "archive")
        _write(written, name, files)
        digest = _digest(written)
        written.rename(out)
    return Archive(out, digest, folder.path, tuple(_remarks(folder, records)))


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to write to")
    return folder


def _of_folder(folder: LaunchFolder, records: Sequence[Record], checkpoints: bool) -> Iterator[tuple[str, Path]]:
    """Files of a launch folder that go into its archive, by their names there."""
    for path in sorted(folder.path.iterdir()):
        if path.is_file() and SHOWN.fullmatch(path.name) and path.name not in (PER_IMAGE, CONSTRAINTS, ENVIRONMENT):
            yield path.name, path
    yield from ((f"records/{record.trial}.json", folder.record(record.trial)) for record in records)
    if not checkpoints:
        return
    kept = [path for record in records if (path := folder.checkpoint(record.trial)).is_file()]
    if not kept:
        raise ValueError(f"there are no trained tensors in {folder.checkpoints}: pack without --checkpoints")
    yield from ((f"checkpoints/{path.name}", path) for path in kept)


def _write(archive: Path, name: str, files: Mapping[str, Path]) -> None:
    sums = "".join(f"{_digest(files[title])}  {title}\n" for title in sorted(files)).encode()
    with (
        archive.open("xb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        _add(tar, f"{name}/{SUMS}", io.BytesIO(sums), len(sums))
        for title in sorted(files):
            with files[title].open("rb") as file:
                _add(tar, f"{name}/{title}", file, files[title].stat().st_size)


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
    found = {_spelt(one): one.version for one in metadata.distributions()}
    lines = [f"{name}=={found[name]}\n" for name in sorted(found) if name != "vit-forgetting-bench"]
    return "".join(["# What was installed where the archive was made, as pip's --constraint takes it.\n", *lines])


def _spelt(distribution: metadata.Distribution) -> str:
    """A distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def _environment(folder: LaunchFolder, records: Sequence[Record]) -> dict[str, Any]:
    """What computed the records, and what wrote the archive."""
    here = provenance()
    return {
        "format": FORMAT,
        "study": records[0].study,
        "benchmark": records[0].benchmark,
        "trials": len(records),
        "ended": _ended(folder),
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


def _ended(folder: LaunchFolder) -> bool | None:
    """Whether the launch has ended; None if its folder does not say."""
    try:
        return bool(json.loads(folder.manifest.read_text(encoding="utf-8"))["ended"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remarks(folder: LaunchFolder, records: Sequence[Record]) -> Iterator[str]:
    if _ended(folder) is False:
        yield "the launch has not ended: what it has still to run is not in the archive"
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
    """Which tables of a launch folder are not, byte for byte, what its records give, in sentences."""
    board = build(records, forgetting_limit=_limit(folder))
    made = {
        folder.table: leaderboard.markdown(board),
        folder.table_csv: leaderboard.as_csv(board),
        folder.table_json: leaderboard.as_json(board),
    }
    extra = folder.path / PER_IMAGE
    if extra.is_file():
        made[extra] = per_image(records)
    return [
        f"{path} is missing" if not path.is_file() else f"{path} is not what the records say"
        for path, text in made.items()
        if not path.is_file() or path.read_bytes() != text.encode()
    ]


def _limit(folder: LaunchFolder) -> float:
    """The limit of forgetting that the tables were made with."""
    try:
        return float(json.loads(folder.table_json.read_text(encoding="utf-8"))["forgetting_limit"])
    except (OSError, ValueError, KeyError, TypeError):
        return FORGETTING_LIMIT


def unpack(file: Path, out: Path | None = None) -> Archive:
    """Unpack an archive into a new launch folder, checking every byte on the way.

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
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as place:
        inside = Path(place, "inside")
        inside.mkdir()
        try:
            with tarfile.open(file, "r:gz") as tar:
                _unpack(tar, inside, file)
        except UNREADABLE as error:
            raise ValueError(f"{file} is not an archive, or is damaged ({error})") from None
        _check_format(inside, file)
        if out.exists():
            out.rmdir()
        inside.rename(out)
    return Archive(file, _digest(file), out)


def records_of(place: Path) -> list[Record]:
    """The records of a launch: of its folder, of all launches in a results folder, or of what :func:`pack` wrote.

    Raises:
        ValueError: it is none of these, or a record cannot be read.
    """
    if not place.is_file():
        return [record for folder in launch_folders(place) for record in folder.read_records()]
    with tempfile.TemporaryDirectory() as unpacked:
        return LaunchFolder(unpack(place, Path(unpacked, "launch")).folder).read_records()


def _unpack(tar: tarfile.TarFile, folder: Path, file: Path) -> None:
    members = iter(tar)
    first = next(members, None)
    top, _, title = (first.name if first else "").partition("/")
    if first is None or title != SUMS or not first.isreg():
        raise ValueError(f"{file} is not an archive of python -m bench pack: its first member is not {SUMS}")
    text = _text(tar, first, file)
    sums = _sums(text, file)
    (folder / SUMS).write_text(text, encoding="utf-8")
    for member in members:
        name = member.name.removeprefix(f"{top}/")
        if not member.isreg() or member.name == name or name not in sums:
            raise ValueError(f"{file} holds {shown(member.name)}, which no archive holds")
        if _copied(tar, member, folder / name, file) != sums.pop(name):
            raise ValueError(f"{file} is damaged: {name} is not what {SUMS} says")
    if sums:
        raise ValueError(f"{file} is damaged: {min(sums)} is missing")


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> str:
    if member.size > MOST:
        raise ValueError(f"{file}: {member.name} is larger than {MOST:,} bytes")
    content = tar.extractfile(member)
    assert content is not None
    try:
        return content.read().decode()
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
        return bool(SHOWN.fullmatch(name))
    suffix = {"records": ".json", "checkpoints": WEIGHTS}.get(place)
    if suffix is None or not title.endswith(suffix) or title.startswith("."):
        return False
    try:
        return bool(check_name(title.removesuffix(suffix)))
    except SpecError:
        return False


def _copied(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, file: Path) -> str:
    """Write a member to a new file; returns its SHA-256."""
    path.parent.mkdir(exist_ok=True)
    most = shutil.disk_usage(path.parent).free
    if path.suffix != WEIGHTS:
        most = min(most, MOST)
    if member.size > most:
        raise ValueError(f"{file}: {member.name} has {member.size:,} bytes, and may have {most:,}")
    content, digest = tar.extractfile(member), hashlib.sha256()
    assert content is not None
    with path.open("xb") as written:
        while piece := content.read(PIECE):
            digest.update(piece)
            written.write(piece)
    return digest.hexdigest()


def _check_format(folder: Path, file: Path) -> None:
    """Refuse an archive of a later version of this package."""
    try:
        environment = json.loads(read_text(folder / ENVIRONMENT, most=MOST))
        version = environment["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not an archive: {ENVIRONMENT} does not say its format ({error})") from None
    if version != FORMAT:
        raise ValueError(f"{file} has the format {shown(version)}, and this version reads {FORMAT}: use a newer one")
