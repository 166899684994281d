"""The search without Ray: proposals depend on the study and its lag alone, and each comes as soon as it can."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable, Container, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from bench import records
from bench.cluster import search
from bench.cluster.pruning import Bar, Seen, survives
from bench.cluster.search import FAILED, INDEX, InOrder, heard, pruner
from bench.cluster.search_optuna import EXCESSES, METRIC, SEEN, STOPPED, Proposals, decoded, planned, proposals
from bench.launching import studies
from bench.launching.benchmarks import get
from bench.readings import Point
from bench.spec import Space, Study

TRIALS = 20
"""The estimator takes over from random draws after a third of them."""

Values = dict[str, Any]
Result = dict[str, Any]


def study(**changes: Any) -> Study:
    overrides = [f"{name}={value}" for name, value in {"trials": TRIALS, **changes}.items()]
    return studies.load("block_expansion", overrides=overrides).studies[0]


def good(values: Values) -> Result:
    return {METRIC: 50 - 100 * abs(values["lr"] - 0.05) + values["p"]}


class Notes(Searcher):
    """Passes everything on to Optuna, and notes which results it had heard of before each proposal."""

    def __init__(self, inner: Searcher) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner = inner
        self.told: list[int] = []
        self.known: list[list[int]] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        self.known.append(list(self.told))
        return self.inner.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append(int(trial_id))
        self.inner.on_trial_complete(trial_id, result=result, error=error)

    def save(self, checkpoint_path: str) -> None:
        raise AssertionError("nothing is saved")

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("nothing is restored")


class Hiding(optuna.storages.InMemoryStorage):
    """Optuna's usual storage, in which one trial cannot be found any more as soon as it has ended."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = super().get_all_trials(study_id, deepcopy, states)
        return [one for one in found if one.number != self._number or not one.state.is_finished()]


def hiding(study: Study, number: int) -> OptunaSearch:
    """The search, whose sampler never sees the result of one trial, whatever it is told of it."""
    search = proposals(study)
    search._storage = Hiding(number)  # Ray's parameter ``storage``
    search._setup_study("max")
    return search


class Launch:
    """Plays Tune: asks for a trial whenever a slot is free, and ends those that run in some order."""

    def __init__(
        self,
        study: Study,
        *,
        slots: int,
        choose: Callable[[Sequence[int]], int] = min,
        result: Callable[[int, Values], Result] = lambda index, values: good(values),
        inner: Searcher | None = None,
        lose: Container[int] = (),
    ) -> None:
        """Play to the end.

        Args:
            slots: trials at once.
            choose: which of the running trials ends next.
            result: of a trial, by its index and its values.
            inner: what makes the proposals; that of the study if None.
            lose: trials whose actor Tune loses, and gives up.
        """
        self.dealt: list[Values] = []
        self.notes = Notes(inner or proposals(study))
        self.waiting: list[int] = []
        search = InOrder(self.notes, self._submit, lambda index: result(index, self.dealt[index]), lag=study.lag)
        asked, running = 0, set[int]()
        for _ in range(study.trials):
            while asked < study.trials and len(running) < slots:
                assert search.suggest(str(asked)) == {INDEX: asked}
                running.add(asked)
                asked += 1
            self.waiting.append(asked - len(self.dealt))
            index = choose(sorted(running & set(range(len(self.dealt)))))
            running.remove(index)
            lost = index in lose
            search.on_trial_complete(str(index), None if lost else result(index, self.dealt[index]), error=lost)

    def _submit(self, index: int, values: Values) -> None:
        assert index == len(self.dealt)
        self.dealt.append(values)


@pytest.mark.parametrize("lag", [1, 3, 8])
def test_proposals_depend_on_the_lag_and_on_nothing_else(lag: int) -> None:
    alone = Launch(study(lag=lag), slots=1)
    assert len(alone.dealt) == TRIALS
    assert len({values["lr"] for values in alone.dealt}) == TRIALS
    exactly = [list(range(max(0, index - lag + 1))) for index in range(TRIALS)]
    assert alone.notes.known == exactly  # proposal n knows the results 0 to n - lag
    for slots in (2, 4, 8):
        for seed in range(2):
            several = Launch(study(lag=lag), slots=slots, choose=random.Random(seed).choice)
            assert several.dealt == alone.dealt, (slots, seed)
            assert several.notes.known == exactly, (slots, seed)


