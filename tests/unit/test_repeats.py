"""A search that is repeated: seeds of its own, records that say so, and rows that average over the searches."""

from __future__ import annotations

import re
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
from bench.reporting.compare import compare, sentences
from bench.reporting.findings import caveats, findings, interval_legend
from bench.reporting.outcomes import Outcome, difference
from bench.reporting.rows import QUANTITIES, build, outcomes
from bench.reporting.statistics import wilson
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
    share = np.mean(LEVELS)
    low, high = wilson(share, share * (1 - share) / (0.05**2 / 3), 4.3)
    assert (row.mean.low, row.mean.high) == pytest.approx((100 * low, 100 * high), abs=3)
    assert high < 0.94


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


def lost(records: list[Record], failed: Make, *trials: str) -> list[Record]:
    return [failed(record) if record.trial in trials else record for record in records]


def test_a_search_that_has_lost_a_seed_counts_as_much_as_the_others(answered: Make, failed: Make) -> None:
    """Mean and deviation are those of what the interval is over, so that its centre is the mean, whatever fails."""
    whole = list(confirmed(answered))
    records = lost(whole, failed, "full-repeat0-seed0", "full-repeat2-seed4")
    (row,), (outcome,) = build(records).rows, outcomes(records).values()
    assert outcome is not None
    by_trial = {record.trial: record.scores["mean"] for record in whole}
    groups = [["full-repeat0-seed1"], ["full-repeat1-seed2", "full-repeat1-seed3"], ["full-repeat2-seed5"]]
    means = [float(np.mean([by_trial[trial] for trial in group])) for group in groups]
    assert row.mean is not None
    assert row.mean.mean == pytest.approx(np.mean(means))
    assert row.mean.mean != pytest.approx(np.mean([record.scores["mean"] for record in records if not record.error]))
    assert row.mean.std == pytest.approx(np.std(means, ddof=1))
    assert (row.mean.n, row.seeds, row.failed, row.searches) == (3, 4, 2, 3)
    for quantity in QUANTITIES:
        assert getattr(row, quantity).mean == pytest.approx(100 * outcome.estimate(quantity).value)
    table = leaderboard.markdown(build(records))
    assert re.search(r"^\| full \| [^|]*\| [^|]*\| 4 \| 3 × ", table, re.M)  # seeds, and searches


def test_equally_many_seeds_of_every_search_have_the_mean_of_all(answered: Make) -> None:
    records = list(confirmed(answered))
    (row,) = build(records).rows
    assert row.mean is not None
    assert row.mean.mean == pytest.approx(np.mean([record.scores["mean"] for record in records]))
    assert (row.mean.n, row.seeds) == (3, 6)


def test_curves_average_searches_as_the_row_does(answered: Make, failed: Make) -> None:
    def read_on_the_way(record: Record) -> Record:
        found = {reading.probe: reading for reading in record.readings if reading.step == record.steps}
        before = next(reading for reading in record.readings if reading.step == 0)
        on_the_way = [
            own.model_copy(update={"step": step, "split": "val", "answers": None, "n": None})
            for step in (50, 100)
            for own in found.values()
        ]
        first = before.model_copy(update={"split": "val", "answers": None, "n": None})
        return record.model_copy(update={"readings": (first, *on_the_way, *record.readings)})

    records = lost([read_on_the_way(record) for record in confirmed(answered)], failed, "full-repeat0-seed0")
    (row,) = build(records).rows
    assert row.mean is not None
    means = [point for point in row.curve if point.quantity == "mean" and point.step > 0]
    assert [point.step for point in means] == [50, 100]
    for point in means:
        assert (point.mean, point.std, point.n) == pytest.approx((row.mean.mean, row.mean.std, 3))
    assert "(means over searches; all steps" in leaderboard.markdown(build(records))


