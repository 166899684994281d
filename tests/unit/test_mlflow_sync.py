"""An MLflow store is brought up to date from records: whatever it lacks, once, and from wherever it is told to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bench.__main__ import main
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting import leaderboard, mlflow_sync
from bench.reporting.mlflow_content import source_tags
from bench.reporting.mlflow_store import default_uri
from bench.reporting.mlflow_tracker import open_tracker
from bench.reporting.rows import build
from tests.unit.conftest import First

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

ID = "5e3" * 10
COMMIT = "c0ffee" * 6 + "beef"
ASKED: dict[str, Any] = {
    "study": {
        "full": {"name": "full", "method": "full", "trials": 2, "search": {"lr": {"low": 0.01}}, "seeds": [0, 1]}
    },
    "benchmark": {
        "name": "tiny",
        "backbone": {"name": "tiny"},
        "source": {"name": "folder:/data/scribbles/"},
        "target": {"name": "digits"},
    },
}


@pytest.fixture
def folder(tmp_path: Path, first: First, paper_records: MakeAll, seen: Make) -> LaunchFolder:
    """What a finished launch of a few trials leaves, in a results folder whose store is empty."""
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(first.results / "mlflow.db", results / "mlflow.db")
    folder = LaunchFolder.of(results, "paper", "tiny")
    records = [seen(record) for record in paper_records(methods=["full"])]
    for record in records:
        record.write(folder.records)
    confirmed = next(record for record in records if record.phase == "confirm")
    folder.keep_tensors(confirmed.trial, b"tensors")
    leaderboard.write(build(records), folder)
    manifest(folder)
    return folder


def manifest(folder: LaunchFolder, *, ended: bool = True, **values: Any) -> None:
    folder.manifest.write_text(json.dumps({"id": ID, "ended": ended, "asked": ASKED, **values}))


def sync(folder: LaunchFolder, *more: str) -> int:
    return main(["sync", str(folder.path), *more])


def store(folder: LaunchFolder) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(mlflow_sync.store_of(folder))
    (experiment,) = [one for one in client.search_experiments() if one.name == "paper"]
    return client, list(client.search_runs([experiment.experiment_id]))


def everything(folder: LaunchFolder) -> dict[str, Any]:
    """All that a store holds of a launch: runs, curves and files."""
    client, runs = store(folder)
    return {
        run.info.run_id: (
            run.to_dictionary(),
            [client.get_metric_history(run.info.run_id, name) for name in sorted(run.data.metrics)],
            sorted((path, path.stat().st_mtime_ns) for path in files(run).rglob("*")),
        )
        for run in runs
    }


def by_trial(runs: list[Run]) -> dict[str, Run]:
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    named = {str(run.info.run_name): run for run in children}
    assert len(named) == len(children)
    return named


def test_all_of_a_launch_is_brought_and_a_second_time_changes_nothing(
    folder: LaunchFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(folder) == 0
    records = {record.trial: record for record in folder.read_records()}
    assert f"{len(records)} of {len(records)} trials were brought" in capsys.readouterr().out
    client, runs = store(folder)
    children = by_trial(runs)
    assert set(children) == set(records)
    for trial, run in children.items():
        assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "ok")
        assert run.data.params["method"] == "full"
        text = client.download_artifacts(run.info.run_id, "record.json")
        assert Record.model_validate_json(Path(text).read_text()) == records[trial]
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.info.status, parent.data.tags["launch"]) == ("FINISHED", ID)
    assert parent.data.params == {
        "backbone": "tiny",
        "source": "folder:/data/scribbles/",
        "target": "digits",
        "methods": "full",
        "searched": "lr",
        "search_trials": "2",
        "seeds": "0,1",
    }
    assert {one.path for one in client.list_artifacts(parent.info.run_id)} == {
        "configuration.yaml",
        "leaderboard.json",
        "leaderboard.md",
        "leaderboard.csv",
        "index.html",
        "pareto.png",
    }
    before = everything(folder)
    assert sync(folder) == 0
    assert "nothing was missing" in capsys.readouterr().out
    assert everything(folder) == before


def test_a_launch_that_has_left_no_page_yet_is_brought_and_its_page_when_there_is_one(folder: LaunchFolder) -> None:
    page = folder.page.read_bytes()
    folder.page.unlink()
    assert sync(folder) == 0
    client, runs = store(folder)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert "index.html" not in {one.path for one in client.list_artifacts(parent.info.run_id)}
    folder.page.write_bytes(page)
    assert sync(folder) == 0
    assert "index.html" in {one.path for one in client.list_artifacts(parent.info.run_id)}


def test_what_a_launch_has_written_itself_is_left_as_it_is(folder: LaunchFolder) -> None:
    tracker = open_tracker(
        mlflow_sync.store_of(folder),
        experiment="paper",
        run_name="paper on tiny",
        parameters={},
        tags={"benchmark": "tiny", "study": "paper", "launch": ID, **source_tags({"commit": COMMIT, "dirty": False})},
        folder=folder,
        asked={"benchmark": ASKED["benchmark"], "studies": ASKED["study"]},
    )
    records = folder.read_records()
    for record in records:
        checkpoint = folder.checkpoint(record.trial)
        tracker.trial_finished(record, checkpoint if checkpoint.is_file() else None)
    tracker.finish(folder, build(records), "FINISHED")
    tracker.close()
    assert tracker.problem is None
    before = everything(folder)
    assert sync(folder) == 0
    assert everything(folder) == before


def damage(client: MlflowClient, parent: Run, children: list[Run], kept: str) -> None:
    """Each kind once: what a writer that died leaves, what was removed by hand, and what is not the trial's."""
    running, deleted, other = children
    client.update_run(running.info.run_id, status="RUNNING")
    client.set_tag(running.info.run_id, "status", "running")
    (files(running) / "record.json").unlink()
    client.delete_run(deleted.info.run_id)
    client.log_metric(other.info.run_id, "train_seconds", 1e6, step=10_000)
    tags = {"mlflow.parentRunId": parent.info.run_id, "status": "running"}
    client.create_run(other.info.experiment_id, run_name=str(other.info.run_name), tags=tags)
    (files(running if running.info.run_name == kept else other) / "checkpoints" / f"{kept}.safetensors").unlink()
    client.update_run(parent.info.run_id, status="RUNNING")
    (files(parent) / "leaderboard.csv").unlink()


