"""A search that is repeated: seeds of its own, records that say so, and rows that average over the searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from bench.cluster.search import searched as trial_of
from bench.cluster.search_optuna import Proposals
from bench.cluster.search_storage import SearchStorage, opened
from bench.folder import LaunchFolder
from bench.launching import studies
from bench.launching.benchmarks import get
from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.outcomes import Outcome, difference
from bench.reporting.rows import build, outcomes
from bench.spec import SearchContext, SpecError, Study

Make = Callable[..., Record]
TINY = get("tiny")


def study(*overrides: str, method: str = "lora") -> Study:
    return studies.load(method, overrides=list(overrides)).studies[0]


def test_every_search_has_seeds_that_no_other_has() -> None:
    plan = study("repeats=3", "seeds=[0, 2]", "search_seed=7")
    searches = plan.searches
    assert [one.search_seed for one in searches] == [7, 8, 9]
    assert [one.seeds for one in searches] == [(0, 2), (3, 5), (6, 8)]
    assert [one.trial_seed for one in searches] == [1000, 1001, 1002]
    assert [one.search_context.repeat for one in searches] == [0, 1, 2]
    assert plan.all_trials == 3 * (plan.trials + 3 * 2)
    trials = [trial_of(one, TINY, {"rank": 4, "lr": 0.01}, index=5, launch="x") for one in searches]
    assert [trial.id for trial in trials] == [f"lora-{name}search-05" for name in ("", "repeat1-", "repeat2-")]
    assert [trial.seed for trial in trials] == [1000, 1001, 1002]


def test_a_single_search_is_written_as_before() -> None:
    (only,) = study().searches
    assert only == study()
    assert "repeat" not in only.search_context.model_dump()
    assert "repeat" not in study("repeats=2").searches[1].model_dump()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["repeat=1"], "repeat is counted when searches are repeated: set repeats"),
        (["repeats=2", "objective=[target_accuracy, forgetting]"], "has a front whose points differ"),
        (["repeats=0"], "repeats = 0"),
        (["repeats=3", f"seeds=[{2**32 - 1}]"], "choose smaller seeds"),
        (["repeats=3", f"search_seed={2**32 - 2}"], "choose smaller seeds"),
    ],
)
def test_what_cannot_be_repeated_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        study(*overrides)


def test_each_search_is_a_study_of_its_own_in_optunas_storage(tmp_path: Path) -> None:
    storage = SearchStorage(tmp_path / "optuna.db", name="mine", launch="one")
    for one in study("repeats=2", "trials=3", method="full").searches:
        proposals = Proposals(one, lambda trial, one=one: storage.add(one, trial))  # type: ignore[misc]
        proposals.suggest("0")
        proposals.on_trial_complete("0", error=True)
    storage.close()
    place = opened(tmp_path / "optuna.db")
    held = {
        name: optuna.load_study(study_name=name, storage=place).trials for name in optuna.get_all_study_names(place)
    }
    named = {name: [trial.user_attrs["record"] for trial in trials] for name, trials in held.items()}
    assert named == {"mine/full": ["full-search-00"], "mine/repeat1-full": ["full-repeat1-search-00"]}


N = 1000
LEVELS = (0.9, 0.8, 0.85)
"""What the three searches' configurations truly reach: they differ far more than seeds do."""


def confirmed(answered: Make, *, method: str = "full", shift: float = 0.0, repeated: bool = True) -> Iterator[Record]:
    """Three searches with two seeds each, whose choices differ."""
    draw = np.random.default_rng(0)
    hard = draw.random(N)
    for repeat, level in enumerate(LEVELS):
        for seed in (2 * repeat, 2 * repeat + 1):
            right = hard + draw.normal(0, 0.02, N) < level + shift
            context: dict[str, Any] = {"objective": "mean", "trials": 12, "lag": 8, "seed": repeat}
            search = SearchContext(**context, repeat=repeat if repeated else None)
            config = {
                "id": "x",
                "seed": seed,
                "method": method,
                "phase": "confirm",
                "train": {"steps": 150, "lr": 0.1 * level},
            }
            yield answered(
                right,
                right,
                hard < 0.95,
                trial=f"{method}-repeat{repeat}-seed{seed}",
                method=method,
                seed=seed,
                search=search,
                hyperparameters={"lr": 0.1 * level},
                config={key: value for key, value in config.items() if key != "id"},
            )


def test_a_row_averages_over_its_searches(answered: Make) -> None:
    records = list(confirmed(answered))
    (row,) = build(records).rows
    assert row.searches == 3
    assert row.hyperparameters == {"lr": [0.1 * level for level in LEVELS]}
    assert row.configurations == tuple({"lr": 0.1 * level} for level in LEVELS)
    assert len(row.trials) == 6
    assert row.mean is not None
    assert row.mean.mean == pytest.approx(100 * np.mean(LEVELS), abs=2)
    assert row.mean.low is not None
    assert row.mean.high is not None
    # Student's t with two degrees of freedom: searches vary by 5 points, and there are three.
    half = 4.3 * 5 / np.sqrt(3)
    assert row.mean.high - row.mean.mean == pytest.approx(min(half, 100 - row.mean.mean), rel=0.15)


def test_without_repeats_every_configuration_is_a_row(answered: Make) -> None:
    board = build(list(confirmed(answered, repeated=False)))
    assert [row.searches for row in board.rows] == [1, 1, 1]


def test_rows_of_one_launch_are_compared_search_by_search(answered: Make) -> None:
    """Both methods' searches had the same luck here: what differs is known far better than either row."""
    records = [*confirmed(answered), *confirmed(answered, method="lora", shift=-0.04)]
    first, second = outcomes(records).values()
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert first.seeds == second.seeds == (-1, -2, -3)
    apart = difference(first, second, "target_accuracy")
    assert apart.value == pytest.approx(0.04, abs=0.01)
    assert apart.p_value() < 0.05
    own = first.estimate("target_accuracy").interval()
    assert own is not None
    assert own[1] - own[0] > 0.1


def test_the_leaderboard_says_what_its_intervals_hold_over(answered: Make, tmp_path: Path) -> None:
    records = [*confirmed(answered), *confirmed(answered, method="lora", shift=-0.04)]
    folder = LaunchFolder(tmp_path)
    leaderboard.write(build(records), folder)
    text = folder.table.read_text()
    assert "3 searches a row, with 6 seeds a row" in text
    assert "with other searches, other seeds and other images" in text
    assert "what another search would have chosen" not in text
    assert "lr=0.09,0.08,0.085" in text
