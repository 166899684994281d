"""Specifications: strict types, sentences that say what to write instead, and no silent surprises."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from bench.launching import studies
from bench.launching.benchmarks import get
from bench.spec import (
    QUANTITIES,
    Benchmark,
    Objective,
    Phase,
    SearchContext,
    Space,
    SpecError,
    Study,
    Suite,
    TrainConfig,
    Trial,
    bound_in,
    make_trial,
    parse,
    unknown,
)

LORA: dict[str, Any] = {
    "name": "mine",
    "method": "lora",
    "search": {"rank": {"choices": [4, 8]}, "lr": {"low": 0.01, "high": 0.3, "log": True}},
    "rows": ["rank"],
}


def study(**changes: Any) -> Study:
    return parse(Study, {**LORA, **changes}, where="here")


def refused(values: Mapping[str, Any], model: Any = TrainConfig) -> str:
    with pytest.raises(SpecError) as caught:
        parse(model, values, where="here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message.removeprefix("here: ")


def test_the_nearest_known_name_is_offered() -> None:
    assert str(unknown("study", "blok_expansion", ["lora", "block_expansion"])) == (
        "unknown study 'blok_expansion'; did you mean 'block_expansion'? (known: block_expansion, lora)"
    )
    assert str(unknown("study", "zzz", ["lora", "full"])) == "unknown study 'zzz' (known: full, lora)"


def test_a_mistake_is_a_value_error() -> None:
    assert issubclass(SpecError, ValueError)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": "100"}, "steps = '100': "),
        ({"steps": 1.5}, "steps = 1.5: "),
        ({"steps": True}, "steps = True: "),
        ({"steps": 0}, "steps = 0: "),
        ({"batch_size": 0}, "batch_size = 0: "),
        ({"lr": 0}, "lr = 0: "),
        ({"lr": -0.1}, "lr = -0.1: "),
        ({"lr": math.nan}, "lr = nan: "),
        ({"lr": math.inf}, "lr = inf: "),
        ({"lr": "1e-3"}, "lr = '1e-3': "),
        ({"momentum": 1.0}, "momentum = 1.0: "),
        ({"weight_decay": -1e-4}, "weight_decay = -0.0001: "),
        ({"label_smoothing": 1}, "label_smoothing = 1: "),
        ({"clip_norm": 0}, "clip_norm = 0: "),
        ({"optimizer": "sdg"}, "optimizer = 'sdg': "),
        ({"schedule": None}, "schedule = None: "),
        ({"val_every": -1}, "val_every = -1: "),
        ({"epochs": 0}, "epochs = 0: "),
        ({"accumulate": 0}, "accumulate = 0: "),
        ({"beta2": 1.0}, "beta2 = 1.0: "),
        ({"mixup_alpha": -1}, "mixup_alpha = -1: "),
        ({"mix_prob": 0}, "mix_prob = 0: "),
        ({"randaugment_n": 1.5}, "randaugment_n = 1.5: "),
        ({"randaugment_m": 31}, "randaugment_m = 31: "),
        ({"erase_prob": 1.1}, "erase_prob = 1.1: "),
        ({"crop_max": 0}, "crop_max = 0: "),
        ({"precision": "fp8"}, "precision = 'fp8': "),
        ({"keep": "first"}, "keep = 'first': "),
        ({"start_from": ""}, "start_from = '': "),
    ],
)
def test_a_wrong_type_or_range_names_field_and_value(values: dict[str, Any], said: str) -> None:
    assert refused(values).startswith(said)


def test_an_unknown_field_names_the_nearest() -> None:
    assert refused({"step": 100}).startswith(
        "unknown field 'step'; did you mean 'steps'? (known: accumulate, batch_size, "
    )
    assert refused({**LORA, "trails": 4}, Study).startswith("unknown field 'trails'; did you mean 'trials'?")


def test_an_unknown_field_of_a_space_is_named_with_its_place() -> None:
    values = {**LORA, "search": {"lr": {"lo": 0.01, "high": 0.3}}, "rows": []}
    assert refused(values, Study).startswith("unknown field 'search.lr.lo'; did you mean 'search.lr.low'?")


def test_a_missing_field_is_named() -> None:
    assert refused({"name": "mine"}, Study) == "field 'method' is missing"


def test_an_integer_is_a_float_where_one_is_asked_for() -> None:
    assert parse(TrainConfig, {"lr": 1, "clip_norm": 2}, where="here").lr == 1.0


def test_warm_up_must_leave_steps() -> None:
    assert refused({"steps": 10, "warmup_steps": 10}) == "warmup_steps = 10 leaves nothing of steps = 10"
    assert parse(TrainConfig, {"steps": 10, "warmup_steps": 9}, where="here").warmup_steps == 9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"beta1": 0.8}, "beta1 = 0.8 has no effect with optimizer = sgd"),
        ({"beta2": 0.95}, "beta2 = 0.95 has no effect with optimizer = sgd"),
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum = 0.5 has no effect with optimizer = adamw"),
        ({"mix_prob": 0.5}, "mix_prob = 0.5 has no effect with mixup_alpha = 0 and cutmix_alpha = 0"),
        ({"randaugment_m": 5}, "randaugment_m = 5 has no effect with randaugment_n = 0"),
        (
            {"randaugment_n": 2, "trivial_augment": True},
            "randaugment_n and trivial_augment exclude each other: use one of them",
        ),
        ({"crop_max": 0.5}, "crop_min = 1.0 is above crop_max = 0.5"),
        ({"keep": "best"}, "keep = best needs readings to choose from: set val_every"),
        ({"batch_size": 9, "accumulate": 2}, "batch_size = 9 does not divide among accumulate = 2"),
        (
            {"batch_size": 6, "accumulate": 2, "mixup_alpha": 1.0},
            "batch_size = 6 does not divide among accumulate = 2 x pairs of images that are mixed",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(values: dict[str, Any], said: str) -> None:
    assert refused(values) == said


def test_options_that_go_together_are_taken() -> None:
    TrainConfig(optimizer="adamw", beta1=0.8, beta2=0.95, cutmix_alpha=1.0, mix_prob=0.5, keep="best", val_every=10)
    TrainConfig(crop_min=0.2, crop_max=0.5, randaugment_n=2, randaugment_m=0, erase_prob=1.0)
    TrainConfig(epochs=2, steps=1, warmup_steps=50)  # whether that fits is known with the number of images


def test_specifications_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().steps = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        study().trials = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "a space needs choices, or low and high"),
        ({"low": 1}, "a space needs choices, or low and high"),
        ({"high": 1}, "a space needs choices, or low and high"),
        ({"choices": [1], "low": 1, "high": 2}, "write either choices or low and high, not both"),
        ({"choices": [1], "high": 2}, "write either choices or low and high, not both"),
        ({"choices": [1, 2], "log": True}, "write either choices or low and high, not both"),
        ({"choices": []}, "choices must name at least one value, each once"),
        ({"choices": [1, 2, 1]}, "choices must name at least one value, each once"),
        ({"low": 2, "high": 2}, "low = 2 must be below high = 2"),
        ({"low": 0.3, "high": 0.1}, "low = 0.3 must be below high = 0.1"),
        ({"low": 0, "high": 1, "log": True}, "a log space needs low above 0, not 0"),
        ({"low": -1.0, "high": 1.0, "log": True}, "a log space needs low above 0, not -1.0"),
    ],
)
def test_a_space_is_either_choices_or_an_interval(values: dict[str, Any], said: str) -> None:
    assert refused(values, Space) == said


@pytest.mark.parametrize("values", [{"low": "1", "high": 2}, {"choices": 4}, {"choices": "abc"}, {"choices": [[[1]]]}])
def test_a_space_of_the_wrong_type_is_refused(values: dict[str, Any]) -> None:
    assert next(iter(values)) in refused(values, Space)


def test_corners_of_a_space() -> None:
    assert Space(choices=(1, 2, 4)).corners == (1, 2, 4)
    assert Space(low=0.1, high=0.3).corners == (0.1, 0.3)
    assert parse(Space, {"choices": [1, 2]}, where="here").choices == (1, 2)


def test_a_study_reads_lists_and_has_the_documented_defaults() -> None:
    read = study()
    assert read.rows == ("rank",)
    assert read.seeds == (0, 1, 2)
    assert (read.trials, read.objective, read.scheduler) == (12, Objective(quantity="mean"), "none")
    assert (read.lag, read.search_seed) == (8, 0)
    assert read.row_count == 2
    assert study(rows=[]).row_count == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [0, 1, 0]}, "seeds must differ, not [0, 1, 0]"),
        ({"seeds": []}, "seeds = []: "),
        ({"seeds": [-1]}, "seeds.0 = -1: "),
        ({"seeds": 3}, "seeds = 3: "),
        ({"trials": 0}, "trials = 0: "),
        ({"rows": ["lr"]}, "rows names 'lr', which is not a searched field with choices"),
        ({"rows": ["p"]}, "rows names 'p', which is not a searched field with choices"),
        ({"fixed": {"rank": 4}}, "'rank' is both searched and fixed"),
        ({"objective": "accuracy"}, "objective = 'accuracy': must be one of mean, target_accuracy, source_accuracy, "),
        ({"lag": 0}, "lag = 0: "),
        ({"search_seed": -1}, "search_seed = -1: "),
        ({"scheduler": "hyperband"}, "scheduler = 'hyperband': "),
        ({"search": {"lr": 0.1}, "rows": []}, "search.lr = 0.1: "),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(changes: dict[str, Any], said: str) -> None:
    assert refused({**LORA, **changes}, Study).startswith(said)


@pytest.mark.parametrize(("trials", "ranks"), [(2, [4, 8]), (5, [4, 8, 4, 8, 4])])
def test_trials_are_dealt_to_the_rows_in_turn(trials: int, ranks: list[int]) -> None:
    mine = study(trials=trials)
    assert mine.row_values == [{"rank": 4}, {"rank": 8}]
    assert mine.dealt_points == [{"rank": rank} for rank in ranks]
    assert mine.confirmations == 2 * 3


@pytest.mark.parametrize("search", ["rank", "both"])
def test_rows_have_equally_many_trials_up_to_one(search: str) -> None:
    space: dict[str, Any] = {"rank": {"choices": [4, 8, 16]}, "lr": {"low": 0.01, "high": 0.3, "log": True}}
    if search == "both":
        space["lr"] = {"choices": [0.01, 0.1]}
    for trials in range(3, 20):
        counts = study(trials=trials, search=space).trials_by_row
        assert sum(counts) == trials
        assert max(counts) - min(counts) == (trials % 3 > 0)
    assert study(trials=7, search=space, rows=[]).trials_by_row == (7,)
    assert study(trials_per_row=4, search=space).trials_by_row == (4, 4, 4)


@pytest.mark.parametrize("objective", ["mean", ["target_accuracy", "forgetting"]])
def test_a_row_without_a_trial_is_refused(objective: Any) -> None:
    message = refused({**LORA, "trials": 1, "objective": objective}, Study)
    assert message == (
        "trials = 1 leaves some of the 2 rows without one, and such a row cannot be confirmed: set trials=2 or more, "
        "or fewer choices of rank"
    )
    assert study(trials=1, rows=[]).trials_by_row == (1,)


MODES = {"mean": "max", "target_accuracy": "max", "source_accuracy": "max", "forgetting": "min"}
SCORES = {"mean": 87.5, "target_accuracy": 95.5, "source_accuracy": 79.5, "forgetting": 11.2}


def test_every_score_can_be_an_objective_and_is_written_as_its_name() -> None:
    assert tuple(MODES) == QUANTITIES
    for name, mode in MODES.items():
        objective = study(objective=name).objective
        assert (str(objective), objective.mode) == (name, mode)
        assert study(objective=name).model_dump(mode="json")["objective"] == name
        assert study(objective=objective.model_dump()) == study(objective=name)


@pytest.mark.parametrize(("quantity", "mode"), MODES.items())
def test_an_objective_is_larger_where_a_trial_is_better(quantity: Any, mode: str) -> None:
    objective = Objective(quantity=quantity)
    assert objective.value(SCORES) == (SCORES[quantity] if mode == "max" else -SCORES[quantity])
    higher, lower = (objective.value({**SCORES, quantity: score}) for score in (3.0, 2.0))
    assert higher is not None
    assert lower is not None
    assert (higher > lower) is (mode == "max")
    assert objective.value({**SCORES, quantity: None}) is None
    assert objective.value({}) is None


UNDER = {"maximise": "target_accuracy", "subject_to": {"forgetting": {"max": 2}}}


@pytest.mark.parametrize(
    ("written", "said", "modes"),
    [
        (UNDER, "target_accuracy subject to forgetting <= 2", ("max",)),
        (
            {"minimise": "forgetting", "subject_to": {"target_accuracy": {"min": 90.5}}},
            "forgetting subject to target_accuracy >= 90.5",
            ("min",),
        ),
        (
            {"maximise": "mean", "subject_to": {"forgetting": {"min": -1.5, "max": 0}, "source_accuracy": {"min": 80}}},
            "mean subject to forgetting >= -1.5 and forgetting <= 0 and source_accuracy >= 80",
            ("max",),
        ),
        (["target_accuracy", "source_accuracy"], "target_accuracy and source_accuracy", ("max", "max")),
        (["forgetting", "target_accuracy", "mean"], "forgetting and target_accuracy and mean", ("min", "max", "max")),
    ],
)
def test_an_objective_is_written_as_it_is_read(written: Any, said: str, modes: tuple[str, ...]) -> None:
    held = study(objective=written)
    assert (str(held.objective), held.objective.modes) == (said, modes)
    assert held.search_context.objective == said
    assert held.model_dump(mode="json")["objective"] == written
    assert Study.model_validate_json(held.model_dump_json()) == held


HOW = "must be one of mean, target_accuracy, source_accuracy, forgetting, a list of several of them, or {maximise: "


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("target", HOW),
        (["target_accuracy", "speed"], HOW),
        (["target_accuracy", 3], HOW),
        (["mean"], "a list must name at least two scores, each once"),
        ([], "a list must name at least two scores, each once"),
        (["mean", "mean"], "a list must name at least two scores, each once"),
        ({}, "write a score, a list of scores, or a score under constraints such as {maximise: "),
        ({"maximise": "mean"}, "write a score, a list of scores, or a score under constraints such as {maximise: "),
        ({**UNDER, "weight": 2}, "write a score, a list of scores, or a score under constraints"),
        ({**UNDER, "minimise": "forgetting"}, "write a score, a list of scores, or a score under constraints"),
        ({"subject_to": {"forgetting": {"max": 2}}}, "write a score, a list of scores, or a score under constraints"),
        ({**UNDER, "maximise": ["target_accuracy", "mean"]}, "maximise names one score: several cannot be searched"),
        ({**UNDER, "maximise": "forgetting"}, "write minimise: forgetting, as that is the better direction"),
        ({**UNDER, "maximise": "speed"}, HOW),
        ({**UNDER, "subject_to": {}}, "subject_to must say which scores have which limits"),
        ({**UNDER, "subject_to": "forgetting"}, "subject_to must say which scores have which limits"),
        ({**UNDER, "subject_to": {"speed": {"max": 2}}}, "subject_to.speed: must be one of mean"),
        ({**UNDER, "subject_to": {"forgetting": 2}}, "subject_to.forgetting must have min, max, or both"),
        ({**UNDER, "subject_to": {"forgetting": {}}}, "subject_to.forgetting must have min, max, or both"),
        ({**UNDER, "subject_to": {"forgetting": {"most": 2}}}, "subject_to.forgetting must have min, max, or both"),
        ({**UNDER, "subject_to": {"forgetting": {"max": "2"}}}, "subject_to.forgetting.max = '2': must be a number"),
        ({**UNDER, "subject_to": {"forgetting": {"max": True}}}, "subject_to.forgetting.max = True: must be a number"),
        ({**UNDER, "subject_to": {"mean": {"min": float("nan")}}}, "subject_to.mean.min = nan: must be a number"),
        ({**UNDER, "subject_to": {"mean": {"min": -1}}}, "subject_to.mean.min = -1: must be a number from 0 to 100"),
        ({**UNDER, "subject_to": {"forgetting": {"max": 101}}}, "subject_to.forgetting.max = 101: must be a number"),
        ({**UNDER, "subject_to": {"mean": {"min": 9, "max": 8}}}, "subject_to.mean: min = 9 is above max = 8"),
    ],
)
def test_an_objective_that_means_nothing_is_refused_in_a_sentence(written: Any, said: str) -> None:
    message = refused({**LORA, "objective": written}, Study)
    assert message.startswith("objective = ")
    assert f": {said}" in message
    assert "\n" not in message


def test_values_are_maximised_and_excesses_are_points_beyond_a_limit() -> None:
    several = study(objective=["target_accuracy", "forgetting"]).objective
    assert several.values(SCORES) == (95.5, -11.2)
    assert several.values({**SCORES, "forgetting": None}) is None
    limits = {"forgetting": {"max": 2}, "target_accuracy": {"min": 96, "max": 100}}
    under = study(objective={"maximise": "mean", "subject_to": limits}).objective
    assert under.values(SCORES) == (87.5,)
    assert under.excesses(SCORES) == pytest.approx((9.2, 0.5, -4.5))
    assert under.excesses({"mean": 87.5}) is None
    assert several.excesses({}) == ()


def test_a_front_has_so_many_confirmations_at_most() -> None:
    several = ["target_accuracy", "source_accuracy"]
    assert study(objective=several, trials=12).confirmations == 3 * 3
    assert study(objective=several, trials=12, confirm=5, seeds=[1]).confirmations == 5
    assert study(objective=several, trials=2).confirmations == 2 * 3
    assert study(confirm=3).confirmations == 2 * 3  # the rows
    message = refused({**LORA, "confirm": 2}, Study)
    assert message == (
        "confirm = 2 has no effect, as the objective mean confirms one configuration of every row: name several "
        "scores, or leave out confirm"
    )


def test_trials_can_be_asked_for_by_row() -> None:
    by_row = {name: value for name, value in LORA.items() if name != "trials"}
    assert [study(trials_per_row=3, rows=rows).trials for rows in (["rank"], [])] == [6, 3]
    held = parse(Study, {**by_row, "trials_per_row": 3}, where="here")
    assert Study.model_validate_json(held.model_dump_json()) == held
    message = refused({**by_row, "trials": 5, "trials_per_row": 3}, Study)
    assert message == "trials = 5 and trials_per_row = 3 contradict each other: set only one"


def test_a_grid_has_room_for_all_choices() -> None:
    assert study(sampler="grid", trials=2).sampler == "grid"
    needed = {"rank": {"choices": [4, 8]}, "lr": {"low": 0.1, "high": 1.0}, "alpha": {"choices": [1, 2, 3]}}
    message = refused({**LORA, "search": needed, "sampler": "grid", "trials": 5}, Study)
    assert message.startswith("sampler grid needs 6 trials for all choices, and trials = 5: set trials=6")
    assert refused({**LORA, "sampler": "anneal"}, Study).startswith("sampler = 'anneal': ")


@pytest.mark.parametrize("seeds", [[0, 1, 2], [1000], [1002, 1000, 1001], list(range(1000, 2000))])
def test_search_trials_have_a_seed_that_no_confirmation_has(seeds: list[int]) -> None:
    held = study(seeds=seeds)
    assert held.trial_seed not in seeds
    assert held.trial_seed == study(seeds=seeds[::-1]).trial_seed


def test_a_suite_names_every_method_once() -> None:
    with pytest.raises(ValidationError, match="two studies of one suite use the method 'lora'"):
        Suite(name="both", studies=(study(), study(name="other")))


def test_a_trial_takes_values_over_study_over_benchmark() -> None:
    benchmark: Benchmark = get("tiny")
    mine = study(train={"steps": 20, "warmup_steps": 5}, fixed={"alpha": 16, "momentum": 0.5})
    trial = make_trial(
        mine, benchmark, {"rank": 8, "lr": 0.2}, launch="paper", label="search-03", seed=7, phase="search"
    )
    assert trial.id == "lora-search-03"
    assert (trial.study, trial.seed, trial.phase) == ("paper", 7, "search")
    assert trial.fields == {"rank": 8, "alpha": 16}
    assert trial.hyperparameters == {"rank": 8, "alpha": 16, "momentum": 0.5, "lr": 0.2}
    assert trial.row == {"rank": 8}
    assert (trial.train.steps, trial.train.warmup_steps, trial.train.lr, trial.train.momentum) == (20, 5, 0.2, 0.5)
    assert trial.train.batch_size == benchmark.train.batch_size


def test_a_trial_says_how_its_search_was_held() -> None:
    held = study(objective="forgetting", trials=5, lag=3, search_seed=9)
    context = SearchContext(objective="forgetting", trials=5, lag=3, seed=9)
    assert held.search_context == context
    assert study().search_context == SearchContext(objective="mean", trials=12, lag=8, seed=0)
    assert study().search_context.model_dump() == {"objective": "mean", "trials": 12, "lag": 8, "seed": 0}
    assert study(sampler="gp").search_context.model_dump()["sampler"] == "gp"
    phases: tuple[Phase, ...] = get_args(Phase)
    for phase in phases:
        made = make_trial(held, get("tiny"), {"rank": 8, "lr": 0.2}, launch="x", label="y", seed=4, phase=phase)
        assert made.search == context
        assert Trial.model_validate_json(made.model_dump_json()).search == context
    assert [trial.search for trial in studies.corners(held, get("tiny"))] == [context] * 4


def test_a_trial_refuses_a_training_field_that_does_not_exist() -> None:
    mine = study(train={"stepz": 20})
    with pytest.raises(SpecError, match=r"study 'mine', train: unknown field 'stepz'; did you mean 'steps'\?"):
        make_trial(mine, get("tiny"), {"rank": 8}, launch="x", label="y", seed=0, phase="search")


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="unknown benchmark 'tinny'; did you mean 'tiny'"):
        get("tinny")


GRID = {"rank": {"choices": [4, 8]}, "lr": {"choices": [0.1, 0.2]}}


def test_a_space_that_the_trials_can_hold_is_tried_completely() -> None:
    grid = [{"rank": 4, "lr": 0.1}, {"rank": 8, "lr": 0.1}, {"rank": 4, "lr": 0.2}, {"rank": 8, "lr": 0.2}]
    assert study(search=GRID, trials=4).dealt_points == grid
    assert study(search=GRID, trials=5).dealt_points == [*grid, {"rank": 4}]
    assert study(search=GRID, trials=3).dealt_points == [{"rank": 4}, {"rank": 8}, {"rank": 4}]
    assert study(search=GRID, rows=[], trials=5).dealt_points == [
        {"rank": 4, "lr": 0.1},
        {"rank": 4, "lr": 0.2},
        {"rank": 8, "lr": 0.1},
        {"rank": 8, "lr": 0.2},
    ]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({}, {"steps": 100_000, "epochs": None, "warmup_steps": 5000, "budget": 10}),
        ({"steps": 100}, {"steps": 1000, "epochs": None, "warmup_steps": 50}),
        ({"steps": 100, "warmup_steps": 7}, {"steps": 1000, "warmup_steps": 7}),
        ({"epochs": 1.5}, {"steps": 10_000, "epochs": 15.0}),
    ],
)
def test_a_budget_multiplies_what_is_trained(train: Any, expected: Mapping[str, Any]) -> None:
    values, context = {"rank": 8, "lr": 0.2, "budget": 10}, {"launch": "x", "label": "x", "seed": 0}
    made = make_trial(study(train=train), get("cifar100"), values, phase="search", **context)
    assert {name: getattr(made.train, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"budget": 0}, "budget = 0: "),
        ({"budget": "ten"}, "budget = 'ten': "),
        ({"budget": float("nan")}, "budget = nan: "),
        ({"budget": True}, "budget = True: "),
        ({"budget": 2, "steps": 1.5}, "steps = 1.5: "),
        ({"budget": 9000}, "steps = 90000000: "),
    ],
)
def test_a_budget_that_is_none_is_refused(train: Any, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        make_trial(study(train=train), get("cifar100"), {"rank": 8}, launch="x", label="x", seed=0, phase="search")


@pytest.mark.parametrize(
    ("train", "steps", "warmup"),
    [({}, 10_000, 500), ({"steps": 100}, 100, 5), ({"steps": 3}, 3, 0), ({"steps": 100, "warmup_steps": 7}, 100, 7)],
)
def test_a_shorter_training_keeps_the_recipes_share_of_warm_up(train: Any, steps: int, warmup: int) -> None:
    values = {"rank": 8, "lr": 0.2}
    made = make_trial(study(train=train), get("cifar100"), values, launch="x", label="x", seed=0, phase="search")
    assert (made.train.steps, made.train.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize("bound", [0, 2, 0.5, 1e-9, 1e-5, 99.999999999, 100 / 3, -1.5])
def test_limits_can_be_read_off_an_objective_as_it_is_written(bound: float) -> None:
    limits = {"forgetting": {"min": -50, "max": bound}, "mean": {"min": 20}}
    said = str(Objective.model_validate({"maximise": "target_accuracy", "subject_to": limits}))
    assert bound_in(said, "forgetting", "max") == pytest.approx(bound, rel=1e-14)
    assert bound_in(said, "forgetting", "min") == -50
    assert bound_in(said, "mean", "min") == 20
    assert bound_in(said, "target_accuracy", "max") is None
    assert bound_in("", "forgetting", "max") is None
    assert bound_in("forgetting and mean", "forgetting", "max") is None


@pytest.mark.parametrize(
    ("objective", "kept"),
    [("mean", True), (UNDER, True), ("forgetting", True), ("target_accuracy", False)],
)
def test_a_trial_says_what_its_best_model_is_kept_by(objective: Any, kept: bool) -> None:
    """Where that is the target accuracy alone, its configuration reads as it did before anything else was possible."""
    best = study(objective=objective, train={"keep": "best", "val_every": 5})
    made = make_trial(best, get("tiny"), {"rank": 8, "lr": 0.1}, launch="x", label="y", seed=0, phase="search")
    assert made.keep_by == (best.objective if kept else None)
    assert ("keep_by" in made.model_dump()) == kept
    assert Trial.model_validate_json(made.model_dump_json()) == made
    last = study(objective=objective, train={"val_every": 5})
    assert (
        make_trial(last, get("tiny"), {"rank": 8, "lr": 0.1}, launch="x", label="y", seed=0, phase="search").keep_by
        is None
    )