def files(run: Run) -> Path:
    return Path(str(run.info.artifact_uri).removeprefix("file://"))


def test_runs_that_are_written_in_part_are_completed(folder: LaunchFolder) -> None:
    assert sync(folder) == 0
    client, runs = store(folder)
    children = by_trial(runs)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    (kept,) = [path.stem for path in folder.checkpoints.iterdir()]
    damage(client, parent, sorted(children.values(), key=lambda run: run.info.run_name != kept), kept)
    assert sync(folder) == 0
    _, after = store(folder)
    assert {run.info.status for run in after} == {"FINISHED"}
    repaired = by_trial(after)
    assert set(repaired) == set(children)
    for record in folder.read_records():
        run = repaired[record.trial]
        assert run.data.tags["status"] == "ok"
        assert run.data.metrics["train_seconds"] == record.train_seconds
        held = {one.path for one in client.list_artifacts(run.info.run_id)}
        assert held == ({"record.json", "checkpoints"} if record.trial == kept else {"record.json"})
    assert (files(repaired[kept]) / "checkpoints" / f"{kept}.safetensors").read_bytes() == b"tensors"
    assert (files(parent) / "leaderboard.csv").is_file()
    before = everything(folder)
    assert sync(folder) == 0
    assert everything(folder) == before


def test_nothing_stays_running_of_a_launch_that_was_killed(folder: LaunchFolder) -> None:
    """It wrote no leaderboard, and was at two trials of which one has left a record."""
    for path in (folder.table, folder.table_csv, folder.picture):
        path.unlink()
    manifest(folder, ended=False)
    record = folder.read_records()[0]
    tracker = open_tracker(
        mlflow_sync.store_of(folder), experiment="paper", run_name="x", parameters={}, tags={"launch": ID}
    )
    for trial in (record.trial, "lost"):
        tracker.trial_started(trial, {}, {})
    while tracker._jobs.qsize() or tracker._writer is None:  # then its process dies
        pass
    assert sync(folder) == 0
    _, runs = store(folder)
    children = by_trial(runs)
    assert (children.pop("lost").info.status, len(children)) == ("KILLED", len(folder.read_records()))
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.info.status, parent.data.tags["status"]) == ("KILLED", "interrupted")


