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
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting import archive, leaderboard
from bench.reporting.rows import build

ROWS = {"full": (0.96, 0.6), "lora": (0.93, 0.85), "linear": (0.85, None)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, launch_of: Callable[..., list[Record]]) -> Path:
    """A small launch's folder, with tensors of one trial."""
    place = LaunchFolder(tmp_path_factory.mktemp("made"))
    records = launch_of(ROWS)
    for record in records:
        record.write(place.records)
    leaderboard.write(build(records), place)
    place.keep_tensors(records[0].trial, b"tensors")
    place.manifest.write_text('{"id": "x", "ended": true, "asked": {}}')
    (place.path / "index.html").write_text("<p>a page</p>")
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
    assert archive.differences(place, records) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=back.folder, check=True)


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
    assert back.checkpoint("full-confirm-seed0").read_bytes() == b"tensors"
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(ValueError, match=r"there are no trained tensors in .*: pack without --checkpoints"):
        archive.pack(folder, tmp_path / "c.tar.gz", checkpoints=True)


def test_a_table_that_its_records_do_not_give_is_not_packed(folder: LaunchFolder, tmp_path: Path) -> None:
    folder.table.write_text(folder.table.read_text().replace("9", "8", 1))
    with pytest.raises(ValueError, match=r"leaderboard\.md is not what the records say: run python -m bench leader"):
        archive.pack(folder, tmp_path / "a.tar.gz")
    folder.table.unlink()
    with pytest.raises(ValueError, match=r"leaderboard\.md is missing: run"):
        archive.pack(folder, tmp_path / "a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists()


def test_a_table_with_another_limit_of_forgetting_is_what_its_records_say(folder: LaunchFolder, tmp_path: Path) -> None:
    leaderboard.write(build(folder.read_records(), forgetting_limit=3.0), folder)
    back = archive.unpack(archive.pack(folder, tmp_path / "a.tar.gz").file, tmp_path / "b")
    assert archive.differences(LaunchFolder(back.folder), folder.read_records()) == []


def test_what_is_to_be_known_is_said(folder: LaunchFolder, tmp_path: Path) -> None:
    folder.manifest.write_text('{"id": "x", "ended": false, "asked": {}}')
    (one, *_) = folder.read_records()
    one.model_copy(update={"provenance": {"versions": {"numpy": "1.0"}, "dirty": True}}).write(folder.records)
    said = " ".join(archive.pack(folder, tmp_path / "a.tar.gz").said)
    assert "the launch has not ended" in said
    assert "the records were made with numpy 1.0, and" in said
    assert "changes that are in no commit" in said


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


@pytest.mark.parametrize("content", [b"{}", b"[", b'{"format": 2}', b'{"format": "\\u001b"}'])
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
