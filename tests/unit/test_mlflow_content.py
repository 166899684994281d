"""What people see in MLflow without looking for it, asked for as a program asks for it: through ``MlflowClient``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from bench.__main__ import main
from bench.folder import LaunchFolder
from bench.readings import SCORES
from bench.records import Record
from bench.reporting import leaderboard, mlflow_content, mlflow_points, mlflow_sync
from bench.reporting.mlflow_content import DataSet, data_sets, experiment_tags, launch_note, user_tags
from bench.reporting.mlflow_models import aliases, fetch, is_best_in_folder, is_best_run
from bench.reporting.mlflow_runs import final
from bench.reporting.rows import Leaderboard, build
from tests.unit.conftest import First

Make = Callable[..., Record]
MakeAll = Callable[..., list[Record]]

STUDY = {"method": "lora", "trials": 12, "search": {"lr": {"low": 0.001, "high": 0.3}}, "objective": "mean"}
ASKED = {
    "study": {
        "lora": {**STUDY, "name": "lora", "seeds": [0, 1, 2], "train": {"weight_decay": 0.05, "batch_size": 64}},
        "full": {**STUDY, "name": "full", "method": "full", "seeds": [0, 1, 2], "train": {"batch_size": 64}},
    },
    "benchmark": {
        "name": "tiny",
        **{"backbone": {"name": "tiny"}, "source": {"name": "folder:/data/scribbles/"}, "target": {"name": "digits"}},
    },
}
SEEDS = (0, 1)


def launch(results: Path, records: list[Record], *, name: str = "tiny") -> LaunchFolder:
    """What a finished launch leaves."""
    folder = LaunchFolder.of(results, "paper", name)
    for record in records:
        record.write(folder.records)
    leaderboard.write(build(records), folder, records)
    folder.manifest.write_text(json.dumps({"id": f"{len(name)}abc", "ended": True, "asked": ASKED}))
    return folder


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, first: First, paper_records: MakeAll, searched: Make, seen: Make
) -> Path:
    """A results folder with the store of two launches: the second one on other images, and with other results."""
    results = tmp_path_factory.mktemp("content") / "results"
    results.mkdir()
    shutil.copy(first.results / "mlflow.db", results / "mlflow.db")
    records = [*paper_records(methods=["full", "lora"], seeds=SEEDS), searched()]
    launch(results, [seen(record) for record in records])
    others = paper_records(methods=["full"], seeds=SEEDS)
    launch(results, [seen(record, images="b") for record in others], name="other")
    assert main(["sync", str(results)]) == 0
    return results


@pytest.fixture(scope="module")
def client(results: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{results / 'mlflow.db'}")


@pytest.fixture(scope="module")
def runs(client: MlflowClient) -> list[Run]:
    """The runs of both launches, whole."""
    experiment = client.get_experiment_by_name("paper")
    assert experiment is not None
    return [client.get_run(run.info.run_id) for run in client.search_runs([experiment.experiment_id])]


@pytest.fixture(scope="module")
def parent(runs: list[Run]) -> Run:
    """That of the first launch."""
    return next(run for run in runs if run.data.tags.get("launch") == "4abc")


@pytest.fixture(scope="module")
def children(runs: list[Run], parent: Run) -> dict[str, Run]:
    """Those of the first launch, by trial."""
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return {str(run.info.run_name): run for run in own}


def inputs(run: Run) -> dict[str, tuple[str, str, dict[str, int]]]:
    """Name, digest and sizes of a run's data sets, by what they are to it."""
    return {
        one.tags[0].value: (one.dataset.name, one.dataset.digest, json.loads(one.dataset.profile)["splits"])
        for one in run.inputs.dataset_inputs
    }


def test_every_run_has_its_data_sets_as_inputs(children: dict[str, Run], parent: Run) -> None:
    searched, confirmed = inputs(children["full-search-00"]), inputs(children["full-confirm-seed0"])
    assert [confirmed[role][0] for role in ("target", "source")] == ["digits", "folder:scribbles"]
    assert confirmed["target"][2] == {"train": 900, "test": 500}
    assert searched["target"][2] == {"train": 900, "val": 300}
    assert confirmed["source"][2] == {"bank": 4000, "queries": 1000}
    assert searched["target"][1] != confirmed["target"][1]
    assert {inputs(run)["target"][1] for name, run in children.items() if "confirm" in name} == {confirmed["target"][1]}
    every = {one.dataset.digest for run in children.values() for one in run.inputs.dataset_inputs}
    assert {one.dataset.digest for one in parent.inputs.dataset_inputs} == every
    (place,) = {one.dataset.source for one in parent.inputs.dataset_inputs if one.dataset.source_type == "local"}
    assert json.loads(place) == {"uri": "/data/scribbles/"}