def test_another_store_gets_the_same_and_the_readings_on_the_way(
    folder: LaunchFolder, tmp_path: Path, first: First
) -> None:
    record = folder.read_records()[0]
    early = [one.model_copy(update={"step": 10, "split": "val"}) for one in record.readings if one.step > 0]
    record.model_copy(update={"readings": (*record.readings, *early)}).write(folder.records)
    shutil.copy(first.results / "mlflow.db", tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    assert sync(folder, "--tracking-uri", uri) == 0
    client = MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "paper"]
    run = by_trial(list(client.search_runs([experiment.experiment_id])))[record.trial]
    assert {point.step for point in client.get_metric_history(run.info.run_id, "val_mean")} >= {10}
    own = MlflowClient(mlflow_sync.store_of(folder))
    assert own.get_experiment_by_name("paper") is None


def test_a_results_folder_stands_for_all_of_its_launches(folder: LaunchFolder) -> None:
    results = folder.path.parent.parent
    shutil.copytree(folder.path, results / "paper" / "other")
    LaunchFolder(results / "paper" / "other").manifest.unlink()  # of an earlier version, which left none
    shutil.copytree(folder.records, results / "runs" / "1234" / "records")  # fetched, and no launch
    assert main(["sync", str(results)]) == 0
    _, runs = store(folder)
    assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 2
    before = everything(folder)
    assert main(["sync", str(results)]) == 0
    assert everything(folder) == before


@pytest.mark.parametrize("kind", ["missing", "empty", "no record", "manifest", "study", "locked", "store"])
def test_what_cannot_be_brought_is_said_in_a_sentence(
    folder: LaunchFolder, kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = {
        "missing": "there are no records in",
        "empty": "there are no records in",
        "no record": "is not a record",
        "manifest": "is not what a launch writes",
        "study": "is not what a launch writes",
        "locked": "another launch is writing to",
        "store": "is a file, but no SQLite database",
    }
    if kind in ("missing", "empty"):
        shutil.rmtree(folder.path if kind == "missing" else folder.records)
        assert sync(folder) == 2
    elif kind == "locked":
        with folder.locked():
            assert sync(folder) == 2
    else:
        if kind == "no record":
            (folder.records / "x.json").write_text("{}")
        elif kind == "store":
            (folder.path.parent.parent / "mlflow.db").write_text("text " * 10)
        else:
            text = "[" * 100_000 if kind == "manifest" else json.dumps({"id": ID, "asked": {"study": {"full": 1}}})
            folder.manifest.write_text(text)
        assert sync(folder) == 2
    error = capsys.readouterr().err
    assert said[kind] in error
    assert error.count("\n") == 1


def test_the_store_of_a_launch_is_that_of_its_results_folder(tmp_path: Path) -> None:
    place = LaunchFolder.of(tmp_path, "paper", "tiny")
    assert mlflow_sync.store_of(place) == default_uri(tmp_path)
    assert mlflow_sync.store_of(LaunchFolder(place.path / "previous" / "20260101")) == default_uri(tmp_path)
