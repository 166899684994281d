"""Optuna's storage: what it holds is what the search has found, once."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from bench.cluster.search import InOrder, last_result
from bench.cluster.search_optuna import Proposals
from bench.cluster.search_storage import SearchStorage, check, opened
from bench.launching import studies
from bench.launching.selection import choose
from bench.records import Record
from bench.spec import SpecError, Study

SEVERAL = "[target_accuracy, forgetting]"


def study(objective: str = SEVERAL) -> Study:
    return studies.load("full", overrides=[f"objective={objective}"]).studies[0]


def trials(*values: tuple[float, float] | None) -> list[FrozenTrial]:
    """Ended trials with their two scores; None: it has failed."""
    return [
        create_trial(
            state=TrialState.COMPLETE if scores else TrialState.FAIL,
            values=list(scores) if scores else None,
            params={"lr": 0.1 + number / 100},
            distributions={"lr": FloatDistribution(0.01, 1.0)},
            user_attrs={"record": f"full-search-{number:02d}"},
            system_attrs={"constraints:forgetting <= 2": 0.5},
        )
        for number, scores in enumerate(values)
    ]


def write(place: Path | str, told: list[FrozenTrial], launch: str = "one", **changes: Study) -> None:
    storage = SearchStorage(place, name="mine", launch=launch)
    for trial in told:
        storage.add(changes.get("study", study()), trial)
    storage.close()
    assert storage.problem is None


def names(place: Path | str) -> list[str]:
    return sorted(optuna.get_all_study_names(opened(place)))


@pytest.fixture(params=["sqlite", "journal"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path / "optuna.db" if request.param == "sqlite" else str(tmp_path / "optuna.log")


def test_what_is_loaded_is_what_was_told(place: Path | str) -> None:
    told = trials((90.0, 3.0), None, (80.0, 1.0), (79.0, 2.0))
    write(place, told)
    loaded = optuna.load_study(study_name="mine/full", storage=opened(place))
    assert [trial.state for trial in loaded.trials] == [trial.state for trial in told]
    assert [trial.values for trial in loaded.trials] == [trial.values for trial in told]
    assert [trial.params for trial in loaded.trials] == [trial.params for trial in told]
    assert [trial.user_attrs for trial in loaded.trials] == [trial.user_attrs for trial in told]
    assert loaded.trials[0].constraints == {"forgetting <= 2": 0.5}
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert loaded.metric_names == ["target_accuracy", "forgetting"]
    assert loaded.user_attrs == {"launch": "one", "method": "full", "objective": "target_accuracy and forgetting"}


UNDER = "{maximise: target_accuracy, subject_to: {forgetting: {max: 2}, source_accuracy: {min: 80}}}"


def searched_by(plan: Study, records: list[Record], place: Path | str, launch: str = "one") -> optuna.Study:
    """What a storage holds of a search whose trials have ended in such records."""
    storage = SearchStorage(place, name="mine", launch=launch)
    proposals = Proposals(plan, lambda trial: storage.add(plan, trial))
    search = InOrder(proposals, lambda index, values: None, lambda index: {}, lag=3)
    for number, record in enumerate(records):
        search.suggest(str(number))
        search.on_trial_complete(str(number), last_result(plan.objective, record))
    search.finish()
    storage.close()
    assert storage.problem is None
    return optuna.load_study(study_name="mine/full", storage=opened(place))


@pytest.mark.parametrize("objective", ["mean", "forgetting", UNDER, SEVERAL, "[source_accuracy, target_accuracy]"])
def test_the_best_and_the_front_are_those_that_are_confirmed(
    searched: Callable[..., Record], failed: Callable[..., Record], tmp_path: Path, objective: str
) -> None:
    draw = random.Random(objective)
    records = [
        searched(
            trial=f"full-search-{number:02d}",
            row={},
            target=draw.uniform(60, 99),
            source=draw.uniform(70, 90),
            before=90.7,
            status=draw.choice(["ok", "ok", "stopped"]),
        )
        for number in range(30)
    ]
    records[4] = failed(records[4])
    confirm = ["confirm=30"] if objective.startswith("[") else []  # one score confirms one configuration
    plan = studies.load("full", overrides=[f"objective={objective}", *confirm]).studies[0]
    loaded = searched_by(plan, records, tmp_path / "optuna.db")
    assert [trial.user_attrs["record"] for trial in loaded.trials] == [record.trial for record in records]
    states = {"ok": TrialState.COMPLETE, "failed": TrialState.FAIL, "stopped": TrialState.PRUNED}
    assert [trial.state for trial in loaded.trials] == [states[record.status] for record in records]
    for trial, record in zip(loaded.trials, records, strict=True):
        if record.status == "ok":
            assert trial.values == [record.scores[name] for name in plan.objective.quantities]
    best = loaded.best_trials if plan.objective.others else [loaded.best_trial]
    # The highest measurement, which the likeliest of many trials may take the place of.
    highest = [choice.highest or choice.winner for choice in choose(plan, records)]
    winners = [record.trial for record in highest if record]
    assert sorted(trial.user_attrs["record"] for trial in best) == sorted(winners)
    assert len(winners) > 1 or not plan.objective.others
    assert {trial.user_attrs["record"] for trial in searched_by(plan, records, tmp_path / "optuna.db").trials} == {
        record.trial for record in records
    }


def test_a_launch_that_goes_on_has_every_trial_once(place: Path | str) -> None:
    told = trials((90.0, 3.0), (80.0, 1.0), (70.0, 0.5))
    write(place, told[:2])
    write(place, told)
    assert names(place) == ["mine/full"]
    assert [trial.number for trial in optuna.load_study(study_name="mine/full", storage=opened(place)).trials] == [
        0,
        1,
        2,
    ]


def test_launches_share_a_storage_and_none_touches_what_another_has_left(place: Path | str) -> None:
    for launch in ("one", "two", "three"):
        write(place, trials((90.0, 3.0)), launch)
    write(place, trials((90.0, 3.0), (80.0, 1.0)), "two")
    assert names(place) == ["mine/full", "mine/full #2", "mine/full #3"]
    counts = [len(optuna.load_study(study_name=name, storage=opened(place)).trials) for name in names(place)]
    assert counts == [1, 2, 1]


@pytest.mark.parametrize("name", ["a b", "50%", "what?", "a#b", "ä&c=d"])
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write(tmp_path / name / "optuna.db", trials((90.0, 3.0)))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["optuna.db"]


def test_nothing_is_made_where_nothing_has_ended(tmp_path: Path) -> None:
    write(tmp_path / "optuna.db", [])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_at_the_end_and_stops_nothing(tmp_path: Path) -> None:
    storage = SearchStorage(tmp_path / "nowhere" / "optuna.db", name="mine", launch="one")
    for trial in trials((90.0, 3.0), (80.0, 1.0)):
        storage.add(study(), trial)
    storage.close()
    assert storage.problem is not None
    assert "unable to open database file" in storage.problem
    assert "\n" not in storage.problem


def test_tune_may_pickle_it(tmp_path: Path) -> None:
    storage = SearchStorage(tmp_path / "optuna.db", name="mine", launch="one")
    storage.add(study(), trials((90.0, 3.0))[0])
    pickle.dumps(storage)
    storage.close()


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all/optuna.db", "nosuch://localhost/optuna", "redis://localhost", "/nowhere/optuna.log"],
)
def test_a_storage_that_cannot_be_used_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(url)
    assert str(caught.value).startswith("--optuna-storage cannot be used: ")
    assert "such as sqlite:///optuna.db, or the path of a journal file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_storage_that_can_be_used_passes(tmp_path: Path) -> None:
    check(str(tmp_path / "optuna.log"))
    check(f"sqlite:///{tmp_path}/optuna.db")