def test_a_digest_says_which_images(record: Make, seen: Make) -> None:
    """And not where they lie."""

    def of(**about: str) -> list[DataSet]:
        return data_sets(seen(record(), **about))

    here, moved, other = of(), of(source="folder:/elsewhere/scribbles"), of(images="b")
    assert [one.digest for one in here] == [one.digest for one in moved]
    assert here[1].name == moved[1].name
    assert not {one.digest for one in here} & {one.digest for one in other}
    assert data_sets(record()) == []  # it does not say, and so nothing is said


def test_every_run_says_what_ran_who_wrote_it_and_what_came_out(children: dict[str, Run], parent: Run) -> None:
    for run in (parent, *children.values()):
        tags = run.data.tags
        assert tags["mlflow.source.name"] == "launch.py"
        assert tags["mlflow.source.git.commit"] == "c0ffee" * 6 + "beef"
        assert {"mlflow.user": tags["mlflow.user"]} == user_tags()
    assert children["lora-confirm-rank8-seed1"].data.tags["row"] == "lora rank=8"
    note = children["lora-confirm-rank8-seed1"].data.tags["mlflow.note.content"]
    assert note.startswith(
        "lora rank=8, seed 1, on test data: **93.2 %** on the target, **88.5 %** on the source (2.2 "
    )
    note = parent.data.tags["mlflow.note.content"]
    page = f"runs/{parent.info.run_id}/artifacts/index.html"
    assert f"[The same with figures to point at](#/experiments/{parent.info.experiment_id}/{page})" in note
    assert note.index("For the target alone take full: 95.5") < note.index("| Method | Hyper-parameters |")


def test_a_user_without_a_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(mlflow_content.getpass, "getuser", unknown)
    assert user_tags() == {}


def test_trials_have_the_parameters_that_tell_them_apart_and_the_launch_the_rest(
    client: MlflowClient, children: dict[str, Run], parent: Run, tmp_path: Path
) -> None:
    assert children["lora-confirm-rank8-seed1"].data.params == {
        **{"method": "lora", "rank": "8", "lr": "0.079", "seed": "1"},
        "weight_decay": "0.05",  # in which the studies differ
    }
    assert parent.data.params == {
        **{"backbone": "tiny", "source": "folder:/data/scribbles/", "target": "digits", "methods": "lora, full"},
        **{"searched": "lr", "objective": "mean", "search_trials": "12", "seeds": "0,1,2"},
    }
    text = Path(client.download_artifacts(parent.info.run_id, "configuration.yaml", str(tmp_path))).read_text()
    held = yaml.safe_load(text)
    assert held["benchmark"] == ASKED["benchmark"]
    assert held["studies"]["lora"]["train"] == {"weight_decay": 0.05, "batch_size": 64}


def test_the_model_that_forgets_least_above_an_accuracy_is_one_question(
    client: MlflowClient, children: dict[str, Run], parent: Run
) -> None:
    place = [parent.info.experiment_id]
    order: list[dict[str, Any]] = [{"field_name": "metrics.source_accuracy", "ascending": False}]
    found = client.search_logged_models(
        place, "metrics.target_accuracy > 92.5 and tags.launch = '4abc'", order_by=order
    )
    assert [model.name for model in found[:2]] == ["lora-confirm-rank16-seed0", "lora-confirm-rank8-seed1"]
    assert {model.tags["row"] for model in found} == {"full", "lora rank=8", "lora rank=16"}
    best = found[0]
    run = children[best.name]
    assert best.source_run_id == run.info.run_id
    assert best.params == run.data.params
    assert best.tags["mlflow.note.content"] == run.data.tags["mlflow.note.content"]
    held = {metric.key: metric for metric in best.metrics or []}
    assert {name: metric.value for name, metric in held.items()} == {name: run.data.metrics[name] for name in SCORES}
    data = inputs(run)
    assert (held["target_accuracy"].dataset_name, held["target_accuracy"].dataset_digest) == data["target"][:2]
    assert (held["forgetting"].dataset_name, held["forgetting"].dataset_digest) == data["source"][:2]
    assert held["mean"].dataset_name is None
    (output,) = run.outputs.model_outputs
    assert output.model_id == best.model_id
    assert str(best.status) == "READY"