@pytest.mark.parametrize("lag", [1, 3])
def test_proposals_are_the_same_where_tune_loses_actors(lag: int) -> None:
    """What becomes of their trials is known all the same; one of them has failed by itself."""

    def result(index: int, values: Values) -> Result:
        return {FAILED: True} if index == 4 else good(values)

    quiet = Launch(study(lag=lag), slots=2, result=result)
    lossy = Launch(study(lag=lag), slots=2, result=result, lose={0, 3, 4, 11, TRIALS - 1})
    assert lossy.dealt == quiet.dealt
    assert lossy.notes.known == quiet.notes.known


def test_another_lag_gives_other_proposals_once_the_estimator_has_begun() -> None:
    short, long = (Launch(study(lag=lag), slots=4).dealt for lag in (2, 8))
    same = [one == other for one, other in zip(short, long, strict=True)]
    assert not all(same)
    assert short[8:9] != long[8:9]  # with a lag of 2 the first eight are planned, with one of 8 the ninth is, too


def test_another_search_seed_gives_other_proposals_and_other_trial_seeds_do_not() -> None:
    one = Launch(study(), slots=2).dealt
    assert Launch(study(seeds=[7, 8]), slots=2).dealt == one
    assert Launch(study(search_seed=1), slots=2).dealt != one


def test_up_to_lag_slots_are_kept_busy_and_more_are_not() -> None:
    assert set(Launch(study(lag=4), slots=4).waiting) == {0}
    assert max(Launch(study(lag=4), slots=7).waiting) == 3


@pytest.mark.parametrize("failing", [0, 3, 10])
def test_a_failed_trial_teaches_the_sampler_nothing(failing: int) -> None:
    """Proposals are those of a sampler that never saw how the trial ended; after a success they are others."""

    def failed(index: int, values: Values) -> Result:
        return {**good(values), FAILED: True} if index == failing else good(values)

    plan = study(lag=2)
    unseen = Launch(plan, slots=2, inner=hiding(plan, failing)).dealt
    assert Launch(plan, slots=2, result=failed).dealt == unseen
    succeeded = Launch(plan, slots=2).dealt
    assert succeeded[: failing + 2] == unseen[: failing + 2]  # made before its end was known
    assert succeeded != unseen


UNDER = "{maximise: target_accuracy, subject_to: {forgetting: {max: 2}}}"
SEVERAL = "[target_accuracy, forgetting]"


def traded(objective: str) -> Callable[[int, Values], Result]:
    """Trials that learn best at lr = 0.05, and forget more with every larger one."""

    def result(index: int, values: Values) -> Result:
        target, forgetting = 90 - 100 * abs(values["lr"] - 0.05), 40 * values["lr"]
        measured = {METRIC: [target, -forgetting] if objective == SEVERAL else target, "step": 10}
        return {**measured, EXCESSES: [forgetting - 2]} if objective == UNDER else measured

    return result


