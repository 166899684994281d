"""The launch folder: where everything lies, one launch at a time, and earlier ones kept apart."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from bench.folder import LaunchFolder, trained
from bench.records import Record
from bench.spec import SpecError

Make = Callable[..., Record]

TABLES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "pareto.png", "index.html")


def test_a_suite_on_a_benchmark_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = LaunchFolder.of(tmp_path, "paper", "tiny")
    assert folder == LaunchFolder(tmp_path / "paper" / "tiny")
    assert list(tmp_path.iterdir()) == []  # to name a folder makes none


def test_everything_lies_below_the_folder() -> None:
    folder = LaunchFolder(Path("/results/paper/tiny"))
    assert folder.record("lora-search-03") == Path("/results/paper/tiny/records/lora-search-03.json")
    assert folder.checkpoint("x.1") == Path("/results/paper/tiny/checkpoints/x.1.safetensors")
    for one in (folder.record("x"), folder.checkpoint("x")):
        assert LaunchFolder.holding(one) == folder
    assert {folder.table, folder.table_csv, folder.table_json, folder.picture, folder.page} == {
        folder.path / name for name in TABLES
    }
    places = (folder.records, folder.checkpoints, folder.evaluation, folder.ray)
    assert {place.parent for place in places} == {folder.path}
    assert len(set(places)) == 4


def test_a_record_is_written_where_it_is_looked_for(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    assert record(trial="a.b").write(folder.records) == folder.record("a.b")


def test_records_are_read_by_file_name(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    for name in ("b", "a", "c"):
        record(trial=name).write(folder.records)
    (folder.records / ".a.json.x7").write_text("{")  # what a process that was killed leaves behind
    assert [found.trial for found in folder.read_records()] == ["a", "b", "c"]


def test_only_what_has_not_ended_keeps_its_snapshot(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    folder.remove_snapshots()  # there may be none
    folder.unfinished.mkdir()
    raised = {"status": "failed", "error": "x", "readings": (), "details": {"traceback": "..."}}
    for name, changes in {"ended": {}, "raised": raised}.items():
        record(trial=name, **changes).write(folder.records)
    for name in ("ended", "raised", "runs"):
        folder.snapshot(name).write_bytes(b"state")
    folder.remove_snapshots()
    assert {path.name for path in folder.unfinished.iterdir()} == {"raised.pt", "runs.pt"}


def test_an_empty_folder_has_no_records(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path)
    said = f"there are no records in {re.escape(str(folder.records))}; run a study first"
    with pytest.raises(ValueError, match=said):
        folder.read_records()
    folder.records.mkdir()
    with pytest.raises(ValueError, match=said):
        folder.read_records()


def test_one_unreadable_file_is_named(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    record().write(folder.records)
    folder.record("zz").write_text("{}")
    with pytest.raises(ValueError, match=r"zz\.json is not a record: "):
        folder.read_records()


def test_tensors_are_kept_beside_their_record(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    made = record(trial="a.b")
    made.write(folder.records)
    path = folder.keep_tensors("a.b", b"tensors")
    assert (path, path.read_bytes()) == (folder.checkpoint("a.b"), b"tensors")
    assert trained(path) == trained(folder.record("a.b")) == (made, path)


def test_what_was_not_kept_is_said(tmp_path: Path, searched: Make) -> None:
    folder = LaunchFolder(tmp_path)
    for path in (folder.record("x"), folder.checkpoint("x")):
        with pytest.raises(ValueError, match=f"there is no record {re.escape(str(folder.record('x')))}; "):
            trained(path)
    path = searched(trial="x").write(folder.records)
    with pytest.raises(
        ValueError, match=r"no checkpoint .*x\.safetensors for this record \(search, ok\): only confirmed"
    ):
        trained(path)


def test_a_folder_is_for_one_launch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.folder.LOCK_SECONDS", 0)
    folder, same = (LaunchFolder(tmp_path / "paper" / "tiny") for _ in range(2))
    said = f"another launch is writing to {re.escape(str(folder.path))}: wait until it has ended, or choose another"
    with folder.locked():
        with pytest.raises(SpecError, match=said), same.locked():
            pass
        with LaunchFolder(tmp_path / "paper" / "other").locked():
            pass
        with pytest.raises(SpecError, match=said), same.locked():  # the refusal has not opened it
            pass
    with same.locked():
        pass


def test_a_launch_that_fails_leaves_the_folder_to_the_next(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt), folder.locked():
        raise KeyboardInterrupt
    with folder.locked():
        pass


def fill(folder: LaunchFolder, made: Record) -> None:
    made.write(folder.records)
    folder.keep_tensors(made.trial, made.trial.encode())
    folder.evaluation.mkdir()
    for name in TABLES:
        (folder.path / name).write_text(name)


def test_an_earlier_launch_is_put_aside(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    log = folder.new_log()
    log.write_text("what Ray said")
    for name in ("first", "second"):
        fill(folder, record(trial=name))
        folder.optuna.write_text(name)
        with folder.locked():
            folder.put_aside()
        assert not folder.records.exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "logs", "previous"]
    first, second = sorted((tmp_path / "previous").iterdir())
    for place, name in ((first, "first"), (second, "second")):
        earlier = LaunchFolder(place)
        assert {path.name for path in place.iterdir()} == {"records", "checkpoints", "evaluation", "optuna.db", *TABLES}
        assert earlier.optuna.read_text() == name
        assert [made.trial for made in earlier.read_records()] == [name]
        assert earlier.checkpoint(name).read_bytes() == name.encode()
        assert abs(datetime.strptime(place.name, "%Y%m%d-%H%M%S-%f").timestamp() - place.stat().st_mtime) < 60
    assert log.read_text() == "what Ray said"  # logs are of all launches


def test_where_nothing_lies_nothing_is_put_aside(tmp_path: Path) -> None:
    LaunchFolder(tmp_path / "missing").put_aside()
    LaunchFolder(tmp_path).put_aside()
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_named_after_the_time(tmp_path: Path) -> None:
    log = LaunchFolder(tmp_path / "new").new_log()
    assert log.parent == tmp_path / "new" / "logs"
    assert log.parent.is_dir()
    assert abs(datetime.now() - datetime.strptime(log.name, "%Y%m%d-%H%M%S.log")).total_seconds() < 60


def test_a_copy_of_a_record_is_named(tmp_path: Path, record: Make) -> None:
    """It would count as one more seed."""
    folder = LaunchFolder(tmp_path)
    path = record().write(folder.records)
    copy = path.with_name("copy of it.json")
    copy.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=f"copy of it.json holds the record of {path.stem}: remove the file"):
        folder.read_records()


def test_a_full_disk_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LaunchFolder(tmp_path)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=f"No space left on device: .*{re.escape(str(folder.checkpoint('x')))}"):
        folder.keep_tensors("x", b"tensors")
    assert list(folder.checkpoints.iterdir()) == []


def test_what_a_killed_launch_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    folder = LaunchFolder(tmp_path)
    for place in (folder.records, folder.checkpoints):
        place.mkdir()
        (place / ".x.json.0123abcd").write_text("{")
        (place / "x").write_text("whole")
    with folder.locked():
        assert [[path.name for path in place.iterdir()] for place in (folder.records, folder.checkpoints)] == [
            ["x"]
        ] * 2