def test_models_of_other_images_are_told_apart(client: MlflowClient, parent: Run, children: dict[str, Run]) -> None:
    own = {"dataset_name": "digits", "dataset_digest": inputs(children["full-confirm-seed0"])["target"][1]}
    place = [parent.info.experiment_id]
    every = client.search_logged_models(place, "metrics.target_accuracy > 0", datasets=[{"dataset_name": "digits"}])
    here = client.search_logged_models(place, "metrics.target_accuracy > 0", datasets=[own])
    assert (len(every), len(here)) == (8 + 2, 8)
    assert {model.tags["launch"] for model in here} == {"4abc"}


def test_the_parent_shows_the_models_of_its_best_row(client: MlflowClient, parent: Run) -> None:
    models = [client.get_logged_model(output.model_id) for output in parent.outputs.model_outputs]
    assert {model.tags["row"] for model in models} == {"lora rank=8"}
    assert len(models) == len(SEEDS)
    assert parent.data.tags["best"] == "lora rank=8"


@pytest.mark.parametrize(
    ("method", "row", "expected"),
    [
        ("lora", {"rank": 8}, "lora-rank8"),
        ("wise_ft", {"alpha": 0.5, "mode": "a b"}, "wise_ft-alpha0-5-modea-b"),
        ("v2", {}, "row-v2"),
        ("Latest", {}, "row-Latest"),
    ],
)
def test_a_registered_model_is_called_after_its_row(
    record: Make, client: MlflowClient, method: str, row: dict[str, Any], expected: str
) -> None:
    """MLflow takes the names, and moves them to the newest version."""
    hyperparameters = {**record().hyperparameters, **row}
    made = record(method=method, row=row, hyperparameters=hyperparameters)
    assert aliases(made, best=False) == [expected]
    assert aliases(made, best=True) == [expected, "champion"]
    client.create_registered_model(method)
    for version in ("1", "2"):
        client.create_model_version(method, "file:///nowhere", None)
        for alias in aliases(made, best=True):
            client.set_registered_model_alias(method, alias, version)
    assert client.get_model_version_by_alias(method, expected).version in (2, "2")


def test_who_belongs_to_the_best_row_is_the_champion(results: Path, children: dict[str, Run]) -> None:
    uri = f"sqlite:///{results / 'mlflow.db'}"
    folder = LaunchFolder.of(results, "paper", "tiny")
    best = {name for name, run in children.items() if is_best_run(uri, run.info.run_id)}
    assert best == {"lora-confirm-rank8-seed0", "lora-confirm-rank8-seed1"}
    assert best == {name for name in children if is_best_in_folder(folder, name)}
    assert not is_best_in_folder(LaunchFolder(results / "runs" / "fetched"), "lora-confirm-rank8-seed0")