@pytest.mark.parametrize("objective", ["mean", UNDER, SEVERAL])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc", "random", "grid"])
def test_proposals_of_every_sampler_are_repeatable_and_row_by_row(sampler: str, objective: str) -> None:
    plan = study(sampler=sampler, objective=objective, lag=3)
    alone = Launch(plan, slots=1, result=traded(objective)).dealt
    several = Launch(plan, slots=3, choose=random.Random(1).choice, result=traded(objective)).dealt
    assert several == alone
    assert [values["p"] for values in alone] == [1, 2, 3, 4] * (TRIALS // 4)
    space = plan.search["lr"]
    assert all(space.low <= values["lr"] <= space.high for values in alone)  # type: ignore[operator]


def test_gaussian_processes_are_repeatable() -> None:
    plan = study(sampler="gp", lag=2, trials=5)
    alone, several = (Launch(plan, slots=slots).dealt for slots in (1, 2))
    assert several == alone
    assert alone != Launch(study(sampler="random", lag=2, trials=5), slots=1).dealt


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_the_sampler_learns_what_keeps_a_constraint(sampler: str) -> None:
    """A trial learns most at lr = 0.2, and forgets more than 2 points from 0.05 on."""

    def result(index: int, values: Values) -> Result:
        return {METRIC: 90 - 100 * abs(values["lr"] - 0.2), EXCESSES: [40 * values["lr"] - 2], "step": 10}

    kept, free = (
        sum(values["lr"] <= 0.05 for values in Launch(plan, slots=1, result=result).dealt[-20:])
        for plan in (
            study(sampler=sampler, objective=objective, trials=60, lag=1) for objective in (UNDER, "target_accuracy")
        )
    )
    assert kept >= free + 5


def test_planned_samplers_try_the_same_values_in_every_row_and_fill_the_range() -> None:
    for sampler in ("qmc", "grid"):
        points = planned(study(sampler=sampler, trials=22))
        assert [point["p"] for point in points] == [1 + index % 4 for index in range(22)]
        rates = [point["lr"] for point in points[:20]]
        assert [rates[row::4] for row in range(4)] == [rates[::4]] * 4
        places = sorted(math.log(rate / 0.0003, 1000) for rate in rates[::4])  # type: ignore[operator]
        assert max(b - a for a, b in itertools.pairwise([0, *places, 1])) < 0.5
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert planned(study(sampler="qmc")) != planned(study(sampler="qmc", search_seed=1))


def places(values: Sequence[Any], space: Space) -> list[float]:
    """Where values lie in a range, from 0 to 1, in their order."""
    assert space.low is not None
    assert space.high is not None
    return sorted(math.log(value / space.low, space.high / space.low) for value in values)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
@pytest.mark.parametrize("search_seed", range(3))
@pytest.mark.parametrize(("trials", "lag", "begun"), [(12, 2, 8), (12, 8, 9), (12, 11, 12), (36, 2, 12), (6, 1, 6)])
def test_what_a_sampler_learns_from_at_first_fills_every_rows_range_and_all_of_it(
    sampler: str, search_seed: int, trials: int, lag: int, begun: int
) -> None:
    """Without luck: no two values of a row in one part of its range; with rows of one length, nor two of the study."""
    plan = study(trials=trials, lag=lag, search_seed=search_seed, sampler=sampler)
    points = planned(plan)
    assert [point["p"] for point in points] == [1 + index % 4 for index in range(trials)]
    first = [point for point in points if "lr" in point]
    assert first == points[: len(first)]
    assert len(first) == begun if sampler == "tpe" else 2 <= len(first) <= begun
    space = plan.search["lr"]
    for row in range(1, 5):
        own = places([point["lr"] for point in first if point["p"] == row], space)
        assert {int(place * len(own)) for place in own} == set(range(len(own)))
        assert len(own) >= len(first) // 4
    together = places([point["lr"] for point in first], space)
    if len(first) % 4 == 0:
        assert {int(place * len(first)) for place in together} == set(range(len(first)))
    assert first != planned(study(trials=trials, lag=lag, search_seed=9, sampler=sampler))[: len(first)]


def test_the_first_values_of_every_choice_fill_the_range_the_middle_first() -> None:
    both = "objective=[target_accuracy, source_accuracy]"
    plan = studies.load("block_expansion", overrides=[both, "rows=[]", "trials=16", "lag=2"]).studies[0]
    points = planned(plan)
    assert sorted(point["p"] for point in points) == [1, 1, 2, 2, 3, 3, 4, 4]  # type: ignore[type-var]
    for p in (1, 2, 3, 4):
        low, high = places([point["lr"] for point in points if point["p"] == p], plan.search["lr"])
        assert 0 < low < 0.5 < high < 1
    alone = studies.load("full", overrides=[both, "trials=8", "lag=2"]).studies[0]
    (space,) = alone.search.values()
    found = [places([point["lr"]], space)[0] for point in planned(alone)]
    assert [abs(place - 0.5) for place in found] == sorted(abs(place - 0.5) for place in found)
    gaps = [b - a for a, b in itertools.pairwise(sorted(found))]
    assert gaps == pytest.approx([1 / 8] * 7)


def test_more_choices_than_trials_are_tried_by_halves_and_whole_numbers_stay_whole() -> None:
    space = "search={momentum: {choices: [0.0, 0.3, 0.5, 0.9]}, label_smoothing: {choices: [0.0, 0.1]}, "
    space += "batch_size: {choices: [16, 32]}, warmup_steps: {low: 0, high: 7}, lr: {low: 0.01, high: 1, log: true}}"
    plan = studies.load("linear", overrides=[space, "trials=8", "lag=1"]).studies[0]
    points = planned(plan)
    assert sorted(point["momentum"] for point in points) == [0, 0, 0.3, 0.3, 0.5, 0.5, 0.9, 0.9]  # type: ignore[type-var]
    assert sorted(point["warmup_steps"] for point in points) == list(range(8))  # type: ignore[type-var]
    assert {type(point["warmup_steps"]) for point in points} == {int}
    assert all(set(point) == set(plan.search) for point in points)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_what_is_believed_is_tried_first_in_every_row(sampler: str) -> None:
    plan = study(sampler=sampler, beliefs="[{values: {lr: 0.02}, weight: 0.5}]", lag=3)
    alone, several = (Launch(plan, slots=slots).dealt for slots in (1, 3))
    assert alone == several
    assert [values["p"] for values in alone] == [1, 2, 3, 4] * (TRIALS // 4)
    assert [values["lr"] for values in alone[:4]] == [0.02] * 4
    assert len({values["lr"] for values in alone[4:]}) > TRIALS // 2
    assert Launch(study(sampler=sampler, lag=3), slots=1).dealt != alone


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_so_large_a_share_of_the_first_draws_lies_around_a_belief(weight: float) -> None:
    """Uniform draws lie within a tenth of the range around it in two of ten cases, those of the belief in 68 of 100."""
    plan = study(trials=1200, sampler="random", beliefs=f"[{{values: {{lr: 0.0095}}, weight: {weight}}}]")
    points = planned(plan)[:400]
    places = [math.log(point["lr"] / 0.0003, 1000) for point in points if "lr" in point]  # type: ignore[operator]
    assert len(places) == pytest.approx(400 * weight + 4 * (1 - weight), abs=40)
    assert sum(abs(place - 0.5) < 0.1 for place in places) / len(places) == pytest.approx(0.68, abs=0.12)
    assert all("lr" not in point for point in planned(plan)[400:])


def test_a_belief_about_a_row_is_about_that_row_alone() -> None:
    plan = study(sampler="random", beliefs="[{values: {p: 2, lr: 0.02}, weight: 1}]")
    points = planned(plan)
    assert [("lr" in point) for point in points[:6]] == [False, True, False, False, False, True]
    assert points[1] == {"p": 2, "lr": 0.02}


def test_beliefs_without_rows_leave_the_rest_to_the_sampler() -> None:
    plan = studies.load("full", overrides=["beliefs=[{values: {lr: 0.01}, weight: 0.5}]", "trials=9"]).studies[0]
    points = planned(plan)
    assert points[0] == {"lr": 0.01}
    assert len({point["lr"] for point in points}) == len(points) == plan.lag + 1
    assert Launch(plan, slots=1, result=lambda index, values: {METRIC: values["lr"], "step": 1}).dealt[0]["lr"] == 0.01


def test_a_grid_is_as_fine_as_the_trials_allow() -> None:
    space = {
        "lr": "{low: 0.01, high: 1, log: true}",
        "warmup_steps": "{low: 0, high: 2}",
        "momentum": "{choices: [0, 0.9]}",
    }
    text = "search={" + ", ".join(f"{name}: {value}" for name, value in space.items()) + "}"
    linear = studies.load("linear", overrides=[text, "sampler=grid", "trials=25"]).studies[0]
    points = planned(linear)
    values = {name: sorted({point[name] for point in points}) for name in space}  # type: ignore[type-var]
    assert values["momentum"] == [0, 0.9]
    assert values["warmup_steps"] == [0, 1, 2]
    assert values["lr"] == pytest.approx([0.01, 0.01 * 100 ** (1 / 3), 0.01 * 100 ** (2 / 3), 1])
    assert len({tuple(point.values()) for point in points}) == len(points) == 24  # one trial is drawn at random
    assert {type(value) for value in values["warmup_steps"]} == {int}


@pytest.mark.parametrize("sampler", ["qmc", "grid", "gp", "nsga2"])
def test_a_space_that_the_trials_can_hold_is_tried_completely_by_every_sampler(sampler: str) -> None:
    space = "search={p: {choices: [1, 2]}, lr: {choices: [0.1, 0.2]}}"
    held = studies.load("block_expansion", overrides=[space, "trials=4", f"sampler={sampler}"]).studies[0]
    dealt = Launch(held, slots=1).dealt
    assert sorted((values["p"], values["lr"]) for values in dealt) == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]


def ended(plan: Study, result: Callable[[int, Values], Result], *, curve: Sequence[float] = ()) -> list[FrozenTrial]:
    """What Optuna knows of the trials of a search on one slot, each of which has read a curve before it ended."""
    heard: list[FrozenTrial] = []
    dealt: list[Values] = []
    search = InOrder(
        Proposals(plan, heard.append), lambda index, values: dealt.append(values), lambda index: {}, lag=plan.lag
    )
    for index in range(plan.trials):
        search.suggest(str(index))
        last = result(index, dealt[index])
        seen = [{"step": step, METRIC: value} for step, value in enumerate(curve, start=1)]
        seen += [{"step": last["step"], METRIC: last[METRIC]}] if METRIC in last else []
        search.on_trial_complete(str(index), {**last, SEEN: seen})
    search.finish()
    return heard


def test_optuna_hears_of_every_trial_in_order_with_the_name_of_its_record() -> None:
    plan = study(objective=UNDER)
    heard = ended(plan, traded(UNDER), curve=[10.0, 20.0])
    assert [trial.number for trial in heard] == list(range(TRIALS))
    assert [trial.user_attrs["record"] for trial in heard] == [
        f"block_expansion-search-{index:02d}" for index in range(TRIALS)
    ]
    for trial in heard:
        result = traded(UNDER)(0, trial.params)
        assert (trial.state, trial.values) == (TrialState.COMPLETE, [result[METRIC]])
        assert trial.constraints == {"forgetting <= 2": result[EXCESSES][0]}
        assert trial.intermediate_values == {1: 10.0, 2: 20.0, 10: result[METRIC]}


def test_scores_are_told_as_records_have_them() -> None:
    """Not as they are maximised."""
    (trial, *_) = ended(study(objective=SEVERAL), traded(SEVERAL))
    assert trial.values == pytest.approx([90 - 100 * abs(trial.params["lr"] - 0.05), 40 * trial.params["lr"]])
    (trial, *_) = ended(study(objective="forgetting"), lambda index, values: {METRIC: -7.5, "step": 3})
    assert trial.values == [7.5]


def test_a_stopped_trial_is_pruned_with_what_was_seen_and_never_complete() -> None:
    def result(index: int, values: Values) -> Result:
        return {METRIC: 30.0, "step": 3, STOPPED: index % 2 == 1}

    heard = ended(study(), result, curve=[10.0, 20.0])
    assert [trial.state for trial in heard] == [TrialState.COMPLETE, TrialState.PRUNED] * (TRIALS // 2)
    assert {tuple(trial.intermediate_values.items()) for trial in heard} == {((1, 10.0), (2, 20.0), (3, 30.0))}
    (trial, *_) = ended(study(objective=SEVERAL), lambda index, values: {METRIC: [1.0, 2.0], "step": 3, STOPPED: True})
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    (trial, *_) = ended(study(), lambda index, values: {"step": 0, STOPPED: True})  # before its first reading
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.PRUNED, None, {})


def test_a_failed_trial_has_failed_whatever_it_had_read() -> None:
    (trial, *_) = ended(study(), lambda index, values: {METRIC: 99.0, "step": 3, FAILED: True}, curve=[10.0])
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.FAIL, None, {})


