"""Archives of launches: equal launches give equal bytes, all of it is checked on the way back, nothing is let out."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bench import __main__
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting import archive, leaderboard
from bench.reporting.archive_checks import check_tensors, not_kept
from bench.reporting.rows import build

ROWS = {"full": (0.96, 0.6), "lora": (0.93, 0.85), "linear": (0.85, None)}
TENSORS = save({"head.weight": np.zeros((2, 3), np.float32)})
ASKED = {"study": {method: {"method": method, "trials": 12, "lag": 8} for method in ROWS}}


@pytest.fixture(scope="module", autouse=True)
def _drawn_at_once() -> Iterator[None]:
    """A picture takes a second; here its bytes are the numbers that it would show."""
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(leaderboard, "draw", lambda board, path: path.write_text(leaderboard.as_json(board)))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, launch_of: Callable[..., list[Record]]) -> Path:
    """A small launch's folder, with tensors of one trial."""
    place = LaunchFolder(tmp_path_factory.mktemp("made"))
    records = launch_of(ROWS)
    for record in records:
        record.write(place.records)
        place.keep_tensors(record.trial, TENSORS)
    place.manifest.write_text(json.dumps({"id": "x", "ended": True, "asked": ASKED}))
    leaderboard.write(build(records), place, records)
    (place.path / "logs").mkdir()
    (place.path / "logs" / "private.log").write_text("not for others")
    (place.path / "optuna.db").write_bytes(b"a database")
    return place.path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> LaunchFolder:
    """A copy of it."""
    return LaunchFolder(Path(shutil.copytree(made, tmp_path / "results" / "paper" / "tiny")))


def members(file: Path) -> list[str]:
    with tarfile.open(file) as tar:
        return [member.name for member in tar]


def test_an_archive_comes_back_and_says_the_same(folder: LaunchFolder, tmp_path: Path) -> None:
    packed = archive.pack(folder, tmp_path / "a.tar.gz")
    assert packed.digest == hashlib.sha256((tmp_path / "a.tar.gz").read_bytes()).hexdigest()
    held = ["SHA256SUMS", "constraints.txt", "environment.json", "index.html", "launch.json", "leaderboard.csv"]
    held += ["leaderboard.json", "leaderboard.md", "pareto.png", "per_image.csv"]
    held += sorted(f"records/{path.name}" for path in folder.records.iterdir())
    assert members(packed.file) == [f"paper-tiny/{name}" for name in held]
    back = archive.unpack(packed.file, tmp_path / "elsewhere")
    assert back.digest == packed.digest
    place = LaunchFolder(back.folder)
    records = place.read_records()
    assert records == folder.read_records()
    assert (back.said, back.faults) == ((), ())
    assert archive.differences(place, records) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=back.folder, check=True)
    place.page.write_text("forged")
    assert archive.differences(place, records) == [f"{place.page} is not what the records say"]


def test_equal_launches_give_equal_bytes(folder: LaunchFolder, tmp_path: Path) -> None:
    first = archive.pack(folder, tmp_path / "a.tar.gz")
    for path in folder.path.rglob("*"):
        path.touch()
    moved = LaunchFolder(Path(shutil.copytree(folder.path, tmp_path / "moved")))
    assert archive.pack(moved, tmp_path / "b.tar.gz").digest == first.digest
    back = archive.unpack(tmp_path / "a.tar.gz", tmp_path / "elsewhere")
    assert archive.pack(LaunchFolder(back.folder), tmp_path / "c.tar.gz").digest == first.digest


def test_it_says_which_images_were_right_and_what_computed_it(folder: LaunchFolder, tmp_path: Path) -> None:
    archive.pack(folder, tmp_path / "a.tar.gz")
    back = archive.unpack(tmp_path / "a.tar.gz", tmp_path / "b").folder
    lines = list(csv.DictReader(io.StringIO((back / "per_image.csv").read_text())))
    assert len(lines) == 3 * len(folder.read_records())
    for record in folder.read_records():
        (own,) = [one for one in lines if (one["trial"], one["domain"]) == (record.trial, "target")]
        assert 100 * own["right"].count("1") / int(own["n"]) == pytest.approx(record.scores["target_accuracy"])
    environment = json.loads((back / "environment.json").read_text())
    assert (environment["format"], environment["ended"], environment["trials"]) == (1, True, 9)
    assert environment["records"]["versions"] == {"python": ["3.11.9"]}
    assert (environment["records"]["commits"], environment["records"]["cpus"]) == ([], [])  # these records do not say
    assert "numpy==" in (back / "constraints.txt").read_text()


