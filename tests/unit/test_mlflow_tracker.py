"""A launch in MLflow: a real store on SQLite holds what it did, gives it back, and never gets in its way."""

from __future__ import annotations

import json
import random
import shlex
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from bench.__main__ import main as bench
from bench.folder import LaunchFolder
from bench.readings import SCORES
from bench.records import Record
from bench.reporting import leaderboard, mlflow_runs, mlflow_tracker
from bench.reporting.mlflow_models import fetch
from bench.reporting.mlflow_runs import flatten
from bench.reporting.mlflow_store import default_uri
from bench.reporting.mlflow_tracker import Tracker, open_tracker
from bench.reporting.rows import Leaderboard, build
from tests.unit.conftest import First

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

PARAMETERS = {"benchmark": {"name": "tiny", "train": {"steps": 150, "lr": 0.05}}, "trials": 12, "seeds": [0, 1, 2]}
TRIAL = {"method": {"name": "lora", "rank": 8}, "train": {"lr": 0.079, "clip_norm": None}, "seed": 1}
TAGS = {"method": "lora", "benchmark": "tiny", "phase": "confirm"}


@pytest.fixture
def store(tmp_path: Path, first: First, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A results folder with a database; the current folder is another one, which must stay empty."""
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    results.mkdir()
    elsewhere.mkdir()
    shutil.copy(first.results / "mlflow.db", results)
    monkeypatch.chdir(elsewhere)
    yield results
    assert list(elsewhere.iterdir()) == []


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, paper_records: MakeAll) -> tuple[LaunchFolder, Leaderboard]:
    """A launch's folder with its leaderboard."""
    folder, board = LaunchFolder(tmp_path_factory.mktemp("study")), build(paper_records())
    leaderboard.write(board, folder)
    return folder, board


def opened(results: Path, *, experiment: str = "paper") -> Tracker:
    return open_tracker(
        default_uri(results),
        experiment=experiment,
        run_name="paper on tiny",
        parameters=PARAMETERS,
        tags={"benchmark": "tiny"},
    )


def runs(results: Path, *, experiment: str = "paper") -> tuple[Run, dict[str, Run]]:
    """The parent run, and the trials' runs by name."""
    client = MlflowClient(default_uri(results))
    held = client.get_experiment_by_name(experiment)
    assert held is not None
    found = client.search_runs([held.experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = client.search_runs([held.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(children) == len([run for run in found if "variant" not in run.data.tags]) - 1
    return parent, {str(run.info.run_name): run for run in children}


def artifact(run: Run, name: str) -> Path:
    return Path(str(run.info.artifact_uri).removeprefix("file://")) / name


STRANGE = ["lin (copy)", "r=4+x", "x,y", "a@b", "a_x40_b", "50%", "a#b?c", "..x", "<i>", "🎉", "a/../b", "(" * 200]


def test_a_study_may_be_called_what_mlflow_takes_in_no_key(store: Path) -> None:
    parameters = {name: {"method": name, "search": {"lr": {"low": 0.1}}} for name in STRANGE}
    tracker = open_tracker(
        default_uri(store), experiment="r=4+x", run_name="a#b?c", parameters=parameters, tags={"study": "50%"}
    )
    tracker.close()
    assert tracker.problem is None
    parent, _ = runs(store, experiment="r=4+x")
    assert parent.info.status == "KILLED"  # nobody has told of its end
    said = [value for key, value in parent.data.params.items() if value != "0.1"]
    assert sorted(said) == sorted(STRANGE)  # no two of them share a key
    assert parent.data.params["lin _x28_copy_x29_.method"] == "lin (copy)"
    client = MlflowClient(default_uri(store))
    client.log_text(parent.info.run_id, "content", "file.txt")
    assert artifact(parent, "file.txt").name in {one.path for one in client.list_artifacts(parent.info.run_id)}


def test_a_launch_is_a_parent_with_a_child_for_every_trial(
    store: Path,
    record: Make,
    failed: Make,
    shown: tuple[LaunchFolder, Leaderboard],
) -> None:
    folder, board = shown
    records = {
        "a": record(trial="a"),
        "b": failed(record(trial="b"), error="ValueError: " + "x" * 1000),
        "c": record(trial="c", status="stopped", steps=40),
    }
    tracker = opened(store)
    for name in records:
        tracker.trial_started(name, TRIAL, TAGS)
        for step in (10, 20, 30):
            tracker.trial_reported(name, {"train_loss": 1 / step, "lr": 0.1}, step)
    for made in records.values():
        tracker.trial_finished(made)
    tracker.finish(folder, board, "FINISHED")
    tracker.close()
    assert tracker.problem is None

    parent, children = runs(store)
    assert parent.info.run_name == "paper on tiny"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {
        "benchmark.name": "tiny",
        "benchmark.train.steps": "150",
        "benchmark.train.lr": "0.05",
        "trials": "12",
        "seeds": "[0, 1, 2]",
    }
    assert parent.data.tags["benchmark"] == "tiny"
    assert parent.data.tags["status"] == "ok"
    assert parent.data.tags["best"] == "block_expansion p=4"
    assert parent.data.metrics["best_mean"] == pytest.approx(91.6)

    assert {name: run.info.status for name, run in children.items()} == {"a": "FINISHED", "b": "FAILED", "c": "KILLED"}
    assert {name: run.data.tags["status"] for name, run in children.items()} == {
        "a": "ok",
        "b": "failed",
        "c": "stopped",
    }
    client = MlflowClient(default_uri(store))
    for name, run in children.items():
        assert run.data.params == {
            "method.name": "lora",
            "method.rank": "8",
            "train.lr": "0.079",
            "train.clip_norm": "None",
            "seed": "1",
        }
        assert {tag: run.data.tags[tag] for tag in TAGS} == TAGS
        curve = client.get_metric_history(run.info.run_id, "train_loss")
        assert [(point.step, point.value) for point in curve] == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
        assert Record.model_validate_json(artifact(run, "record.json").read_text()) == records[name]
        assert run.info.end_time is not None
    for score in SCORES:
        assert children["a"].data.metrics[score] == pytest.approx(records["a"].scores[score])
        assert score not in children["b"].data.metrics
    (final,) = client.get_metric_history(children["c"].info.run_id, "mean")
    assert final.step == 40
    assert children["a"].data.metrics["trainable_parameters"] == 614_090
    assert children["b"].data.tags["error"].startswith("ValueError: xxx")

    for path in (folder.table, folder.table_csv, folder.picture):
        assert artifact(parent, path.name).read_bytes() == path.read_bytes()
    assert artifact(parent, "pareto.png").is_relative_to(store / "mlartifacts")

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(default_uri(store))  # the client asks for runs where the process is set to
    table = mlflow.MlflowClient().load_table(parent.info.experiment_id, "leaderboard.json", [parent.info.run_id])
    mlflow.set_tracking_uri(before)
    assert list(table["row"]) == [row.label for row in board.rows]
    assert list(table["mean"]) == pytest.approx([row.mean.mean for row in board.rows if row.mean])
    deviations = [row.target_accuracy.std for row in board.rows if row.target_accuracy]
    assert list(table["target_accuracy_std"]) == pytest.approx(deviations)
    assert list(table["trainable_parameters"]) == [row.trainable_parameters for row in board.rows]
    assert list(table["pareto"]) == [row.pareto for row in board.rows]
    assert [json.loads(text) for text in table["hyperparameters"]] == [row.hyperparameters for row in board.rows]


def test_two_launches_of_a_study_share_its_experiment(store: Path) -> None:
    for _ in range(2):
        tracker = opened(store)
        tracker.finish(LaunchFolder(store), None, "FAILED")
        tracker.close()
        tracker.close()  # twice does no harm
        assert tracker.problem is None
    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name("paper")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FAILED", "FAILED"]
    assert {run.data.tags["status"] for run in found} == {"failed"}


def test_an_interrupted_launch_leaves_no_open_run(store: Path, record: Make) -> None:
    tracker = opened(store)
    for name in ("done", "running", "fresh"):
        tracker.trial_started(name, TRIAL, TAGS)
    tracker.trial_reported("running", {"train_loss": 0.5}, 10)
    tracker.trial_finished(record(trial="done"))
    tracker.close()
    assert tracker.problem is None
    parent, children = runs(store)
    assert (parent.info.status, parent.data.tags["status"]) == ("KILLED", "interrupted")
    assert {name: run.info.status for name, run in children.items()} == {
        "done": "FINISHED",
        "running": "KILLED",
        "fresh": "KILLED",
    }
    assert children["running"].data.tags["status"] == "interrupted"
    assert children["running"].data.metrics["train_loss"] == 0.5


def test_a_launch_that_is_gone_on_with_has_one_run_and_each_trial_once(store: Path, record: Make, failed: Make) -> None:
    """Whatever the first try left: one that ended, one that failed and is tried again, one that ran, one unwritten."""

    def again() -> Tracker:
        tags = {"benchmark": "tiny", "launch": "1234"}
        uri = default_uri(store)
        return open_tracker(uri, experiment="paper", run_name="paper on tiny", parameters=PARAMETERS, tags=tags)

    first = again()
    for name in ("ended", "failed", "ran"):
        first.trial_started(name, TRIAL, TAGS)
    first.trial_finished(record(trial="ended"))
    first.trial_finished(failed(record(trial="failed")))
    first.close()
    before, old = runs(store)
    assert {name: run.data.tags["status"] for name, run in old.items()} == {
        "ended": "ok",
        "failed": "failed",
        "ran": "interrupted",
    }
    second = again()
    for name in ("ended", "lost"):
        second.trial_known(record(trial=name))
    for name in ("failed", "ran"):
        second.trial_started(name, TRIAL, TAGS)
        second.trial_finished(record(trial=name))
    second.finish(LaunchFolder(store), None, "FINISHED")
    second.close()
    assert second.problem is None
    parent, children = runs(store)
    assert (parent.info.run_id, parent.info.status, parent.data.tags["status"]) == (
        before.info.run_id,
        "FINISHED",
        "ok",
    )
    assert {name: run.data.tags["status"] for name, run in children.items()} == dict.fromkeys(
        ("ended", "failed", "ran", "lost"), "ok"
    )
    assert children["ended"].info.run_id == old["ended"].info.run_id


def test_a_launch_in_the_folder_of_one_that_was_killed_ends_its_runs(store: Path) -> None:
    """It started anew; a launch that runs in another folder stays as it is."""

    def of(folder: str) -> Tracker:
        place = LaunchFolder(store / folder)
        return open_tracker(
            default_uri(store), experiment="paper", run_name=folder, parameters={}, tags={}, folder=place
        )

    killed, other = of("a"), of("b")
    for tracker in (killed, other):
        tracker.trial_started("t", TRIAL, TAGS)
        drain(tracker)
    new = of("a")
    new.trial_started("t", TRIAL, TAGS)
    drain(new)
    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name("paper")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parents = {run.info.run_id: run for run in found if "mlflow.parentRunId" not in run.data.tags}
    ended = [
        parents[run.data.tags["mlflow.parentRunId"]]
        for run in found
        if run.data.tags["status"] == "interrupted" and "mlflow.parentRunId" in run.data.tags
    ]
    assert [(run.info.run_name, run.info.status) for run in ended] == [("a", "KILLED")]
    assert sorted(run.info.run_name for run in parents.values() if run.info.status == "RUNNING") == ["a", "b"]
    for tracker in (other, new):
        tracker.close()


BUSY = MlflowException("the database is locked", error_code=TEMPORARILY_UNAVAILABLE)

CALLS = (
    "create_run", "delete_run", "log_batch", "search_runs", "set_tag", "set_terminated", "update_run", "log_inputs",
    "create_logged_model", "search_logged_models", "delete_logged_model", "log_outputs", "finalize_logged_model",
    "get_experiment", "set_experiment_tag", "get_run",
)  # fmt: skip


def test_whatever_a_store_refuses_for_a_while_arrives_once(
    store: Path,
    record: Make,
    failed: Make,
    seen: Make,
    shown: tuple[LaunchFolder, Leaderboard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sixth of all calls fails, half of these after they have done what they should: the answer got lost."""
    chance = random.Random(0)

    def shaky(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            lot = chance.random()
            if lot < 1 / 12:
                raise BUSY
            answer = call(*given, **named)
            if lot < 1 / 6:
                raise BUSY
            return answer

        return called

    for name in CALLS:
        monkeypatch.setattr(MlflowClient, name, shaky(getattr(MlflowClient, name)))
    monkeypatch.setattr(LocalArtifactRepository, "log_artifact", shaky(LocalArtifactRepository.log_artifact))
    monkeypatch.setattr(mlflow_tracker, "PAUSES", (0.0,))
    monkeypatch.setattr(mlflow_tracker, "PATIENCE_SECONDS", 120.0)
    (store / "a.safetensors").write_bytes(b"tensors")
    tracker = opened(store)
    for name in "abc":
        tracker.trial_started(name, TRIAL, TAGS)
        tracker.trial_reported(name, {"train_loss": 0.5, "lr": 0.1}, 10)
    variants = {"half": (80.0, 85.0), "most": (90.0, 82.0)}
    tracker.trial_finished(seen(record(trial="a", variants=variants)), store / "a.safetensors")
    tracker.trial_finished(failed(record(trial="b")))
    tracker.trial_finished(record(trial="early", status="stopped"))
    tracker.finish(*shown, "FINISHED")
    tracker.close()
    assert tracker.problem is None
    monkeypatch.undo()
    parent, children = runs(store)
    assert parent.info.status == "FINISHED"
    assert {name: run.info.status for name, run in children.items()} == {
        "a": "FINISHED",
        "b": "FAILED",
        "c": "KILLED",
        "early": "KILLED",
    }
    client = MlflowClient(default_uri(store))
    for name in "abc":
        curve = client.get_metric_history(children[name].info.run_id, "train_loss")
        assert [(point.step, point.value) for point in curve] == [(10, 0.5)]
        assert children[name].data.params["method.rank"] == "8"
    assert artifact(children["a"], "checkpoints/a.safetensors").read_bytes() == b"tensors"
    table = json.loads(artifact(parent, "leaderboard.json").read_text())
    assert len(table["data"]) == len(shown[1].rows)
    trained = children["a"].info.run_id
    inner = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{trained}'")
    assert sorted((run.info.run_name, run.info.status) for run in inner) == [
        ("a half", "FINISHED"),
        ("a most", "FINISHED"),
    ]
    models = client.search_logged_models([parent.info.experiment_id])
    assert sorted(str(model.source_run_id) for model in models) == sorted([trained, *(r.info.run_id for r in inner)])
    for model in models:
        assert str(model.status) == "READY"
        assert sorted(one.key for one in model.metrics or []) == sorted(SCORES)
    for name in (trained, *(run.info.run_id for run in inner)):
        assert len(client.get_run(name).outputs.model_outputs) == 1
        assert len(client.get_run(name).inputs.dataset_inputs) == 2
    assert len(parent.inputs.dataset_inputs) == 2


def test_what_a_busy_store_is_asked_does_not_grow_with_the_launch(
    store: Path, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try again looks up the trial at hand; the look at the end goes through all runs in small portions."""
    monkeypatch.setattr(mlflow_tracker, "PAUSES", (0.0,))
    monkeypatch.setattr(mlflow_runs, "PAGE", 5)
    tracker = opened(store)
    for number in range(12):
        tracker.trial_finished(record(trial=f"t{number}"))
    drain(tracker)
    portions: list[list[str]] = []
    search, create = MlflowClient.search_runs, MlflowClient.create_run
    lost = iter(range(3))

    def seen(*given: Any, **named: Any) -> Any:
        found = search(*given, **named)
        portions.append([str(run.info.run_name) for run in found])
        return found

    def answer_lost(*given: Any, **named: Any) -> Any:
        made = create(*given, **named)
        if next(lost, None) is not None:
            raise BUSY
        return made

    monkeypatch.setattr(MlflowClient, "search_runs", seen)
    monkeypatch.setattr(MlflowClient, "create_run", answer_lost)
    for name in ("it's", "last"):
        tracker.trial_started(name, TRIAL, TAGS)
        drain(tracker)
    assert {name for portion in portions for name in portion} == {"it's", "last"}
    portions.clear()
    tracker.close()
    assert tracker.problem is None
    assert max(map(len, portions)) == 5
    monkeypatch.undo()
    assert len(runs(store)[1]) == 14  # nothing was made twice


def test_a_store_that_stays_away_holds_up_nothing_and_gets_the_rest_later(
    store: Path, paper_records: MakeAll, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line that is said at the end names the command that brings what is missing."""
    folder = LaunchFolder(store / "a study" / "tiny")
    for made in paper_records(methods=["full"]):
        made.write(folder.records)
    folder.manifest.write_text(json.dumps({"id": "1f", "ended": True, "asked": {"study": {}, "benchmark": {}}}))
    records = folder.read_records()
    tracker = open_tracker(
        default_uri(store), experiment="paper", run_name="x", parameters={}, tags={"launch": "1f"}, folder=folder
    )
    tracker.trial_finished(records[0])
    drain(tracker)

    def away(*_: Any, **__: Any) -> None:
        raise BUSY

    with monkeypatch.context() as outage:
        outage.setattr(mlflow_tracker, "PATIENCE_SECONDS", 1.0)
        for name in CALLS:
            outage.setattr(MlflowClient, name, away)
        for made in records[1:]:
            tracker.trial_finished(made)
        tracker.finish(folder, None, "FAILED")
        began = time.monotonic()
        tracker.close()
        assert time.monotonic() - began < 5
        assert tracker.problem is not None
        tracker._thread.join(20)
        assert not tracker._thread.is_alive()
    missing = len(records) - 1
    assert tracker.problem.startswith(f"{missing} of {len(records)} trials did not arrive at sqlite:///")
    assert "(MlflowException: the database is locked)" in tracker.problem
    command = shlex.split(tracker.problem.partition("python -m bench ")[2])
    assert bench(command) == 0
    assert f"{missing} of {len(records)} trials were brought" in capsys.readouterr().out
    parent, children = runs(store)
    assert parent.info.status == "FAILED"
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert len(children) == len(records)


def test_what_cannot_be_written_holds_up_nothing_else(store: Path, record: Make, tmp_path: Path) -> None:
    """A file that is missing is no outage; it is tried again at the end, when the file may be there."""
    tracker = opened(store)
    tracker.trial_finished(record(trial="a"), tmp_path / "a.safetensors")
    tracker.trial_finished(record(trial="b"))
    drain(tracker)
    (tmp_path / "a.safetensors").write_bytes(b"late")
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    assert {run.data.tags["status"] for run in children.values()} == {"ok"}


def test_a_trial_that_starts_again_goes_on_in_its_run(store: Path, record: Make) -> None:
    tracker = opened(store)
    tracker.trial_started("a", TRIAL, TAGS)
    tracker.trial_reported("a", {"train_loss": 0.5}, 10)
    tracker.trial_started("a", TRIAL, TAGS)
    tracker.trial_reported("a", {"train_loss": 0.4}, 20)
    tracker.trial_finished(record(trial="a"))
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    curve = MlflowClient(default_uri(store)).get_metric_history(children["a"].info.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(10, 0.5), (20, 0.4)]


@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_trial_tells_again_is_in_its_curves_once(store: Path, record: Make, goes_on: bool) -> None:
    """It goes on from a snapshot, and says the same again; or it begins anew, and its numbers are other ones."""
    tracker, name, client = opened(store), "train_loss", MlflowClient(default_uri(store))
    shift = 0.0 if goes_on else 0.01
    tracker.trial_started("a", TRIAL, TAGS)
    for step in (10, 20, 30):
        tracker.trial_reported("a", {name: 1 / step, "lr": float("nan")}, step)
    tracker._jobs.put(lambda writer: writer.flush())
    drain(tracker)
    _, before = runs(store)
    time.sleep(0.01)  # what is told again has another time
    tracker.trial_started("a", TRIAL, TAGS)
    for step in (10, 20, 30, 40):
        tracker.trial_reported("a", {name: 1 / step + (step > 10) * shift, "lr": float("nan")}, step)
    tracker.trial_finished(record(trial="a"))
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    assert (children["a"].info.run_id == before["a"].info.run_id) is goes_on
    curve = client.get_metric_history(children["a"].info.run_id, name)
    assert [(point.step, point.value) for point in curve] == [
        (step, 1 / step + (step > 10) * shift) for step in (10, 20, 30, 40)
    ]
    assert len(client.get_metric_history(children["a"].info.run_id, "lr")) == 4


def refused_once(call: Callable[..., Any], wanted: Callable[[dict[str, Any]], bool]) -> Callable[..., Any]:
    """A call that is refused the first time, as by a server at which a token is being renewed: no outage."""
    refused: list[bool] = []

    def called(*given: Any, **named: Any) -> Any:
        if wanted(named) and not refused:
            refused.append(True)
            raise MlflowException("403")
        return call(*given, **named)

    return called


@pytest.mark.parametrize("call", ["create_run", "delete_run", "log_batch", "search_runs", "set_tag", "set_terminated"])
@pytest.mark.parametrize("earlier", [True, False])
def test_what_was_refused_once_replaces_nothing_that_arrived(
    store: Path, record: Make, failed: Make, monkeypatch: pytest.MonkeyPatch, call: str, earlier: bool
) -> None:
    """The trial's run is made all the same, in place of that of an earlier try, and stays when all is done again."""

    def again() -> Tracker:
        tags = {"benchmark": "tiny", "launch": "1234"}
        return open_tracker(default_uri(store), experiment="paper", run_name="x", parameters={}, tags=tags)

    if earlier:
        tracker = again()
        tracker.trial_started("a", TRIAL, TAGS)
        tracker.trial_reported("a", {"train_loss": 9.0}, 10)
        tracker.trial_finished(failed(record(trial="a"), error="ValueError: x"))
        tracker.close()
    monkeypatch.setattr(
        MlflowClient, call, refused_once(getattr(MlflowClient, call), lambda named: named.get("run_name") != "x")
    )
    tracker = again()
    tracker.trial_started("a", TRIAL, TAGS)
    tracker.trial_reported("a", {"train_loss": 0.5}, 10)
    tracker.trial_finished(record(trial="a"))
    tracker.finish(LaunchFolder(store), None, "FINISHED")
    tracker.close()
    assert tracker.problem is None
    parent, children = runs(store)
    assert parent.info.status == "FINISHED"
    assert {name: run.data.tags["status"] for name, run in children.items()} == {"a": "ok"}
    assert "error" not in children["a"].data.tags
    curve = MlflowClient(default_uri(store)).get_metric_history(children["a"].info.run_id, "train_loss")
    assert [(point.step, point.value) for point in curve] == [(10, 0.5)]


def test_a_short_trial_takes_four_requests_and_its_record(
    store: Path, searched: Make, seen: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs the store some ten milliseconds, and there may be a thousand trials."""
    made = seen(searched(trial="a"))
    tracker = opened(store)
    tracker.trial_finished(searched(trial="before"))
    drain(tracker)
    called, steps = list[str](), list[int]()

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any, **named: Any) -> Any:
            called.append(name)
            steps.extend(point.step for point in named.get("metrics", ()))
            return call(*given, **named)

        return noting

    public = [name for name in dir(MlflowClient) if not name.startswith("_") and callable(getattr(MlflowClient, name))]
    for name in public:
        monkeypatch.setattr(MlflowClient, name, noted(name, getattr(MlflowClient, name)))
    monkeypatch.setattr(mlflow_tracker, "BATCH_SECONDS", 60.0)
    assert tracker._writer is not None
    tracker._writer.flush()
    called.clear()
    tracker.trial_started("a", TRIAL, TAGS)
    for step in range(10, 160, 10):
        tracker.trial_reported("a", {"train_loss": 1 / step, "lr": 0.1}, step)
    tracker.trial_finished(made)
    drain(tracker)
    assert called == ["create_run", "log_batch", "log_inputs", "set_terminated"]
    assert steps == sorted(steps, reverse=True)  # what is replaced by no later point is written once
    tracker.close()
    run = runs(store)[1]["a"]
    assert run.data.params["method.rank"] == "8"
    assert run.data.tags["status"] == "ok"
    assert len(MlflowClient(default_uri(store)).get_metric_history(run.info.run_id, "train_loss")) == 15
    assert Record.model_validate_json(artifact(run, "record.json").read_text()) == made


def test_curves_of_many_trials_leave_most_of_the_time_to_what_begins_and_ends(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty trials that report every second take seconds to be written: longer than the second that a point waits."""
    tracker = opened(store)
    for name in ("a", "b"):
        tracker.trial_started(name, TRIAL, TAGS)
    drain(tracker)
    writer = tracker._writer
    assert writer is not None
    clock = [1000.0]

    def takes_three_seconds(*given: Any, **named: Any) -> None:
        clock[0] += 3.0

    monkeypatch.setattr(mlflow_tracker, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    monkeypatch.setattr(writer.runs, "log", takes_three_seconds)
    writer._flush_at = 0.0
    written = 0.0
    for step in range(1, 5000):
        clock[0] += 1.0
        before = clock[0]
        for name in ("a", "b"):
            writer.report(name, [("train_loss", 1 / step, 0, step)])
        written += clock[0] - before
    share = written / (clock[0] - 1000.0)
    assert 0.8 < share / mlflow_tracker.FLUSH_SHARE < 1.1  # the first one has no pause before it
    monkeypatch.undo()
    tracker.close()


@pytest.mark.parametrize("asked", [True, False])
def test_system_metrics_are_on_the_launchs_run_if_mlflows_switch_asks_for_them(
    store: Path, record: Make, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """In the writer's thread, as everything else, and of one machine: the driver's."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", str(asked).lower())
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    threads = {thread.name for thread in threading.enumerate()}
    tracker = opened(store)
    for name in ("a", "b"):
        tracker.trial_finished(record(trial=name))
        tracker._jobs.put(lambda writer: writer.flush())
        tracker._jobs.put(lambda writer: time.sleep(0.1))
    drain(tracker)
    assert {thread.name for thread in threading.enumerate()} - threads <= {"mlflow"}
    tracker.close()
    assert tracker.problem is None
    parent, children = runs(store)
    found = {name for name in parent.data.metrics if name.startswith("system/")}
    assert ({"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found) is asked
    assert not any(name.startswith("system/") for run in children.values() for name in run.data.metrics)
    if asked:
        curve = MlflowClient(default_uri(store)).get_metric_history(
            parent.info.run_id, "system/cpu_utilization_percentage"
        )
        assert len(curve) >= 2
    else:
        assert found == set()


def test_a_run_that_is_gone_at_the_end_is_said(store: Path, record: Make) -> None:
    tracker = opened(store)
    for name in ("a", "b"):
        tracker.trial_finished(record(trial=name))
    drain(tracker)
    MlflowClient(default_uri(store)).delete_run(runs(store)[1]["a"].info.run_id)
    tracker.finish(LaunchFolder(store), None, "FINISHED")
    tracker.close()
    assert tracker.problem is not None
    assert tracker.problem.startswith("1 of 2 trials did not arrive at sqlite:///")
    assert tracker.problem.endswith("(what was written is gone)")


def test_a_search_trial_is_measured_on_validation_data(store: Path, searched: Make) -> None:
    made = searched(trial="a")
    tracker = opened(store)
    tracker.trial_finished(made)
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    found = children["a"].data.metrics
    assert {name: found[f"val_{name}"] for name in SCORES} == pytest.approx(made.scores)
    assert not set(SCORES) & set(found)


def test_a_trial_that_failed_before_it_started_has_a_run(store: Path, record: Make, failed: Make) -> None:
    tracker = opened(store)
    tracker.trial_finished(failed(record(trial="early")))
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    assert children["early"].info.status == "FAILED"
    assert children["early"].data.tags["method"] == "full"


def test_a_run_gives_back_its_record_and_its_trained_tensors(store: Path, tmp_path: Path, record: Make) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"tensors")
    tracker = opened(store)
    tracker.trial_finished(record(trial="a"), tmp_path / "a.safetensors")
    tracker.trial_finished(record(trial="b"))
    tracker.close()
    assert tracker.problem is None
    parent, children = runs(store)
    uri, folder = default_uri(store), LaunchFolder(tmp_path / "fetched")
    for name in ("a", "b", "a"):  # twice: what is there already is written anew
        path = fetch(uri, children[name].info.run_id, folder)
        assert path == folder.record(name)
        assert Record.model_validate_json(path.read_text()) == record(trial=name)
    assert [(path.name, path.read_bytes()) for path in folder.checkpoints.iterdir()] == [("a.safetensors", b"tensors")]
    for run, place, said in (
        ("0" * 32, uri, f"there is no run {'0' * 32} in "),
        (parent.info.run_id, uri, "holds no record"),
        (parent.info.run_id, f"sqlite:///{tmp_path}/no.db", "there is no MLflow store"),
    ):
        with pytest.raises(ValueError, match=said):
            fetch(place, run, folder)
    assert not (tmp_path / "no.db").exists()


def test_nothing_of_a_run_is_written_elsewhere(store: Path, tmp_path: Path, record: Make) -> None:
    tracker = opened(store)
    for name in ("a", "b"):
        tracker.trial_finished(record(trial=name))
    tracker.close()
    _, children = runs(store)
    client, uri, place = MlflowClient(default_uri(store)), default_uri(store), tmp_path / "x" / "y" / "fetched"
    values = json.loads(artifact(children["a"], "record.json").read_text())
    client.log_text(
        children["a"].info.run_id, json.dumps({**values, "trial": "../../../out", "config": {}}), "record.json"
    )
    client.log_text(children["b"].info.run_id, "tensors", "checkpoints/other.safetensors")
    for name, said in (("a", "is a path, not a name"), ("b", "tensors that are not those of its record: .*other")):
        with pytest.raises(ValueError, match=said):
            fetch(uri, children[name].info.run_id, LaunchFolder(place))
    assert [path for path in (tmp_path / "x").rglob("*") if path.is_file()] == []


def test_more_points_than_one_request_takes(store: Path, record: Make) -> None:
    tracker = opened(store)
    tracker.trial_started("a", TRIAL, TAGS)
    for step in range(1, 601):
        tracker.trial_reported("a", {"train_loss": 1 / step, "lr": 0.1}, step)
    tracker.trial_finished(record(trial="a"))
    tracker.close()
    assert tracker.problem is None
    _, children = runs(store)
    curve = MlflowClient(default_uri(store)).get_metric_history(children["a"].info.run_id, "train_loss")
    assert [point.step for point in curve] == list(range(1, 601))


def test_curves_can_be_watched_while_a_trial_runs(store: Path) -> None:
    tracker = opened(store)
    tracker.trial_started("a", TRIAL, TAGS)
    tracker.trial_reported("a", {"train_loss": 0.5}, 10)
    seen: list[tuple[float]] = []
    deadline = time.monotonic() + 20
    while not seen and time.monotonic() < deadline:
        time.sleep(0.1)
        with sqlite3.connect(store / "mlflow.db") as database:
            seen = database.execute("select value from metrics where key = 'train_loss'").fetchall()
    tracker.close()
    assert seen == [(0.5,)]


def test_a_board_with_lost_rows_is_attached(store: Path, tmp_path: Path, paper_records: MakeAll, failed: Make) -> None:
    board = build([failed(r) if r.method == "lora" else r for r in paper_records(methods=["full", "lora"])])
    folder = LaunchFolder(tmp_path / "study")
    leaderboard.write(board, folder)
    tracker = opened(store)
    tracker.finish(folder, board, "FINISHED")
    tracker.close()
    assert tracker.problem is None
    parent, _ = runs(store)
    table = json.loads(artifact(parent, "leaderboard.json").read_text())
    columns = {name: [row[index] for row in table["data"]] for index, name in enumerate(table["columns"])}
    assert columns["row"] == ["full", "lora rank=4", "lora rank=8", "lora rank=16"]
    assert columns["mean"] == [pytest.approx(87.55), None, None, None]


def use(tracker: Tracker, record: Make, folder: LaunchFolder, board: Leaderboard | None) -> None:
    """Everything that a launch does with its tracker after it has been opened."""
    tracker.trial_started("late", TRIAL, TAGS)
    tracker.trial_reported("late", {"train_loss": 0.5}, 10)
    tracker.trial_finished(record(trial="late"))
    tracker.finish(folder, board, "FINISHED")
    tracker.close()


def test_a_database_lost_in_mid_study_is_a_problem_not_an_error(
    store: Path, record: Make, shown: tuple[LaunchFolder, Leaderboard]
) -> None:
    tracker = opened(store)
    tracker.trial_started("a", TRIAL, TAGS)
    tracker.trial_finished(record(trial="a"))
    drain(tracker)
    (store / "mlflow.db").rename(store / "kept.db")
    (store / "mlflow.db").write_text("no database")
    use(tracker, record, *shown)
    assert tracker.problem is not None
    assert tracker.problem.startswith("1 of 2 trials did not arrive at sqlite:///")
    assert "(MlflowException: " in tracker.problem
    assert "\n" not in tracker.problem


def drain(tracker: Tracker) -> None:
    """Wait until the tracker has written what it was given."""
    done = threading.Event()
    tracker._jobs.put(lambda _: done.set())
    assert done.wait(20)


def test_a_store_that_cannot_be_opened_is_a_problem_not_an_error(
    store: Path, record: Make, shown: tuple[LaunchFolder, Leaderboard]
) -> None:
    tracker = open_tracker("nonsense://x", experiment="paper", run_name="x", parameters={}, tags={})
    use(tracker, record, *shown)
    assert tracker.problem is not None
    assert "nonsense" in tracker.problem


def test_artifacts_that_cannot_be_written_are_a_problem_not_an_error(
    store: Path, record: Make, shown: tuple[LaunchFolder, Leaderboard]
) -> None:
    (store / "mlartifacts").write_text("in the way")
    tracker = opened(store)
    use(tracker, record, *shown)
    assert tracker.problem is not None
    assert "mlartifacts" in tracker.problem


def test_a_board_that_is_not_there_is_a_problem_not_an_error(
    store: Path, tmp_path: Path, record: Make, shown: tuple[LaunchFolder, Leaderboard]
) -> None:
    tracker = opened(store)
    use(tracker, record, LaunchFolder(tmp_path / "missing"), shown[1])
    assert tracker.problem is not None
    assert "leaderboard.md" in tracker.problem


def test_opening_returns_at_once_and_makes_the_store_later(first: First) -> None:
    assert first.opened_after < 0.5
    assert first.problem is None
    parent, children = runs(first.results, experiment="first")
    assert parent.info.status == "KILLED"  # nobody said that it had finished
    assert children == {}


def test_flatten() -> None:
    assert flatten({"train": {"lr": 0.1, "inner": {"x": None}}, "seeds": (0, 1)}) == {
        "train.lr": "0.1",
        "train.inner.x": "None",
        "seeds": "(0, 1)",
    }
    assert flatten({}) == {}
