"""Selection: which configurations are confirmed, told apart by their values and not by how these look."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bench.launching.benchmarks import get
from bench.launching.posterior import HEIGHTS, LENGTHS, posterior_means
from bench.launching.selection import (
    Choice,
    at_edges,
    best_of_rows,
    choose,
    names,
    remark_on,
    row_key,
)
from bench.pareto import non_dominated, spread
from bench.readings import HEAD, KNN, Reading
from bench.records import Record
from bench.spec import QUANTITIES, Objective, Study, make_trial, parse

Make = Callable[..., Record]


def study(objective: Any = "mean", **more: Any) -> Study:
    return parse(Study, {"name": "mine", "method": "full", "objective": objective, **more}, where="here")


def trials(make: Make, rows: Sequence[dict[str, Any]], **changes: Sequence[Any]) -> list[Record]:
    """Search records in the order of the search; ``changes`` holds a value for each of them."""
    return [
        make(trial=f"full-search-{index:02d}", row=row, **{name: values[index] for name, values in changes.items()})
        for index, row in enumerate(rows)
    ]


def winners(choices: Sequence[Choice]) -> list[str | None]:
    return [choice.winner and choice.winner.trial.removeprefix("full-search-") for choice in choices]


def test_rows_that_print_alike_are_rows_of_their_own(searched: Make) -> None:
    values = [0.999, 0.9995, 0.9999, 0.999]
    assert len({f"{value:.3g}" for value in values}) < len(set(values))
    choices = best_of_rows(study(), trials(searched, [{"beta2": value} for value in values], target=[80, 81, 82, 83]))
    assert [choice.row for choice in choices] == [{"beta2": 0.999}, {"beta2": 0.9995}, {"beta2": 0.9999}]
    assert winners(choices) == ["03", "01", "02"]


@pytest.mark.parametrize("values", [(1, True, 1.0, "1"), (0, False, 0.0, "0"), (None, "None", "")])
def test_values_of_different_types_are_different_rows(searched: Make, values: tuple[Any, ...]) -> None:
    rows = [{"x": value} for value in values]
    assert len({row_key(row) for row in rows}) == len(values)
    choices = best_of_rows(study(), trials(searched, rows))
    assert [(type(choice.row["x"]), choice.row["x"]) for choice in choices] == [
        (type(value), value) for value in values
    ]
    assert winners(choices) == [f"{index:02d}" for index in range(len(values))]
    assert len(set(names(choices))) == len(values)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_best_of_a_row_is_that_of_the_objective(searched: Make, quantity: str) -> None:
    row = {"k": 3}
    records = trials(
        searched, [row] * 4, target=[70, 95, 80, 88], source=[90, 60, 89, 85], before=[99, 99, 89.5, 99]
    )  # forgetting 9, 39, 0.5, 14; mean 80, 77.5, 84.5, 86.5
    best = {"mean": "03", "target_accuracy": "01", "source_accuracy": "00", "forgetting": "02"}[quantity]
    (choice,) = best_of_rows(study(quantity), records)
    assert winners([choice]) == [best]
    assert choice.row == row
    value = Objective.model_validate(quantity).value
    assert choice.winner is not None
    assert value(choice.winner.scores) == max(value(record.scores) or -1e9 for record in records)


def test_of_equals_the_earliest_wins_whatever_ended_first(searched: Make) -> None:
    records = trials(searched, [{"k": 3}] * 12, target=[80, 90, 90, 70, *[90] * 8])
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert winners(best_of_rows(study(), records)) == ["01"]


def test_the_earliest_is_that_of_the_lowest_number(searched: Make) -> None:
    """Also where there are more trials than two digits can count: ``search-100`` comes after ``search-99``."""
    records = [searched(trial=f"full-search-{index:02d}") for index in (99, 100, 101)]
    assert winners(best_of_rows(study(), records)) == ["99"]


def test_rows_come_in_the_order_of_the_search(searched: Make) -> None:
    records = trials(searched, [{"k": 3}, {"k": 1}, {"k": 2}, {"k": 1}])
    random.Random(0).shuffle(records)
    assert [choice.row["k"] for choice in best_of_rows(study(), records)] == [3, 1, 2]


def test_only_trials_that_succeeded_can_win(searched: Make, failed: Make) -> None:
    good = trials(searched, [{"k": 3}, {"k": 3}, {"k": 3}, {"k": 1}], target=[99, 99, 50, 99])
    stopped = searched(**{**dict(good[1]), "status": "stopped"})
    assert stopped.scores["mean"] is not None
    records = [failed(good[0]), stopped, good[2], failed(good[3])]
    choices = best_of_rows(study(), records)
    assert [choice.row["k"] for choice in choices] == [3, 1]
    assert winners(choices) == ["02", None]


def test_without_row_fields_there_is_one_row(searched: Make, failed: Make) -> None:
    records = trials(searched, [{}, {}], target=[80, 90])
    (choice,) = best_of_rows(study(), records)
    assert (choice.row, winners([choice])) == ({}, ["01"])
    assert names([choice]) == [""]
    assert winners(best_of_rows(study(), [failed(record) for record in records])) == [None]
    assert best_of_rows(study(), []) == []


def called(*rows: dict[str, Any]) -> list[str]:
    return names([Choice(row, None) for row in rows])


def test_a_name_is_field_and_value() -> None:
    assert called({"rank": 8}, {"k": 3, "lr": 1e-5}, {"beta2": 0.9995}) == ["rank8", "k3-lr1e-05", "beta20.9995"]


def test_names_fit_into_a_file_name() -> None:
    paths = {"start_from": "/data/my runs/a.json"}, {"start_from": "../b.json"}, {"start_from": "C:\\c?*.json"}
    for name in called(*paths, {"x": ""}, {"x": "ä\n\0"}):
        assert re.fullmatch(r"[\w.+-]+", name)
        assert name not in (".", "..")
    assert called(*paths) == ["start_from_data_my_runs_a.json", "start_from.._b.json", "start_fromC_c_.json"]


@pytest.mark.parametrize(
    "values",
    [
        (1, "1", True, 1.0, 1),
        ("a/b", "a b", "a_b", "a//b"),
        ("a/b", "a b", "a_b-2"),  # what the second would be called
        ("a_b-2", "a/b", "a b"),
        ("v", "v", "v-2", "v-2"),
    ],
)
def test_names_are_unique(values: tuple[Any, ...]) -> None:
    assert len(set(called(*({"x": value} for value in values)))) == len(values)


def test_several_choices_of_one_row_have_names_of_their_own() -> None:
    assert called({}, {}, {}) == ["", "2", "3"]
    assert called({"k": 3}, {"k": 3}) == ["k3", "k3-2"]


def test_stopped_trials_are_chosen_from_only_where_none_of_the_row_ran_to_its_end(searched: Make) -> None:
    rows = [{"k": 1}, {"k": 1}, {"k": 2}, {"k": 2}, {"k": 2}]
    ended = ["ok", "stopped", "stopped", "stopped", "failed"]
    reasons = [None, None, None, None, "training diverged"]
    records = trials(searched, rows, status=ended, target=[70, 90, 60, 80, 99], error=reasons)
    assert winners(best_of_rows(study(), records)) == ["00", "03"]


LOG, PLAIN, WHOLE = ({"low": 0.01, "high": 1.0, "log": True}, {"low": 0.0, "high": 0.5}, {"low": 1, "high": 20})


@pytest.mark.parametrize(
    ("space", "value", "side"),
    [
        (LOG, 0.0101, "lower"),
        (LOG, 0.0158, "lower"),
        (LOG, 0.016, None),
        (LOG, 0.1, None),
        (LOG, 0.63, None),
        (LOG, 0.632, "upper"),
        (LOG, 1.0, "upper"),
        (PLAIN, 0.0, None),
        (PLAIN, 0.46, "upper"),
        (WHOLE, 1, None),
        (WHOLE, 20, "upper"),
        ({"low": 2, "high": 20}, 2, "lower"),
        ({"choices": [0.1, 0.2]}, 0.2, None),
    ],
)
def test_a_best_value_at_an_end_of_its_range_is_said(space: dict[str, Any], value: Any, side: str | None) -> None:
    given = {"name": "mine", "method": "linear", "search": {"lr": space}}
    said = list(at_edges(parse(Study, given, where="here"), {"lr": value, "momentum": 0.9}))
    assert len(said) == (side is not None)
    if side:
        assert f"lies at the {side} end of its range" in said[0]
        assert said[0].endswith(": widen search.lr")


UNDER = {"maximise": "target_accuracy", "subject_to": {"forgetting": {"max": 2}, "source_accuracy": {"min": 80}}}
SEVERAL = ["target_accuracy", "source_accuracy"]


def test_the_best_that_keeps_the_constraints_is_chosen(searched: Make) -> None:
    rows = [{"k": 1}] * 4 + [{"k": 2}] * 3
    records = trials(
        searched,
        rows,
        target=[99, 90, 92, 91, 99, 98, 97],
        source=[90, 89.5, 89, 79, 70, 75, 75],  # of 91: forgetting 1, 1.5, 2, 12; 21, 16, 16
        before=[91, 91, 91, 91, 91, 91, 91],
    )
    assert winners(choose(study(UNDER), records)) == ["00", "05"]
    assert [choice.unmet for choice in choose(study(UNDER), records)] == [
        (),
        ("forgetting <= 2", "source_accuracy >= 80"),
    ]
    assert winners(choose(study(UNDER), records[1:4])) == ["02"]  # a limit that is met exactly is kept


def test_a_failed_trial_keeps_no_constraint(searched: Make, failed: Make) -> None:
    good = trials(searched, [{}, {}], target=[99, 50], source=[91, 60], before=[91, 91])
    (choice,) = choose(study(UNDER), [failed(good[0]), good[1]])
    assert (winners([choice]), choice.unmet) == (["01"], ("forgetting <= 2", "source_accuracy >= 80"))


def test_several_scores_give_the_front_of_all_rows(searched: Make, failed: Make) -> None:
    rows = [{"k": 1}, {"k": 2}, {"k": 1}, {"k": 2}, {"k": 3}, {"k": 1}]
    records = trials(searched, rows, target=[80, 95, 85, 95, 70, 99], source=[90, 60, 85, 60, 80, 99])
    records[5] = failed(records[5])
    chosen = choose(study(SEVERAL), records)
    assert winners(chosen) == ["01", "02", "00"]  # by target accuracy; of equals the earliest, and none of k = 3
    assert [choice.row["k"] for choice in chosen] == [2, 1, 1]
    assert names(chosen) == ["k2", "k1", "k1-2"]
    assert winners(choose(study(SEVERAL, confirm=2), records)) == ["01", "00"]
    assert winners(choose(study(SEVERAL, confirm=1), records)) == ["02"]
    assert winners(choose(study(["forgetting", "target_accuracy"]), records)) == ["00", "02", "01"]


def trajectory(make: Make, name: str, read: dict[int, tuple[float, float]], **changes: Any) -> Record:
    """A search trial with readings after some steps."""
    readings = [
        Reading(step=step, split="val", domain=domain, probe=probe, n=100, numbers={"top1": float(top1)})
        for step, both in read.items()
        for (domain, probe), top1 in zip((("target", HEAD), ("source", KNN)), both, strict=True)
    ]
    before = Reading(step=0, split="val", domain="source", probe=KNN, n=100, numbers={"top1": 95.0})
    warm_up = changes.pop("warm_up", 0)
    ids = {"trial": f"full-search-{name}", "method": "full", "seed": 0, "phase": "search"}
    config = {"id": ids["trial"], "method": "full", "seed": 0, "phase": "search", "train": {"warmup_steps": warm_up}}
    own = {"readings": (before, *readings), "config": config, "steps": max(read), "row": {}}
    return make(**{**ids, **own, "hyperparameters": {"lr": float(name)}, **changes})


def test_every_reading_along_a_trial_may_be_on_the_front(searched: Make, failed: Make) -> None:
    slow = trajectory(searched, "1", {10: (50, 94), 20: (60, 93), 30: (70, 90)})
    fast = trajectory(searched, "2", {10: (75, 91), 20: (85, 80)}, status="stopped")
    lost = failed(trajectory(searched, "3", {10: (99, 99)}))
    every = study(SEVERAL, candidates="every", confirm=10, train={"schedule": "none", "val_every": 10})
    chosen = choose(every, [slow, fast, lost])
    assert [choice.values for choice in chosen] == [
        {"lr": 2.0, "steps": 20},
        {"lr": 2.0, "steps": 10},  # which beats the last model of the other trial
        {"lr": 1.0, "steps": 20},
        {"lr": 1.0, "steps": 10},
    ]
    last = study(SEVERAL, confirm=10)
    assert [choice.values for choice in choose(last, [slow, fast, lost])] == [{"lr": 1.0}]


def test_what_was_read_while_the_learning_rate_rose_is_no_candidate(searched: Make) -> None:
    warm = trajectory(searched, "1", {10: (50, 94), 20: (60, 93)}, warm_up=10)
    every = study(SEVERAL, candidates="every", confirm=10)
    assert [choice.values for choice in choose(every, [warm])] == [{"lr": 1.0, "steps": 20, "warmup_steps": 10}]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"train": {"budget": 2.0}},
        {"train": {"budget": 0.5, "warmup_steps": 7}},
        {"fixed": {"budget": 3.0, "steps": 40}},
        {"train": {"budget": 1.0}},
        {"benchmark": 2.0},
    ],
)
def test_a_step_that_is_chosen_on_the_way_is_the_confirmations_last(searched: Make, asked: dict[str, Any]) -> None:
    """Whatever multiplies the steps of the search: the confirmation trains as the winner did, and stops there."""
    train = get("tiny").train.model_copy(update={"budget": asked.get("benchmark", 1.0)})
    benchmark = get("tiny").model_copy(update={"train": train})
    constant = {**asked.get("train", {}), "schedule": "none", "val_every": 10}
    every = study(SEVERAL, candidates="every", train=constant, fixed=asked.get("fixed", {}))
    trial = make_trial(every, benchmark, {"lr": 1.0}, launch="x", label="search-00", seed=1000, phase="search")
    last = trial.train.steps
    read = {last - 10: (90.0, 90.0), last: (80.0, 80.0)}
    config = {"method": "full", "seed": 1000, "phase": "search", "train": trial.train.model_dump()}
    own = {"config": config, "seed": 1000, "hyperparameters": trial.hyperparameters}
    record = trajectory(searched, "1", read, **own)
    (choice,) = choose(every, [record])
    confirmed = make_trial(every, benchmark, choice.values, launch="x", label="y", seed=0, phase="confirm")
    assert confirmed.train.steps == last - 10
    same = {"steps", "budget"}
    assert confirmed.train.model_dump(exclude=same) == trial.train.model_dump(exclude=same)
    assert confirmed.row == trial.row


def test_a_front_of_nothing_is_nothing_row_by_row(searched: Make, failed: Make) -> None:
    records = [failed(record) for record in trials(searched, [{"k": 1}, {"k": 2}])]
    assert [(choice.row["k"], choice.winner) for choice in choose(study(SEVERAL), records)] == [(1, None), (2, None)]


def test_a_point_is_beaten_by_one_that_is_as_good_everywhere_and_better_somewhere() -> None:
    draw = random.Random(0)
    for _ in range(100):
        points = [tuple(draw.choice([1, 2, 3, 4]) for _ in range(3)) for _ in range(12)]
        kept = non_dominated(points)
        for index, point in enumerate(points):
            better = any(all(a >= b for a, b in zip(one, point, strict=True)) and one != point for one in points)
            assert (index in kept) == (not better and points.index(point) == index)


def test_points_spread_along_a_front_whatever_its_units() -> None:
    line = [(x, 100 - x) for x in (0, 1, 2, 49, 51, 98, 99, 100)]
    assert {line[index][0] for index in spread(line, 3)} in ({0, 49, 100}, {0, 51, 100})
    scaled = [(0.001 * x, 7 * y) for x, y in line]
    for count in range(1, 10):
        assert spread(scaled, count) == spread(line, count)
        assert len(set(spread(line, count))) == min(count, len(line))
    corner = [(0, 10), (9, 9), (10, 0)]
    assert spread(corner, 1) == [1]
    assert spread([(3, 4)], 3) == spread([(3, 4)], 1) == [0]


RATES = {"lr": {"low": 0.001, "high": 1.0, "log": True}}
SMOOTH = [60.0, 70.0, 79.0, 86.0, 90.0, 90.4, 90.2, 89.0, 85.0, 78.0, 70.0, 60.0]
LUCKY = [*SMOOTH[:7], 91.0, *SMOOTH[8:]]
"""Trial 07 lies above a curve whose top is at 05."""


def along(make: Make, curve: Sequence[float], **changes: Any) -> list[Record]:
    """Trials in equal steps of log lr, whose target accuracy is the curve."""
    rates = [10 ** (-3 + 3 * index / (len(curve) - 1)) for index in range(len(curve))]
    return [
        make(
            trial=f"full-search-{index:02d}",
            row={},
            hyperparameters={"lr": rate, "alpha": 0.1},
            target=value,
            **changes,
        )
        for index, (rate, value) in enumerate(zip(rates, curve, strict=True))
    ]


def test_of_many_trials_along_a_range_the_likeliest_is_chosen_and_not_the_luckiest(searched: Make) -> None:
    plan = study("target_accuracy", search=RATES)
    (choice,) = best_of_rows(plan, along(searched, LUCKY))
    assert winners([choice]) == ["05"]
    assert choice.highest is not None
    assert choice.highest.trial == "full-search-07"
    (choice,) = best_of_rows(plan, along(searched, SMOOTH))
    assert (winners([choice]), choice.highest) == (["05"], None)


@pytest.mark.parametrize(
    ("changes", "curve"),
    [
        ({}, LUCKY[3:10]),  # few trials
        ({"search": {**RATES, "alpha": {"low": 0.0, "high": 1.0}}}, LUCKY),
        ({"search": {"lr": {"choices": [0.1, 0.2]}}}, LUCKY),
        ({"search": {}}, LUCKY),
        ({"protocol": "paper"}, LUCKY),
        (
            {"objective": {"maximise": "target_accuracy", "subject_to": {"source_accuracy": {"min": 10}}}},
            LUCKY,
        ),
    ],
)
def test_elsewhere_the_highest_is_chosen(searched: Make, changes: dict[str, Any], curve: list[float]) -> None:
    plan = study(**{"objective": "target_accuracy", "search": RATES, **changes})
    (choice,) = best_of_rows(plan, along(searched, curve))
    assert choice.winner is not None
    assert choice.winner.scores["target_accuracy"] == max(curve)
    assert choice.highest is None


def test_stopped_trials_are_not_compared_by_their_neighbours(searched: Make) -> None:
    (choice,) = best_of_rows(study("target_accuracy", search=RATES), along(searched, LUCKY, status="stopped"))
    assert winners([choice]) == ["07"]


def test_the_same_rate_measured_often_is_one_rate(searched: Make) -> None:
    records = [
        searched(trial=f"full-search-{index:02d}", row={}, hyperparameters={"lr": 0.1}, target=80.0)
        for index in range(12)
    ]
    assert winners(best_of_rows(study("target_accuracy", search=RATES), records)) == ["00"]


def test_an_exact_measurement_is_believed() -> None:
    """The posterior of values without error is the values, and of values that say nothing their mean."""
    places = [index / 11 for index in range(12)]
    assert posterior_means(places, LUCKY, [1e-3] * 12) == pytest.approx(LUCKY, abs=0.01)
    flat = posterior_means(places, LUCKY, [1e4] * 12)
    assert flat == pytest.approx([sum(LUCKY) / 12] * 12, abs=0.1)


def test_posterior_means_are_those_of_scikit_learn() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    draw = random.Random(3)
    for count in (8, 15):
        places, errors = [draw.random() for _ in range(count)], [draw.uniform(0.5, 2) for _ in range(count)]
        values = [80 - 60 * (place - 0.4) ** 2 + draw.gauss(0, 1) for place in places]
        centre = sum(values) / count
        fits = [
            GaussianProcessRegressor(
                ConstantKernel(height**2) * RBF(length), alpha=np.square(errors), optimizer=None
            ).fit([[place] for place in places], [value - centre for value in values])
            for length in LENGTHS
            for height in HEIGHTS
        ]
        likeliest = max(fits, key=lambda fit: fit.log_marginal_likelihood_value_)
        expected = centre + likeliest.predict([[place] for place in places])
        assert posterior_means(places, values, errors) == pytest.approx(list(expected))


def test_what_is_not_as_expected_is_said(searched: Make, failed: Make) -> None:
    under, mean = study(UNDER), study()
    (nearest,) = choose(under, trials(searched, [{}, {}], target=[99, 98], source=[70, 75.25], before=[91, 91]))
    assert remark_on(under, nearest) == (
        "no search trial keeps forgetting <= 2 and source_accuracy >= 80; the one that comes nearest is confirmed, "
        "full-search-01 with forgetting 15.8, source_accuracy 75.2"
    )
    plan = study("target_accuracy", search=RATES)
    (likelier,) = choose(plan, along(searched, LUCKY))
    assert remark_on(plan, likelier) == (
        "full-search-07 was measured best (target_accuracy 91); by all trials of the row full-search-05 (90.4) is more "
        "likely to be, and is confirmed"
    )
    good = trials(searched, [{}])
    assert remark_on(mean, choose(mean, good)[0]) is None
    assert remark_on(mean, choose(mean, [failed(good[0])])[0]) == "no search trial succeeded, nothing to confirm"