def test_tables_of_several_launches_are_loaded_at_once(client: MlflowClient, parent: Run, results: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(
        f"sqlite:///{results / 'mlflow.db'}"
    )  # load_table asks for runs where the process is set to
    table = mlflow.MlflowClient().load_table(
        parent.info.experiment_id, "leaderboard.json", extra_columns=["run_id", "tags.launch"]
    )
    mlflow.set_tracking_uri(before)
    assert table["tags.launch"].value_counts().to_dict() == {"4abc": 4, "5abc": 1}
    assert set(table["benchmark"]) == {"tiny"}
    assert table.set_index(["tags.launch", "row"]).loc[("4abc", "full"), "target_accuracy"] == pytest.approx(95.5)


def test_views_of_an_experiment_find_their_runs(client: MlflowClient, parent: Run) -> None:
    """Their filters are MLflow's, and so are the names of the columns that they show."""
    place = parent.info.experiment_id
    tags = client.get_experiment(place).tags
    assert set(experiment_tags(place)) <= set(tags)
    counts = {}
    for key in ("launches", "confirmed", "search"):
        assert f"#/experiments/{place}/runs?viewStateShareKey={key}" in tags["mlflow.note.content"]
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        assert json.loads(view["state"]).items() <= view.items()  # both ways of the versions of MLflow
        found = client.search_runs([place], view["searchFilter"])
        counts[key] = len(found)
        shown = {name.partition(".`")[2].rstrip("`") for name in view["selectedColumns"] if ".`" in name}
        held = {name for run in found for name in (*run.data.metrics, *run.data.params, *run.data.tags)}
        assert shown - {"Dataset", "Models", "Source"} <= held
        assert max(map(len, tags.values())) < 5000
    assert counts == {"launches": 2, "confirmed": 10, "search": 1}


def test_a_long_note_ends_with_a_whole_line(board: Leaderboard) -> None:
    table = "\n".join(f"| {row} | {'x' * 90} |" for row in range(200))
    note = launch_note(board, table, "#/a")
    assert len(note) <= mlflow_content.LONGEST_NOTE
    *_, last, blank, end = note.split("\n")
    assert last.endswith("x |")
    assert (blank, end) == ("", "The rest is in `leaderboard.md` among the artifacts.")


def test_what_an_earlier_version_has_written_is_completed_once(
    tmp_path: Path, first: First, paper_records: MakeAll, searched: Make, seen: Make
) -> None:
    """Its runs have no inputs, no source, no model, and its note was the table alone."""
    shutil.copy(first.results / "mlflow.db", tmp_path / "mlflow.db")
    records = [*paper_records(methods=["full"], seeds=SEEDS), searched()]
    folder = launch(tmp_path, [seen(record) for record in records])
    client, place = _written_by_version_0_1(folder)
    assert main(["sync", str(folder.path)]) == 0
    found = {str(run.info.run_name): run for run in client.search_runs(place)}
    assert set(found) == {"paper on tiny", *(record.trial for record in records)}
    assert "For the target alone" in found["paper on tiny"].data.tags["mlflow.note.content"]
    for name, run in found.items():
        assert {one.tags[0].value for one in run.inputs.dataset_inputs} == {"target", "source"}
        assert run.data.tags["mlflow.source.git.commit"] == "c0ffee" * 6 + "beef"
        for metric in run.data.metrics if name != "paper on tiny" else ():
            assert len(client.get_metric_history(run.info.run_id, metric)) == 1
    models = client.search_logged_models(place, "tags.launch = '4abc'")
    assert {model.name for model in models} == {"full-confirm-seed0", "full-confirm-seed1"}
    before = {run.info.run_id: run.to_dictionary() for run in client.search_runs(place)}
    assert main(["sync", str(folder.path)]) == 0
    assert {run.info.run_id: run.to_dictionary() for run in client.search_runs(place)} == before
    assert len(client.search_logged_models(place)) == len(models)


def _written_by_version_0_1(folder: LaunchFolder) -> tuple[MlflowClient, list[str]]:
    """A store that holds the launch as version 0.1 wrote it, and its experiment, which says nothing of itself."""
    uri = mlflow_sync.store_of(folder)
    client = MlflowClient(uri)
    place = (folder.path.parent.parent / "mlartifacts" / "paper").as_uri()
    experiment = client.create_experiment("paper", artifact_location=place)
    tags = {"benchmark": "tiny", "study": "paper", "launch": "4abc", "status": "ok"}
    parent = client.create_run(experiment, run_name="paper on tiny", tags=tags)
    for path in (folder.table, folder.table_csv, folder.picture, folder.page, folder.table_json):
        client.log_artifact(parent.info.run_id, str(path))
    client.set_tag(parent.info.run_id, "mlflow.note.content", folder.table.read_text())
    client.set_terminated(parent.info.run_id, "FINISHED")
    for record in folder.read_records():
        tags = {"status": "ok", "phase": record.phase, "mlflow.parentRunId": parent.info.run_id}
        run = client.create_run(experiment, run_name=record.trial, tags=tags)
        for name, value in final(record).items():
            client.log_metric(run.info.run_id, name, value, step=record.steps)
        for name, told in {"method": record.method, **record.hyperparameters, "seed": record.seed}.items():
            client.log_param(run.info.run_id, name, told)
        client.log_text(run.info.run_id, record.model_dump_json(indent=2), "record.json")
        client.set_terminated(run.info.run_id, "FINISHED")
    return client, [experiment]


ALPHAS = {"alpha=0.25": (85.0, 90.0), "alpha=0.5": (91.23456789, 89.7)}


def line(record: Make, seen: Make) -> list[Record]:
    """Two seeds of a method that makes further models of the trained one; the row of one of them is the best."""
    return [
        seen(
            record(
                trial=f"wise_ft-confirm-seed{seed}",
                method="wise_ft",
                seed=seed,
                variants={name: (target + seed, source) for name, (target, source) in ALPHAS.items()},
            )
        )
        for seed in SEEDS
    ]


@pytest.fixture
def wise(tmp_path: Path, first: First, record: Make, seen: Make) -> LaunchFolder:
    """A launch of such a method in a store of its own, which has been brought."""
    shutil.copy(first.results / "mlflow.db", tmp_path / "mlflow.db")
    folder = launch(tmp_path, line(record, seen))
    assert main(["sync", str(folder.path)]) == 0
    return folder


def stored(folder: LaunchFolder) -> tuple[MlflowClient, list[str], dict[str, Run]]:
    client = MlflowClient(mlflow_sync.store_of(folder))
    experiment = client.get_experiment_by_name("paper")
    assert experiment is not None
    place = [experiment.experiment_id]
    found = [client.get_run(run.info.run_id) for run in client.search_runs(place)]
    assert len({run.info.run_name for run in found}) == len(found)  # each once
    return client, place, {str(run.info.run_name): run for run in found}


def test_what_a_method_makes_of_its_models_are_models_in_runs_of_their_own(wise: LaunchFolder) -> None:
    """Each has its scores on their data sets; those of the trial's own run stay the trained model's."""
    client, place, found = stored(wise)
    (model,) = client.search_logged_models(place, "metrics.target_accuracy > 91.5 and tags.variant = 'alpha=0.5'")
    run = found["wise_ft-confirm-seed1 alpha=0.5"]
    trained = found["wise_ft-confirm-seed1"]
    assert model.source_run_id == run.info.run_id
    assert run.data.tags["mlflow.parentRunId"] == trained.info.run_id
    assert (run.info.status, run.data.tags["status"], run.data.tags["phase"]) == ("FINISHED", "ok", "confirm")
    assert run.data.tags["row"] == model.tags["row"] == "wise_ft alpha=0.5"
    assert run.data.params == model.params == trained.data.params
    assert run.data.tags["mlflow.note.content"].startswith("wise_ft alpha=0.5, seed 1, on test data: **92.2 %** on the")
    assert (run.data.metrics["target_accuracy"], run.data.metrics["forgetting"]) == (92.2346, 1.0)
    assert trained.data.metrics["target_accuracy"] == 95.2
    held = {metric.key: metric for metric in model.metrics or []}
    assert set(held) == set(SCORES)
    assert (held["source_accuracy"].dataset_name, held["source_accuracy"].dataset_digest) == inputs(run)["source"][:2]
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert len(client.search_logged_models(place)) == 2 * (1 + len(ALPHAS))


def test_the_run_of_a_variant_leads_to_that_of_its_trial(wise: LaunchFolder, tmp_path: Path) -> None:
    _, _, found = stored(wise)
    variant, trained = (found[f"wise_ft-confirm-seed1{end}"].info.run_id for end in (" alpha=0.5", ""))
    with pytest.raises(ValueError, match=f"run {variant} is that of a model .* name the run of its trial, {trained}$"):
        fetch(mlflow_sync.store_of(wise), variant, LaunchFolder(tmp_path / "fetched"))
    assert not (tmp_path / "fetched").exists()


def test_the_parent_shows_the_best_row_if_it_is_a_variants(wise: LaunchFolder) -> None:
    client, _, found = stored(wise)
    parent = found["paper on tiny, 2025-01-01 00:00"]
    models = [client.get_logged_model(output.model_id) for output in parent.outputs.model_outputs]
    assert [model.tags["row"] for model in models] == [parent.data.tags["best"]] * 2 == ["wise_ft alpha=0.5"] * 2
    uri = mlflow_sync.store_of(wise)
    assert not any(is_best_run(uri, run.info.run_id) for run in found.values() if "variant" not in run.data.tags)


@pytest.mark.parametrize(
    "harm", ["deleted run", "deleted for good", "deleted model", "running", "twice", "other number"]
)
def test_variants_that_are_there_in_part_are_completed_once(wise: LaunchFolder, harm: str) -> None:
    client, place, found = stored(wise)
    run = found["wise_ft-confirm-seed0 alpha=0.5"]
    (output,) = run.outputs.model_outputs
    if harm == "deleted run":
        client.delete_run(run.info.run_id)
    elif harm == "deleted for good":  # as `mlflow gc` does
        client.delete_run(run.info.run_id)
        client._tracking_client.store._hard_delete_run(run.info.run_id)
    elif harm == "deleted model":
        client.delete_logged_model(output.model_id)
    elif harm == "running":
        client.update_run(run.info.run_id, status="RUNNING")
    elif harm == "twice":
        tags = {name: run.data.tags[name] for name in ("mlflow.parentRunId", "variant", "phase", "row")}
        client.create_run(place[0], run_name=str(run.info.run_name), tags=tags)
    else:
        client.log_metric(run.info.run_id, "mean", 1.0, step=10_000)
    assert main(["sync", str(wise.path)]) == 0
    _, _, again = stored(wise)
    assert set(again) == set(found)
    assert again["wise_ft-confirm-seed0"].info.run_id == found["wise_ft-confirm-seed0"].info.run_id
    assert {one.info.status for one in again.values()} == {"FINISHED"}
    models = client.search_logged_models(place)
    assert len(models) == 2 * (1 + len(ALPHAS))
    assert {model.source_run_id for model in models} < {one.info.run_id for one in again.values()}
    before = {name: one.to_dictionary() for name, one in again.items()}
    assert main(["sync", str(wise.path)]) == 0
    assert {name: one.to_dictionary() for name, one in stored(wise)[2].items()} == before


def test_a_run_that_somebody_has_nested_is_theirs(wise: LaunchFolder) -> None:
    client, place, found = stored(wise)
    trial = found["wise_ft-confirm-seed0"].info.run_id
    theirs = client.create_run(place[0], run_name="my analysis", tags={"mlflow.parentRunId": trial})
    client.delete_run(found["wise_ft-confirm-seed0 alpha=0.5"].info.run_id)  # so that there is something to mend
    assert main(["sync", str(wise.path)]) == 0
    assert client.get_run(theirs.info.run_id).info.lifecycle_stage == "active"
    assert set(stored(wise)[2]) == {*found, "my analysis"}


def test_scores_are_rounded_and_those_of_a_version_that_did_not_stay(
    tmp_path: Path, first: First, record: Make, searched: Make, seen: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list shows all digits that a number has; no image is lost by four decimals."""
    shutil.copy(first.results / "mlflow.db", tmp_path / "mlflow.db")
    records = [record(trial=f"full-confirm-seed{seed}", seed=seed, source=66.66666666) for seed in SEEDS]
    records.append(searched(target=91.4 - 1e-13, source=66.66666666))
    folder = launch(tmp_path, [seen(record) for record in records])
    with monkeypatch.context() as earlier:
        earlier.setattr(mlflow_points, "DECIMALS", 17)
        assert main(["sync", str(folder.path)]) == 0
    client, place, old = stored(folder)
    assert old["full-search-00"].data.metrics["val_source_accuracy"] == 66.66666666
    assert main(["sync", str(folder.path)]) == 0
    assert [run.to_dictionary() for run in stored(folder)[2].values()] == [run.to_dictionary() for run in old.values()]
    (model, *_) = client.search_logged_models(place)
    client.delete_logged_model(model.model_id)
    assert main(["sync", str(folder.path)]) == 0  # the model that is missing gets the very numbers of its run
    assert len(client.search_logged_models(place)) == len(SEEDS)
    for name in SCORES:
        assert len(client.get_metric_history(str(model.source_run_id), name)) == 1
    shutil.copy(first.results / "mlflow.db", tmp_path / "other.db")
    assert main(["sync", str(folder.path), "--tracking-uri", f"sqlite:///{tmp_path / 'other.db'}"]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'other.db'}")
    experiment = client.get_experiment_by_name("paper")
    assert experiment is not None
    found = {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}
    told = found["full-search-00"].data.metrics
    assert told["val_target_accuracy"] == 91.4
    assert (told["val_source_accuracy"], told["val_forgetting"]) == (66.6667, 24.0333)
    every = [value for run in found.values() for value in run.data.metrics.values()]
    assert all(value == round(value, 4) for value in every)