def test_tensors_go_into_it_if_wanted(folder: LaunchFolder, tmp_path: Path) -> None:
    packed = archive.pack(folder, tmp_path / "a.tar.gz", checkpoints=True)
    assert "paper-tiny/checkpoints/full-confirm-seed0.safetensors" in members(packed.file)
    back = LaunchFolder(archive.unpack(packed.file, tmp_path / "b").folder)
    assert back.checkpoint("full-confirm-seed0").read_bytes() == TENSORS
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(ValueError, match=r"there are no trained tensors in .*: pack without --checkpoints"):
        archive.pack(folder, tmp_path / "c.tar.gz", checkpoints=True)


def test_tensors_that_are_missing_or_cut_are_not_passed_over(
    folder: LaunchFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = archive.pack(folder, tmp_path / "whole.tar.gz", checkpoints=True).file
    lost = folder.checkpoint("lora-confirm-seed1")
    lost.write_bytes(TENSORS[:-1])
    with pytest.raises(ValueError, match=r"lora-confirm-seed1\.safetensors is damaged: "):
        archive.pack(folder, tmp_path / "a.tar.gz", checkpoints=True)
    lost.unlink()
    with pytest.raises(
        ValueError, match=r"^1 of 9 files of trained tensors are not in .* \(lora-confirm-seed1\): bring"
    ):
        archive.pack(folder, tmp_path / "a.tar.gz", checkpoints=True)
    name = f"checkpoints/{lost.name}"
    with pytest.raises(ValueError, match=rf"cut\.tar\.gz: {name} is damaged: "):
        archive.unpack(forged(whole, tmp_path / "cut.tar.gz", {name: TENSORS[:-1]}), tmp_path / "b")
    back = archive.unpack(forged(whole, tmp_path / "fewer.tar.gz", {name: None}), tmp_path / "b")
    assert not_kept(LaunchFolder(back.folder), folder.read_records()) == ["lora-confirm-seed1"]


def test_a_size_that_the_record_does_not_say_is_damage(record: Callable[..., Record], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(TENSORS)
    check_tensors(path, record(details={"checkpoint_bytes": len(TENSORS)}))
    with pytest.raises(ValueError, match="and its record says 7"):
        check_tensors(path, record(details={"checkpoint_bytes": 7}))


def test_models_that_an_archive_lacks_are_named_when_all_are_measured(
    folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = archive.pack(folder, tmp_path / "whole.tar.gz", checkpoints=True).file
    file = forged(whole, tmp_path / "a.tar.gz", {"checkpoints/lora-confirm-seed1.safetensors": None})
    monkeypatch.setattr(__main__, "_evaluate", lambda path, device: 0)
    assert __main__.main(["unpack", str(whole), "--out", str(tmp_path / "b"), "--evaluate"]) == 0
    assert __main__.main(["unpack", str(file), "--out", str(tmp_path / "c"), "--evaluate"]) == 1
    assert capsys.readouterr().err == f"error: {file} holds no trained tensors of lora-confirm-seed1\n"


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.csv", "leaderboard.json", "index.html", "pareto.png"])
def test_whatever_is_made_of_the_records_has_to_be_what_they_give(
    name: str, folder: LaunchFolder, tmp_path: Path
) -> None:
    content = bytearray((folder.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder.path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not what the records say: run python -m bench leader"):
        archive.pack(folder, tmp_path / "a.tar.gz")
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


@pytest.mark.parametrize("other", [True, False], ids=["other code", "this code"])
def test_what_other_code_has_packed_may_differ_for_that(
    other: bool, folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        if other:
            then.setattr(archive, "__version__", "0.0.9")
        packed = archive.pack(folder, tmp_path / "a.tar.gz")
    with monkeypatch.context() as now:
        now.setattr(archive, "differing", lambda folder, now: ["leaderboard.md"])
        found = archive.unpack(packed.file, tmp_path / "out")
    assert any("leaderboard.md is not what the records say" in fault for fault in found.faults)
    assert any("packed by version 0.0.9" in said for said in found.said) == other


def test_a_launch_that_is_running_is_not_packed(folder: LaunchFolder, tmp_path: Path) -> None:
    with folder.locked(), pytest.raises(ValueError, match="another launch is writing to"):
        archive.pack(folder, tmp_path / "a.tar.gz")


def test_what_is_written_while_it_is_packed_gives_no_damaged_archive(
    folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are copied before they are hashed; tensors, which are not, have to stay."""
    written = archive._write

    def write(place: Path, name: str, files: dict[str, Path]) -> None:
        folder.table.write_text("by another command")
        written(place, name, files)

    monkeypatch.setattr(archive, "_write", write)
    assert archive.unpack(archive.pack(folder, tmp_path / "a.tar.gz").file, tmp_path / "b").faults == ()
    monkeypatch.undo()
    leaderboard.write(build(folder.read_records()), folder, folder.read_records())
    added = archive._add

    def add(tar: tarfile.TarFile, name: str, content: io.BufferedReader, size: int) -> None:
        if name.endswith("full-confirm-seed0.safetensors"):
            folder.checkpoint("full-confirm-seed0").write_bytes(TENSORS[:-1] + b"x")
        added(tar, name, content, size)

    monkeypatch.setattr(archive, "_add", add)
    with pytest.raises(ValueError, match=r"full-confirm-seed0\.safetensors has changed while it was packed"):
        archive.pack(folder, tmp_path / "c.tar.gz", checkpoints=True)
    assert not (tmp_path / "c.tar.gz").exists()


@pytest.mark.parametrize("out", [".", "", "results"])
def test_a_folder_is_no_file_to_pack_into(
    out: str, folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--out \S+ is a folder: name a file, such as \S*paper-tiny\.tar\.gz$"):
        archive.pack(folder, Path(out))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that nobody can write to")
def test_a_place_that_takes_nothing_is_named(folder: LaunchFolder) -> None:
    with pytest.raises(ValueError, match=r"^/proc/a\.tar\.gz cannot be written: "):
        archive.pack(folder, Path("/proc/a.tar.gz"))


def test_a_distribution_without_a_name_is_left_out(
    folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip leaves them when it is cut: ``~orch-2.0.dist-info``."""
    (tmp_path / "site" / "~mpty-1.0.dist-info").mkdir(parents=True)
    for name in ("~orch-2.0", "nameless-1.0", "good-1.0"):
        place = tmp_path / "site" / f"{name}.dist-info"
        place.mkdir(parents=True)
        said = {"~orch-2.0": "Name: ~orch\nVersion: 2.0", "good-1.0": "Name: Good.One\nVersion: 1.0+cpu"}
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\n{said.get(name, 'Version: 1.0')}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    back = archive.unpack(archive.pack(folder, tmp_path / "a.tar.gz").file, tmp_path / "b")
    lines = (back.folder / "constraints.txt").read_text().splitlines()
    assert "good-one==1.0+cpu" in lines
    assert not [line for line in lines if "orch==2.0" in line or line.startswith(("none", "=="))]


def test_a_table_that_its_records_do_not_give_is_not_packed(folder: LaunchFolder, tmp_path: Path) -> None:
    folder.table.write_text(folder.table.read_text().replace("9", "8", 1))
    with pytest.raises(ValueError, match=r"leaderboard\.md is not what the records say: run python -m bench leader"):
        archive.pack(folder, tmp_path / "a.tar.gz")
    folder.table.unlink()
    with pytest.raises(ValueError, match=r"leaderboard\.md is missing: run"):
        archive.pack(folder, tmp_path / "a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists()


def test_a_table_with_another_limit_of_forgetting_is_what_its_records_say(folder: LaunchFolder, tmp_path: Path) -> None:
    records = folder.read_records()
    leaderboard.write(build(records, forgetting_limit=3.0), folder, records)
    assert archive.unpack(archive.pack(folder, tmp_path / "a.tar.gz").file, tmp_path / "b").faults == ()


def test_what_is_to_be_known_is_said(folder: LaunchFolder, tmp_path: Path) -> None:
    folder.manifest.write_text(json.dumps({"id": "x", "ended": False, "asked": ASKED}))
    (one, *_) = folder.read_records()
    one.model_copy(update={"provenance": {"versions": {"numpy": "1.0"}, "dirty": True}}).write(folder.records)
    (folder.path / "notes.md").write_text("mine")
    records = folder.read_records()
    leaderboard.write(build(records, ended=False), folder, records)
    said = " ".join(archive.pack(folder, tmp_path / "a.tar.gz").said)
    assert "the launch has not ended" in said
    assert "the records were made with numpy 1.0, and" in said
    assert "changes that are in no commit" in said
    assert "an archive holds what a launch has written, and not notes.md" in said
    assert archive.unpack(tmp_path / "a.tar.gz", tmp_path / "b").said == (archive.UNFINISHED,)


SUM = hashlib.sha256(b"x").hexdigest()


def crafted(path: Path, names: dict[str, bytes], *, sums: str | None = None, **kinds: bytes) -> Path:
    """An archive with some members, all of which its sums name unless others are given."""
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in names.items())
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {"SHA256SUMS": (lines if sums is None else sums).encode(), **names}.items():
            member = tarfile.TarInfo(name if name.startswith("/") else f"top/{name}")
            member.type = kinds.get("kind", tarfile.REGTYPE) if name != "SHA256SUMS" else tarfile.REGTYPE
            member.linkname, member.size = "/etc/passwd", len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "../out.json",
        "records/../../out.json",
        "/etc/out.json",
        "records/..json",
        "records/.hidden.json",
        "records/a/b.json",
        "records/a\\b.json",
        "records/a\x1b.json",
        "records/a.txt",
        "checkpoints/a.pt",
        "elsewhere/a.json",
        ".bashrc",
        "run.py",
        "notes.html",
        "picture.svg",
        "README.md",
        "SHA256SUMS",
        "records",
        "",
    ],
)
def test_a_name_that_no_archive_holds_is_refused(name: str, tmp_path: Path) -> None:
    file = crafted(tmp_path / "a.tar.gz", {name: b"x"})
    with pytest.raises(ValueError, match="which no archive ha"):
        archive.unpack(file, tmp_path / "out" / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar.gz", "out"] or not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_what_is_no_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    file = crafted(tmp_path / "a.tar.gz", {"records/a.json": b"x"}, kind=kind)
    with pytest.raises(ValueError, match=r"holds 'top/records/a\.json', which no archive holds"):
        archive.unpack(file, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def forged(file: Path, out: Path, changes: dict[str, bytes | None]) -> Path:
    """An archive with other contents, and with sums that fit."""
    with tarfile.open(file) as tar:
        held = {member.name.partition("/")[2]: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    held.pop("SHA256SUMS")
    return crafted(out, {name: content for name, content in {**held, **changes}.items() if content is not None})


@pytest.fixture(scope="module")
def packed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive.pack(LaunchFolder(made), tmp_path_factory.mktemp("packed") / "a.tar.gz").file


@pytest.mark.parametrize("name", ["index.html", "pareto.png"])
def test_what_a_browser_would_open_is_made_of_the_records(name: str, packed: Path, made: Path, tmp_path: Path) -> None:
    back = archive.unpack(forged(packed, tmp_path / "a.tar.gz", {name: b"<script>alert(1)</script>"}), tmp_path / "b")
    assert back.said == (f"{name} was not what the records give here, and has been made again from them",)
    assert b"alert(1)" not in (back.folder / name).read_bytes()
    whole = archive.unpack(packed, tmp_path / "c")
    assert (back.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    alone = archive.unpack(forged(packed, tmp_path / "d.tar.gz", {"curves.png": b"<svg>"}), tmp_path / "d")
    assert not (alone.folder / "curves.png").exists()
    assert alone.said == ("curves.png is nothing that the records give here, and has been removed",)


def test_tensors_of_no_confirmed_trial_are_named(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = forged(packed, tmp_path / "a.tar.gz", {"checkpoints/x.safetensors": b"x"})
    assert __main__.main(["unpack", str(file), "--out", str(tmp_path / "b")]) == 1
    place = tmp_path / "b" / "checkpoints" / "x.safetensors"
    assert capsys.readouterr().err == f"error: {place} is of no trial that was confirmed\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("leaderboard.md", b"# 99.9"),
        ("curves.csv", b"step\n"),
        ("per_image.csv", b"trial\n"),
        ("environment.json", b'{"format": 1, "trials": 9}'),
    ],
)
def test_a_table_that_the_records_do_not_give_is_named(
    name: str, content: bytes, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = forged(packed, tmp_path / "a.tar.gz", {name: content})
    assert __main__.main(["unpack", str(file), "--out", str(tmp_path / "b")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'b' / name} is not what the records say\n"


OTHER = json.dumps({"id": "x", "ended": True, "asked": {"study": {"l2_sp": {"method": "l2_sp"}}}}).encode()
LONGER = json.dumps({"id": "x", "ended": True, "asked": {"study": {"full": {"method": "full", "trials": 99}}}}).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"launch.json": b"not json"}, r"launch\.json is not what a launch writes"),
        ({"launch.json": b"[]"}, r"launch\.json is not what a launch writes"),
        ({"launch.json": OTHER}, r"launch\.json is not of the launch that full-confirm-seed0 is a record of"),
        ({"launch.json": LONGER}, r"launch\.json is not of the launch that full-confirm-seed0 is a record of"),
        ({"per_image.csv": None}, r"it is not whole: per_image\.csv is missing"),
        ({"leaderboard.md": None}, r"it is not whole: leaderboard\.md is missing"),
        ({"constraints.txt": b"--index-url http://elsewhere\n"}, "holds the line '--index-url http://elsewhere'"),
        ({"constraints.txt": b"torch @ http://elsewhere\n"}, "which names no version"),
        ({"records/full-confirm-seed0.json": b"{}"}, r"full-confirm-seed0\.json"),
        ({"records/copy.json": b"{}"}, r"copy\.json"),
        ({f"records/{method}-confirm-seed{seed}.json": None for method in ROWS for seed in range(3)}, "no records"),
    ],
)
def test_an_archive_that_is_not_that_of_a_launch_is_refused_and_leaves_nothing(
    changes: dict[str, bytes | None], said: str, packed: Path, tmp_path: Path
) -> None:
    file = forged(packed, tmp_path / "a.tar.gz", changes)
    with pytest.raises(ValueError, match=rf"^{file}: .*{said}") as refused:
        archive.unpack(file, tmp_path / "b")
    assert ".archive-" not in str(refused.value)
    assert "run a study" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "behind",
    [b"garbage", b"\0" * 4096, gzip.compress(b"", mtime=0), gzip.compress(b"\0" * 512, mtime=0), None],
    ids=["garbage", "zeros", "empty member", "member of zeros", "itself"],
)
def test_what_follows_an_archive_is_refused(behind: bytes | None, packed: Path, tmp_path: Path) -> None:
    """None: the archive once more."""
    file = tmp_path / "a.tar.gz"
    file.write_bytes(packed.read_bytes() + (packed.read_bytes() if behind is None else behind))
    with pytest.raises(ValueError, match=r"a\.tar\.gz is not an archive, or is damaged"):
        archive.unpack(file, tmp_path / "b")


def headed(kind: bytes, size: int, times: int = 1) -> bytes:
    """A member of such a kind and size, with content that compresses well, and one without that follows it."""
    first = tarfile.TarInfo("././@PaxHeader")
    first.type, first.size = kind, size
    block = first.tobuf(tarfile.GNU_FORMAT) + bytes(size + -size % 512)
    return block * times + tarfile.TarInfo("top/SHA256SUMS").tobuf() + bytes(10240)


@pytest.mark.parametrize("times", [1, 2000])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_of_a_small_file_take_no_memory(kind: bytes, times: int, tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(headed(kind, 16 * 2**20 // times, times), mtime=0))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.tar\.gz is not an archive"):
            archive.unpack(file, tmp_path / "b")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("sizes", ["1\n", "x\n", "100000000\n"])
def test_a_sparse_member_is_refused(sizes: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("top/SHA256SUMS")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"}
    content = sizes.encode() + bytes(2**20)
    member.size = len(content)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=r"a\.tar\.gz is not an archive"):
        archive.unpack(tmp_path / "a.tar.gz", tmp_path / "b")


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        (f"{'0' * 64}  records/a.json\n", r"is damaged: records/a\.json is not what SHA256SUMS says"),
        (f"{SUM}  records/a.json\n{SUM}  records/b.json\n", r"is damaged: records/b\.json is missing"),
        ("", r"holds 'top/records/a\.json', which no archive holds"),
        (f"{SUM}  records/a.json\n" * 2, "holds the line"),
        ("no sum  records/a.json\n", "holds the line"),
    ],
)
def test_bytes_that_are_not_what_the_sums_say_are_refused(sums: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        archive.unpack(crafted(tmp_path / "a.tar.gz", {"records/a.json": b"x"}, sums=sums), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"plain text", gzip.compress(b"no tar" * 1000, mtime=0), gzip.compress(b"\0" * 2048, mtime=0)],
    ids=["nothing", "text", "no tar", "an empty tar"],
)
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is not an archive"):
        archive.unpack(tmp_path / "a.tar.gz", tmp_path / "b")


def test_every_cut_and_every_flipped_byte_is_noticed(folder: LaunchFolder, tmp_path: Path) -> None:
    whole = archive.pack(folder, tmp_path / "a.tar.gz").file.read_bytes()
    broken = tmp_path / "broken.tar.gz"
    for place in range(100, len(whole) - 100, len(whole) // 7):
        flipped = bytes([*whole[:place], whole[place] ^ 0xFF, *whole[place + 1 :]])
        for content in (whole[:place], flipped):
            broken.write_bytes(content)
            with pytest.raises(ValueError, match=r"broken\.tar\.gz"):
                archive.unpack(broken, tmp_path / "b")
            assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "content", [b"{}", b"[", b"[]", b'{"format": 2}', b'{"format": "\\u001b"}', b'{"format": 1, "packed": "x"}']
)
def test_an_archive_of_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format"):
        archive.unpack(crafted(tmp_path / "a.tar.gz", {"environment.json": content}), tmp_path / "b")


def test_what_is_there_is_not_overwritten(folder: LaunchFolder, tmp_path: Path) -> None:
    file = archive.pack(folder, tmp_path / "a.tar.gz").file
    with pytest.raises(ValueError, match=r"a\.tar\.gz exists: choose another --out"):
        archive.pack(folder, file)
    (tmp_path / "b").mkdir()
    assert archive.unpack(file, tmp_path / "b").folder == tmp_path / "b"
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        archive.unpack(file, tmp_path / "b")


def test_the_commands_say_what_was_checked(
    folder: LaunchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert __main__.main(["pack", "results/paper/tiny"]) == 0
    assert "written to paper-tiny.tar.gz (" in capsys.readouterr().out
    assert __main__.main(["unpack", "paper-tiny.tar.gz"]) == 0
    assert "leaderboard: rebuilt from the records, the same byte for byte" in capsys.readouterr().out
    monkeypatch.setattr(leaderboard, "markdown", lambda board: "as another version has it")
    assert __main__.main(["unpack", "paper-tiny.tar.gz", "--out", "again"]) == 1
    assert capsys.readouterr().err == "error: again/leaderboard.md is not what the records say\n"
    assert __main__.main(["unpack", "paper-tiny.tar.gz", "--out", "once more", "--evaluate"]) == 2
    assert "holds no trained tensors to measure again" in capsys.readouterr().err
    assert __main__.main(["unpack", "nowhere.tar.gz"]) == 2
    assert capsys.readouterr().err == "error: there is no archive nowhere.tar.gz; python -m bench pack makes one\n"