def test_rows_say_when_they_are_of_one_search_alone(answered: Make, failed: Make) -> None:
    full, lora = list(confirmed(answered)), list(confirmed(answered, method="lora", shift=-0.04))
    only = [record for record in full if record.repeat == 0]
    (row,) = build(only).rows
    assert row.mean is not None
    assert (row.mean.n, row.seeds, row.repeated) == (2, 2, False)
    assert "leaves out what another search would have chosen" in interval_legend(build(only))
    both = [*lora, *lost(full, failed, *(record.trial for record in full if record.repeat))]
    assert caveats(build(both))[-1] == (
        "Of a single search, so that intervals leave out what another would have chosen: full."
    )
    single = [record for record in confirmed(answered, repeated=False) if record.seed < 2]
    assert caveats(build([*lora, *single]))[-1] == (
        "Of a single search, so that intervals leave out what another would have chosen: full."
    )


def folder_of(place: Path, records: list[Record]) -> Path:
    for record in records:
        record.write(place / "records")
    return place


def several(answered: Make, **changes: Any) -> list[Record]:
    return [*confirmed(answered, **changes), *confirmed(answered, method="lora", shift=-0.01, **changes)]


def test_searches_are_counted_where_rows_average_searches(answered: Make, tmp_path: Path) -> None:
    """Of nine seeds a row nobody is told that nine seeds would do."""
    records = several(answered)
    board = build(records)
    assert board.separation is not None
    assert board.separation.counted_in == "searches"
    (said,) = [line for line in findings(board) if " minus " in line]
    assert re.search(r"(about \d+|no number of) searches", said) or "with these searches" in said
    assert "seed" not in said
    assert "seed" not in " ".join(sentences(compare(f"{folder_of(tmp_path / 'all', records)}:full", "lora")))
    one = [record for record in records if record.repeat == 0]
    (said,) = [line for line in findings(build(one)) if " minus " in line]
    assert "search" not in said  # of a single one the seeds are what is known
    assert "search" not in " ".join(sentences(compare(f"{folder_of(tmp_path / 'one', one)}:full", "lora")))


def test_searches_against_seeds_are_called_both(answered: Make) -> None:
    single = [record for record in confirmed(answered, method="lora", shift=-0.01, repeated=False) if record.seed < 2]
    board = build([*confirmed(answered), *single])
    assert board.separation is not None
    assert board.separation.counted_in == "searches or seeds"
    assert any("searches or seeds" in line for line in findings(board))


def test_rows_of_unequal_searches_are_shown_over_those_they_share(
    answered: Make, failed: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A minus B is what stands beside it: 85 minus 81, where the third search of one is not there."""
    whole, short = (folder_of(tmp_path / name, several(answered)) for name in ("whole", "short"))
    for record in several(answered):
        if record.method == "lora" and record.repeat == 1:
            (short / "records" / f"{record.trial}.json").unlink()
    found = compare(f"{short}:full", "lora")
    for line in found.lines:
        assert line.apart.value == pytest.approx(100 * (line.first.value - line.second.value))
        assert line.left_out == ((1,), ())
    everything = compare(f"{whole}:full", "lora")
    assert everything.lines[0].first.value != pytest.approx(found.lines[0].first.value)
    assert all(line.left_out == ((), ()) for line in everything.lines)
    assert "Left out of A, since B lacks them: repeat 1." in list(sentences(found))
    assert not any("Left out" in line for line in sentences(everything))
    between = list(sentences(compare(str(short), str(whole))))
    assert [line for line in between if "Left" in line] == ["Left out of B's lora, since A lacks them: repeat 1."]
    (said,) = [line for line in findings(build(LaunchFolder(short).read_records())) if " minus " in line]
    assert " points of MEAN over the searches that both have" in said


def test_seeds_that_one_row_lacks_are_named(launch_of: Make, tmp_path: Path) -> None:
    rows = {"full": (0.95, 0.55), "lora": (0.93, 0.85)}
    records = [
        one for one in launch_of(rows, seeds=(0, 1, 2, 3)) if (one.method, one.seed) not in (("lora", 0), ("lora", 2))
    ]
    found = compare(f"{folder_of(tmp_path, records)}:lora", "full")
    for line in found.lines:
        assert line.apart.value == pytest.approx(100 * (line.first.value - line.second.value))
    assert "Left out of B, since A lacks them: seeds 0, 2." in list(sentences(found))
