"""A study from the command line to the leaderboard, through the real Ray, Optuna, MLflow and torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from bench.folder import LaunchFolder
from bench.reporting import leaderboard
from bench.reporting.mlflow_content import PARENT
from bench.reporting.rows import build
from tests.contract.test_folders import classes

from .conftest import FEW, SMALL, Launch, Run

pytestmark = pytest.mark.timeout(600)
ON_THE_POOL, OF_THE_SMALL = (pytest.mark.xdist_group(name) for name in ("pool", "small"))

VOLATILE = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}
SCORES = ("target_accuracy", "source_accuracy", "source_accuracy_before", "forgetting", "mean")


def stable(record: dict[str, Any]) -> str:
    """A record without what may differ between two runs of the same thing, as text."""
    return json.dumps({key: value for key, value in record.items() if key not in VOLATILE}, sort_keys=True)


def in_optuna(folder: Path, name: str | None = None) -> list[tuple[str, str]]:
    """Record and state of every trial in a study of a launch folder's storage, or in the only one."""
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'optuna.db'}").trials
    return [(trial.user_attrs["record"], trial.state.name) for trial in trials]


@OF_THE_SMALL
def test_it_succeeds_and_says_where_things_are(small: Run) -> None:
    assert small.code == 0, small.err
    assert "block exp. p=1" in small.out
    assert str(small.folder) in small.out
    assert "[8/8]" in small.out
    assert "ETA" in small.out
    assert small.err == ""
    log = next(small.folder.glob("logs/*.log"))
    assert str(log) in small.out


@OF_THE_SMALL
def test_a_slot_and_the_search_fit_beside_each_other_on_one_core(small: Run) -> None:
    assert "Plan: 1 slot x 1 worker, one CPU core each, of 1" in small.out
    assert {record["provenance"]["slots"] for record in small.records.values()} == {1}


@OF_THE_SMALL
def test_every_trial_has_a_record(small: Run) -> None:
    records = small.records
    searched = {f"block_expansion-search-{i:02d}" for i in range(4)}
    confirmed = {f"block_expansion-confirm-p{p}-seed{seed}" for p in (1, 2) for seed in (0, 1)}
    assert set(records) == searched | confirmed
    assert small.out.count("seed") >= len(confirmed)
    assert {record["status"] for record in records.values()} == {"ok"}
    context = {"objective": "mean", "trials": 4, "lag": 8, "seed": 0}
    assert all(record["search"] == record["config"]["search"] == context for record in records.values())


@OF_THE_SMALL
def test_the_search_sees_validation_data_only(small: Run) -> None:
    for record in small.records.values():
        searching = record["phase"] == "search"
        for name in SCORES:
            assert (record[name] is None) == searching
            assert (record[f"val_{name}"] is None) == (not searching)


@OF_THE_SMALL
def test_the_searched_values_reach_the_trainer(small: Run) -> None:
    trials = [record for record in small.records.values() if record["phase"] == "search"]
    assert len({record["hyperparameters"]["lr"] for record in trials}) == 4
    for record in trials:
        assert record["config"]["train"]["lr"] == record["hyperparameters"]["lr"]
        assert record["config"]["fields"] == {"p": record["hyperparameters"]["p"]}
    assert {record["trainable_parameters"] for record in trials} == {50634, 100618}
    assert len({record["val_mean"] for record in trials}) > 1


@OF_THE_SMALL
def test_every_row_gets_the_same_number_of_trials(small: Run) -> None:
    rows = [record["row"]["p"] for record in small.records.values() if record["phase"] == "search"]
    assert sorted(rows) == [1, 1, 2, 2]


@OF_THE_SMALL
def test_the_best_of_each_row_is_confirmed(small: Run) -> None:
    found = small.records
    for p in (1, 2):
        trials = [r for r in found.values() if r["phase"] == "search" and r["row"] == {"p": p}]
        best = max(trials, key=lambda record: record["val_mean"])
        for seed in (0, 1):
            confirmed = found[f"block_expansion-confirm-p{p}-seed{seed}"]
            assert confirmed["hyperparameters"] == best["hyperparameters"]
            assert confirmed["seed"] == seed
            assert confirmed["seed"] != best["seed"]  # with which it was selected


