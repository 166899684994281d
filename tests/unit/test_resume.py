"""Going on where a launch stopped: what counts, what is moved aside, and what is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.launching import preflight, resume
from bench.launching.changes import assignment
from bench.launching.launch import Launch
from bench.launching.request import Request
from bench.records import Record
from bench.resources import plan
from tests.contract.test_folders import classes

Make = Callable[..., Record]
ONE = plan(cores=1, gpus=0, workers=1, slots=1)


def launch(results: Path, *changes: str) -> Launch:
    said = [f"results={results}", *changes]
    return preflight.prepare(Request.of("linear", "tiny", map(assignment, said)))


def left(results: Path) -> list[str]:
    """Names of what earlier launches were moved to, and what lies there."""
    return sorted(path.name for path in results.glob("linear/tiny/previous/*/*"))


def test_a_launch_that_did_not_end_is_gone_on_with(tmp_path: Path, record: Make, searched: Make, failed: Make) -> None:
    asked = launch(tmp_path)
    first = resume.begin(asked, ONE)
    assert (first.known, first.said) == ({}, "")
    folder = asked.folder
    kept, not_kept = record(trial="full-confirm-seed0"), record(trial="full-confirm-seed1", seed=1)
    made = [
        searched(trial="full-search-00"),
        searched(trial="full-search-01", status="stopped", steps=40),
        failed(searched(trial="full-search-02"), error="training diverged: the loss is nan").model_copy(
            update={"details": {}}
        ),
        failed(searched(trial="full-search-03"), error="RuntimeError: its workers died 3 times").model_copy(
            update={"details": {"traceback": "..."}}
        ),
        kept,
        not_kept,
    ]
    for one in made:
        one.write(folder.records)
    folder.keep_tensors(kept.trial, b"tensors")
    (folder.records / "full-search-04.json").write_text("{")
    (folder.records / "copy.json").write_text(kept.model_dump_json())
    again = resume.begin(launch(tmp_path), ONE)
    assert again.id == first.id
    assert list(again.known) == ["full-confirm-seed0", "full-search-00", "full-search-01", "full-search-02"]
    assert again.known[kept.trial] == kept
    assert again.said == "continuing: 4 of 15 trials are there"
    assert left(tmp_path) == []


def test_a_launch_that_ended_is_moved_aside(tmp_path: Path, record: Make) -> None:
    asked = launch(tmp_path)
    first = resume.begin(asked, ONE)
    record().write(asked.folder.records)
    resume.end(asked, first)
    again = resume.begin(asked, ONE)
    assert again.id != first.id
    assert (again.known, again.said) == ({}, "")
    assert left(tmp_path) == ["launch.json", "records"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["trials=5"], "study.linear.trials was 12 and is 5"),
        (["search.lr.high=0.5"], "study.linear.search.lr.high was 10.0 and is 0.5"),
        (["seeds=[4]"], "study.linear.seeds was [0, 1, 2] and is [4]"),
        (["source.per_class=30"], "benchmark.source.per_class was None and is 30"),
    ],
)
def test_another_request_is_not_mixed_with_the_unfinished_one(
    tmp_path: Path, record: Make, changes: list[str], said: str
) -> None:
    asked = launch(tmp_path)
    first = resume.begin(asked, ONE)
    record().write(asked.folder.records)
    again = resume.begin(launch(tmp_path, *changes), ONE)
    assert again.known == {}
    assert again.id != first.id
    assert again.said.startswith(
        f"starting anew: {said}; the unfinished launch was moved to {asked.folder.path}/previous"
    )
    assert left(tmp_path) == ["launch.json", "records"]


@pytest.mark.parametrize("what", ["workers", "device", "versions", "code"])
def test_what_computes_otherwise_is_not_mixed(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resume.begin(launch(tmp_path), ONE)
    if what == "versions":
        monkeypatch.setattr(resume.metadata, "version", lambda name: "0.1")
    if what == "code":
        monkeypatch.setattr(resume, "_code", lambda: "other")
    said = resume.begin(
        launch(tmp_path), plan(cores=2, gpus=what == "device", workers=1 + (what == "workers"), slots=1)
    ).said
    expected = {
        "workers": "workers was 1 and is 2",
        "device": "device was 'cpu' and is 'cuda'",
        "versions": "versions.torch was ",
        "code": "the code has changed",
    }
    assert said.startswith(f"starting anew: {expected[what]}")


@pytest.mark.parametrize("what", ["a picture more", "a picture changed", "other weights"])
def test_other_files_are_not_mixed(tmp_path: Path, what: str) -> None:
    pictures = classes(tmp_path / "pictures")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    asked = launch(tmp_path / "r", f"target.name=folder:{pictures}")
    asked = dataclasses.replace(
        asked,
        benchmark=asked.benchmark.model_copy(
            update={"backbone": asked.benchmark.backbone.model_copy(update={"weights": str(weights)})}
        ),
    )
    first = resume.begin(asked, ONE)
    assert resume.begin(asked, ONE).id == first.id
    if what == "other weights":
        weights.write_bytes(b"22")
    elif what == "a picture more":
        (pictures / "cat" / "new.png").write_bytes(b"1")
    else:
        next(pictures.rglob("*.png")).write_bytes(b"1")
    said = "the file of weights has changed" if what == "other weights" else "files of the target have changed"
    assert resume.begin(asked, ONE).said.startswith(f"starting anew: {said}")


def test_where_it_runs_and_what_it_is_shown_with_changes_nothing(tmp_path: Path) -> None:
    first = resume.begin(launch(tmp_path), ONE)
    assert resume.begin(launch(tmp_path, "slots=1", f"tracking_uri=sqlite:///{tmp_path}/x.db"), ONE).id == first.id


def test_a_fresh_start_is_one(tmp_path: Path, record: Make) -> None:
    first = resume.begin(launch(tmp_path), ONE)
    record().write(launch(tmp_path).folder.records)
    again = resume.begin(launch(tmp_path, "fresh=true"), ONE)
    assert again.id != first.id
    assert again.known == {}
    assert left(tmp_path) == ["launch.json", "records"]


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"asked": 3, "id": "x", "ended": false}'])
def test_a_folder_that_says_nothing_of_itself_is_moved_aside(
    tmp_path: Path, record: Make, manifest: str | None
) -> None:
    folder = launch(tmp_path).folder
    record().write(folder.records)
    if manifest is not None:
        folder.manifest.write_text(manifest)
    assert resume.begin(launch(tmp_path), ONE).known == {}
    assert "records" in left(tmp_path)
    assert json.loads(folder.manifest.read_text())["ended"] is False


def test_every_file_of_code_that_computes_is_in_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reporting").mkdir()
    for name in ("trial.py", "reporting/rows.py"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(resume, "PACKAGE", tmp_path)
    digest = resume._code.__wrapped__
    before = digest()
    (tmp_path / "reporting/rows.py").write_text("2")
    assert digest() == before
    (tmp_path / "trial.py").write_text("2")
    assert digest() != before