class Asked:
    """A board that notes what it is asked, and answers in order."""

    def __init__(self, *answers: Any) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self._answers = iter(answers)

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any, **named: Any) -> Any:
            self.heard.append((name, *given, *([named["release"]] if "release" in named else [])))
            return next(self._answers, None)

        return SimpleNamespace(remote=remote)


def watcher(board: Asked) -> search.PooledTrial:
    made = object.__new__(search.PooledTrial)
    made.setup({INDEX: 3}, board, study(), ("here", 1))
    return made


def test_who_watches_a_trial_stops_it_only_if_it_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended the search releases, when it has heard of it: until then another actor may have to look."""
    monkeypatch.setattr(search.ray, "get", lambda answer: answer)
    trial = search.searched(study(), get("tiny"), {"p": 4, "lr": 0.1}, index=3, launch="launch")
    record = records.of(trial, status="stopped")
    ended, cut = Asked(True, (None, None), (None, record)), Asked(True, (Point(5, 10, {}), None))
    for board, done in ((ended, True), (cut, False)):
        watching = watcher(board)
        watching.cleanup()  # Tune has given the trial to another actor before this one began: it is not its to stop
        assert watching.step().get("done", False) is done
        watching.cleanup()
    assert [call[0] for call in ended.heard] == ["meet", "reading", "reading"]
    assert [call[0] for call in cut.heard] == ["meet", "reading", "release"]
    assert cut.heard[-1] == ("release", trial.id)


def test_a_proposal_releases_the_last_trial_that_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.ray, "get", lambda answer: answer)
    board = Asked()
    submit = search._Submit(board, study(lag=2), get("tiny"), "launch", None)
    for index in range(4):
        submit(index, {"p": 4, "lr": 0.1})
    names = [search.record_of(study(), index) for index in range(2)]
    assert [call[-1] for call in board.heard] == [[], [], names[:1], names[1:]]


def test_a_search_is_not_restored() -> None:
    search = InOrder(proposals(study()), lambda index, values: None, lambda index: {}, lag=2)
    with pytest.raises(NotImplementedError, match="a search is not restored; run the study again"):
        search.restore("checkpoint")


def test_a_range_of_a_field_of_any_number_holds_what_lies_between() -> None:
    space = "{lr: {low: 1, high: 10}, momentum: {low: 0, high: 0.9}, warmup_steps: {low: 0, high: 5}}"
    search = proposals(studies.load("linear", overrides=[f"search={space}"]).studies[0])
    drawn = [search.suggest(str(index)) for index in range(4)]
    for name, number in (("lr", float), ("momentum", float), ("warmup_steps", int)):
        assert {type(values[name]) for values in drawn if values} == {number}
    assert all(values and values["lr"] % 1 for values in drawn)


def test_lists_are_searched_like_other_choices() -> None:
    overrides = ["search.targets.choices=[[qkv], [q, v], [fc1, fc2]]", "search.rank.choices=[4]", "rows=[targets]"]
    lora = studies.load("lora", overrides=[*overrides, "trials=6"]).studies[0]
    search = proposals(lora)
    proposed = [decoded(search.suggest(str(index)) or {}, lora.search)["targets"] for index in range(6)]
    assert proposed == [("qkv",), ("q", "v"), ("fc1", "fc2")] * 2


def test_rungs_end_where_the_trials_do() -> None:
    overrides = ["scheduler=asha", "fixed.val_every=5", "fixed.steps=81"]
    found = pruner(studies.load("linear", overrides=overrides).studies[0], get("tiny"))
    assert found is not None
    assert found.rungs == (5, 10, 20, 40, 80)
    assert pruner(studies.load("linear").studies[0], get("tiny")) is None


class Pruned:
    """A search on some slots whose trials have curves and come to their rungs in any order; some of them diverge."""

    def __init__(self, plan: Study, *, slots: int, seed: int, curve: Callable[[int, Values, int], Result]) -> None:
        """Play to the end.

        Args:
            curve: what is read of a trial after a step.
        """
        self.study, self.draw, self.curve = plan, random.Random(seed), curve
        self.dealt: list[Values] = []
        self.bars: list[Bar | None] = []
        self.heard: list[FrozenTrial] = []
        pruning = pruner(plan, get("tiny"))
        assert pruning is not None
        self.pruning = pruning
        proposed = Proposals(plan, self.heard.append)
        self.search = InOrder(proposed, self._submit, self._last, functools.partial(heard, pruning), lag=plan.lag)
        asked, running = 0, dict[int, int]()
        while asked < plan.trials or running:
            while asked < plan.trials and len(running) < slots:
                self.search.suggest(str(asked))
                running[asked] = 0
                asked += 1
            index = self.draw.choice([index for index in running if index < len(self.dealt)])
            running[index] += 10
            if running[index] >= self._last(index)["step"]:
                del running[index]
                self.search.on_trial_complete(str(index), self._last(index))
        self.search.finish()

    def _submit(self, index: int, values: Values) -> None:
        self.dealt.append(values)
        self.bars.append(self.pruning.bar(index, {row: values[row] for row in self.study.rows}))

    def _last(self, index: int) -> Result:
        """A trial's end, which the board decides with the trial's bar."""
        if index % 11 == 5:
            return {"step": 10, FAILED: True, STOPPED: False}
        seen: list[Result] = []
        for step in range(10, 90, 10):
            seen.append({**self.curve(index, self.dealt[index], step), "step": step})
            bar = self.bars[index]
            if step < 80 and bar is not None and step in bar.rivals and not survives(_seen(seen[-1]), bar.rivals[step]):
                return {**seen[-1], FAILED: False, STOPPED: True, SEEN: seen}
        return {**seen[-1], FAILED: False, STOPPED: False, SEEN: seen}

    @property
    def ended(self) -> list[str]:
        """How the trials have ended, in their order."""
        return [trial.state.name for trial in self.heard]


def _seen(result: Result) -> Seen:
    values = result[METRIC] if isinstance(result[METRIC], list) else [result[METRIC]]
    return Seen(tuple(values), sum(max(0.0, excess) for excess in result.get(EXCESSES, [])))


def level(index: int, values: Values, step: int) -> Result:
    """Rows differ more than the trials within them."""
    return {METRIC: 50 + 10 * values["p"] + math.log(step) - 20 * abs(math.log10(values["lr"] / 0.03))}


def traded_over_steps(objective: str) -> Callable[[int, Values, int], Result]:
    return lambda index, values, step: traded(objective)(index, {**values, "lr": values["lr"] * step / 80})


CURVES = {"mean": level, UNDER: traded_over_steps(UNDER), SEVERAL: traded_over_steps(SEVERAL)}
PRUNED = ["scheduler=asha", "train.val_every=10", "train.steps=80"]


@pytest.mark.parametrize("objective", CURVES)
def test_what_is_pruned_depends_on_the_lag_and_on_nothing_else(objective: str) -> None:
    overrides = [*PRUNED, "trials=32", "lag=4", f"objective={objective}"]
    plan = studies.load("block_expansion", overrides=overrides).studies[0]
    alone = Pruned(plan, slots=1, seed=0, curve=CURVES[objective])
    assert {"COMPLETE", "PRUNED", "FAIL"} == set(alone.ended)
    for slots, seed in ((2, 1), (4, 2), (4, 3)):
        several = Pruned(plan, slots=slots, seed=seed, curve=CURVES[objective])
        assert (several.dealt, several.ended) == (alone.dealt, alone.ended)
    for row in range(4):
        assert "COMPLETE" in alone.ended[row::4]


def test_optuna_hears_of_a_pruned_trial_what_was_seen() -> None:
    plan = studies.load("block_expansion", overrides=[*PRUNED, "trials=24", "lag=2"]).studies[0]
    search = Pruned(plan, slots=1, seed=0, curve=level)
    (trial, *_) = [one for one in search.heard if one.state == TrialState.PRUNED]
    steps = range(10, max(trial.intermediate_values) + 1, 10)
    seen = {step: level(trial.number, trial.params, step)[METRIC] for step in steps}
    assert trial.intermediate_values == pytest.approx(seen)
    assert max(seen) in search.pruning.rungs
    several = studies.load(
        "block_expansion", overrides=[*PRUNED, "trials=24", "lag=2", f"objective={SEVERAL}"]
    ).studies[0]
    found = Pruned(several, slots=1, seed=0, curve=CURVES[SEVERAL])
    (trial, *_) = [one for one in found.heard if one.state == TrialState.PRUNED]
    assert trial.values is None
    expected = [CURVES[SEVERAL](0, trial.params, step)[METRIC] for step, _ in trial.user_attrs["seen"]]
    assert [values for _, values in trial.user_attrs["seen"]] == [pytest.approx([one[0], -one[1]]) for one in expected]