@OF_THE_SMALL
def test_the_costs_of_a_trial_are_recorded(small: Run) -> None:
    for name, record in small.records.items():
        assert record["provenance"]["peak_memory"]["bytes"] > 50e6
        file, size = LaunchFolder(small.folder).checkpoint(name), record["details"].get("checkpoint_bytes")
        assert size == (file.stat().st_size if record["phase"] == "confirm" else None)


@OF_THE_SMALL
def test_optuna_loads_the_search_as_the_records_have_it(small: Run) -> None:
    study = optuna.load_study(
        study_name="block_expansion/block_expansion", storage=f"sqlite:///{small.folder / 'optuna.db'}"
    )
    searched = [record for record in small.records.values() if record["phase"] == "search"]
    assert [trial.user_attrs["record"] for trial in study.trials] == [record["trial"] for record in searched]
    for trial, record in zip(study.trials, searched, strict=True):
        assert trial.state.name == "COMPLETE"
        assert trial.values == [record["val_mean"]]
        assert trial.params == {name: record["hyperparameters"][name] for name in ("p", "lr")}
        assert list(trial.intermediate_values) == [5, 10, 12]
        assert trial.intermediate_values[12] == record["val_mean"]
    assert study.best_trial.value == max(record["val_mean"] for record in searched)
    assert study.metric_names == ["mean"]


@OF_THE_SMALL
def test_forgetting_and_mean_follow_from_the_accuracies(small: Run) -> None:
    for record in small.records.values():
        prefix = "val_" if record["phase"] == "search" else ""
        target, source, before, forgetting, mean = (record[prefix + name] for name in SCORES)
        assert forgetting == pytest.approx(before - source)
        assert mean == pytest.approx((target + source) / 2)


@OF_THE_SMALL
def test_the_leaderboard_can_be_rebuilt_from_the_records(small: Run, tmp_path: Path) -> None:
    records, folder = LaunchFolder(small.folder).read_records(), LaunchFolder(tmp_path)
    (tmp_path / "launch.json").write_bytes((small.folder / "launch.json").read_bytes())
    (tmp_path / "checkpoints").symlink_to(small.folder / "checkpoints")  # which the page links to
    leaderboard.write(build(records), folder, records)
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "pareto.png", "index.html"):
        assert (tmp_path / name).read_bytes() == (small.folder / name).read_bytes(), name


@OF_THE_SMALL
def test_mlflow_has_parent_children_curves_table_and_picture(small: Run) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{small.folder.parents[1] / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("block_expansion")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    # Other tests may have exported a model of this study, which is a run of its own.
    (parent,) = (run for run in runs if "study" in run.data.tags and "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in children} == set(small.records)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {"leaderboard.json", "leaderboard.md", "pareto.png", "index.html"} <= {
        artifact.path for artifact in client.list_artifacts(parent.info.run_id)
    }
    child = next(run for run in children if run.info.run_name == "block_expansion-search-00")
    assert len(client.get_metric_history(child.info.run_id, "train_loss")) == 12
    assert [m.step for m in client.get_metric_history(child.info.run_id, "val_source_accuracy")] == [5, 10, 12]
    assert child.data.params["p"] == "1"
    assert "record.json" in {artifact.path for artifact in client.list_artifacts(child.info.run_id)}


@ON_THE_POOL
def test_a_warm_pool_of_two_slots_gives_the_records_of_the_command_on_one(
    small: Run, launched: Launch, tmp_path: Path
) -> None:
    """Byte for byte: in warm workers after other trials, and with proposals that do not depend on the slots."""
    again = launched("block_expansion", tmp_path, *SMALL)
    assert again.code == 0, again.out
    records = again.records
    assert {record["provenance"]["slots"] for record in records.values()} == {2}
    assert {name: stable(record) for name, record in records.items()} == {
        name: stable(record) for name, record in small.records.items()
    }


@ON_THE_POOL
def test_a_diverged_trial_is_recorded_and_the_study_goes_on(launched: Launch, tmp_path: Path) -> None:
    study = tmp_path / "wild.yaml"
    study.write_text(
        "method: linear\nsearch: {lr: {choices: [0.1, 1.0e+38]}}\nrows: [lr]\ntrials: 2\nlag: 1\nseeds: [0]\n"
    )
    done = launched(str(study), tmp_path / "results", "--set", "train.steps=10", *FEW)
    assert done.code == 0, done.out
    records = done.records
    assert {record["status"] for record in records.values()} == {"ok", "failed"}
    failed = next(record for record in records.values() if record["status"] == "failed")
    assert "diverged" in failed["error"]
    assert len(records) == 3  # the row that failed is not confirmed
    assert "no search trial succeeded" in done.out


@ON_THE_POOL
def test_a_study_in_which_everything_fails_exits_1(launched: Launch, tmp_path: Path) -> None:
    wild = ["--set", "search.lr={choices: [1.0e+38, 2.0e+38]}"]
    done = launched("linear", tmp_path, *wild, "--trials", "2", "--set", "lag=1", *FEW)
    assert done.code == 1
    assert "2 of 2 trials failed" in done.out
    assert {record["status"] for record in done.records.values()} == {"failed"}


@ON_THE_POOL
def test_a_launch_that_was_cut_off_ends_as_one_that_was_not(launched: Launch, tmp_path: Path) -> None:
    """Whatever was there when it was cut off: the same records, no trial twice in MLflow, and none left running."""
    pictures = f"folder:{classes(tmp_path / 'pictures')}"
    study = tmp_path / "short.yaml"
    space = "{k: {choices: [1, 2]}, lr: {low: 0.001, high: 0.3, log: true}}"
    study.write_text(f"method: top_k\nsearch: {space}\nrows: [k]\n")
    asked = ["--target", pictures, "--source", pictures, "--source-per-class", "10", "--set", "train.batch_size=8"]
    asked += ["--set", "train.steps=3", "--set", "lag=2", "--trials", "4", "--seeds", "0"]
    whole = launched(str(study), tmp_path / "whole", *asked)
    assert whole.code == 0, whole.out
    expected = {name: stable(record) for name, record in whole.records.items()}
    order = sorted(whole.folder.glob("records/*.json"), key=lambda path: path.stat().st_mtime_ns)
    for count in (1, 5):  # in the search, and in the confirmations
        results = tmp_path / f"cut-{count}"
        folder = LaunchFolder(results / whole.folder.relative_to(tmp_path / "whole"))
        folder.records.mkdir(parents=True)
        for path in order[:count]:
            shutil.copy(path, folder.records)
            if (tensors := LaunchFolder(whole.folder).checkpoint(path.stem)).exists():
                folder.keep_tensors(path.stem, tensors.read_bytes())
        manifest = json.loads(LaunchFolder(whole.folder).manifest.read_text())
        folder.manifest.write_text(json.dumps({**manifest, "ended": False}))
        again = launched(str(study), results, *asked)
        assert again.code == 0, again.out
        assert f"continuing: {count} of 6 trials are there" in again.out
        assert {name: stable(record) for name, record in again.records.items()} == expected
        assert (again.folder / "leaderboard.md").read_bytes() == (whole.folder / "leaderboard.md").read_bytes()
        assert json.loads(folder.manifest.read_text())["ended"]
        assert in_optuna(again.folder) == [(f"top_k-search-{index:02d}", "COMPLETE") for index in range(4)]
        runs = MlflowClient(f"sqlite:///{results / 'mlflow.db'}").search_runs(["1"])
        assert sorted(str(run.info.run_name) for run in runs if PARENT in run.data.tags) == sorted(whole.records)
        assert {run.info.status for run in runs} == {"FINISHED"}


@ON_THE_POOL
def test_a_repeated_search_prunes_what_does_not_promise_much_and_ends_in_one_row(
    launched: Launch, tmp_path: Path
) -> None:
    study = tmp_path / "halving.yaml"
    study.write_text(
        "method: linear\nsearch: {lr: {low: 0.0001, high: 1.0, log: true}}\nseeds: [0]\nscheduler: asha\ntrials: 8\n"
        "lag: 2\nrepeats: 2\ntrain: {steps: 120, val_every: 8, schedule: none}\n"
    )
    pictures = f"folder:{classes(tmp_path / 'pictures')}"
    data = ["--target", pictures, "--source", pictures, "--source-per-class", "8", "--set", "train.batch_size=8"]
    done = launched(str(study), tmp_path / "results", *data)
    (folder,) = (tmp_path / "results" / "halving").iterdir()
    assert done.code == 0, done.out
    records = LaunchFolder(folder).read_records()
    searched = [record for record in records if record.phase == "search"]
    states = {name: dict(in_optuna(folder, f"halving/{name}")) for name in ("halving", "repeat1-halving")}
    expected = {record.trial: {"ok": "COMPLETE", "stopped": "PRUNED"}[record.status] for record in searched}
    assert states["halving"] | states["repeat1-halving"] == expected
    assert list(states["repeat1-halving"]) == [f"linear-repeat1-search-{index:02d}" for index in range(8)]
    stopped = [record for record in searched if record.status == "stopped"]
    assert len({record.hyperparameters["lr"] for record in searched}) == len(searched) == 16
    assert stopped
    for record in stopped:
        assert record.steps in (8, 16, 32, 64)
        assert record.scores["mean"] is not None
    (row,) = build(records).rows
    assert (row.searches, row.search_trials, len(row.configurations), len(row.trials)) == (2, 8, 2, 2)
    assert {point.step for point in row.curve} == {0, *range(8, 121, 8)}
    assert (folder / "curves.png").is_file()
    assert (folder / "leaderboard.md").is_file()


@ON_THE_POOL
def test_own_pictures_and_an_own_backbone(launched: Launch, tmp_path: Path) -> None:
    """A folder of pictures as target and source, and weights in the layout of DINO's checkpoints.

    A method that measures models between the untouched and the trained one needs no word elsewhere.
    """
    import torch

    from bench import models
    from bench.spec import Backbone

    classes(tmp_path / "train")
    torch.manual_seed(0)
    vit = models.plain(Backbone(name="vit_tiny_patch16_224", image_size=32), num_classes=0)
    teacher = {f"backbone.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"student": {}, "teacher": teacher}, tmp_path / "dino.pth")
    (tmp_path / "train" / "cat" / "bad.png").write_bytes(b"no picture")
    own = ["--benchmark", f"folder:{tmp_path}", "--source", f"folder:{tmp_path}", "--bad-images", "skip"]
    own += ["--set", "source.per_class=10", "--set", "source.confirm_per_class=12"]
    own += ["--backbone", "vit_tiny_patch16_224", "--weights", str(tmp_path / "dino.pth"), "--image-size", "32"]
    small = ["--trials", "1", "--seeds", "0", "--set", "train.steps=3", "--set", "train.batch_size=8"]
    suite = tmp_path / "two.yaml"  # that every method does with such a backbone is a matter of the contract tests
    suite.write_text("suite: [wise_ft, {lora: {search.rank.choices: [4]}}]\n")
    done = launched(str(suite), tmp_path / "results", *own, *small)
    assert done.code == 0, done.out
    records = LaunchFolder(done.folder).read_records()
    assert {record.method for record in records} == {"wise_ft", "lora"}
    assert {record.status for record in records} == {"ok"}
    for record in records:  # the recipe is the paper's, shortened; one image is left out
        assert (record.config["train"]["crop_min"], record.config["train"]["warmup_steps"]) == (0.08, 0)
        assert record.details["images"]["skipped"] == 1
        assert record.details["images"]["source_bank"] == (30 if record.phase == "search" else 36)
    assert "bad.png cannot be read as a picture" in done.out
    assert (done.folder / "pareto.png").is_file()
    table = (done.folder / "leaderboard.md").read_text()
    for label in ("wise_ft", "wise_ft alpha=0.25", "wise_ft alpha=0.5", "wise_ft alpha=0.75"):
        assert f"| {label} |" in table
