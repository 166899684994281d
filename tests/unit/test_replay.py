"""Replay: a recorded grid answers trials, through the real proposals and the real pruning, on simulated slots."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import launch
from bench.cluster.search_replay import COLUMNS, Grid, Noise, check, ends, replay
from bench.launching import studies
from bench.launching.benchmarks import get
from bench.launching.replaying import hypervolume
from bench.readings import scores
from bench.spec import SpecError, Study, make_trial
from tests.performance import searching

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TINY = get("tiny")
STEPS = TINY.train.steps


def learned(rate: float, step: int) -> tuple[float, float]:
    """Target accuracy and forgetting: more of both with every larger rate and step, but for the largest."""
    share = (math.log10(rate) + 5) / 4 * math.sqrt(step / STEPS)
    return (20.0 if rate > 0.05 else 10 + 85 * share), 40 * share**3


def lines(method: str = "full", values: str = "{}", seed: int = 0, before: float = 90.0) -> list[dict[str, Any]]:
    """A grid's lines; readings on the way were of other images, of which fewer were right before."""
    found = []
    for rate in RATES:
        for step in (10, 40, STEPS):
            target, forgetting = learned(rate, step)
            own = before - 2 if step < STEPS else before
            numbers = (target + seed, own - forgetting, own)
            found.append(dict(zip(COLUMNS, (method, values, rate, seed, step, STEPS, *numbers), strict=True)))
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*parts: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / "grid.csv"
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(line for part in parts for line in part)
        return path

    return write


def study(*overrides: str, method: str = "full") -> Study:
    several = "objective=[target_accuracy, source_accuracy]"
    return studies.load(method, overrides=[several, *overrides]).studies[0]


def trial(rate: float, method: str = "full", **values: Any) -> Any:
    chosen = {"lr": rate, **values}
    return make_trial(study(method=method), TINY, chosen, launch="x", label="x", seed=0, phase="search")


def test_a_recorded_trial_is_answered_by_its_readings(written: Callable[..., Path]) -> None:
    record = Grid.read(written(lines())).record(trial(1e-3))
    for step in (10, 40, STEPS):
        target, forgetting = learned(1e-3, step)
        read = scores(record.readings, step=step)
        assert (read["target_accuracy"], read["forgetting"]) == pytest.approx((target, forgetting))
        assert read["source_accuracy"] == pytest.approx(90 - forgetting)  # as if all were read of the same images
    assert (record.status, record.steps, record.phase) == ("ok", STEPS, "search")


def test_between_two_rates_lies_what_lies_between_their_curves(written: Callable[..., Path]) -> None:
    grid = Grid.read(written(lines()))
    read = grid.record(trial(10**-3.5)).scores
    both = [learned(rate, STEPS) for rate in (1e-4, 1e-3)]
    assert read["target_accuracy"] == pytest.approx(sum(target for target, _ in both) / 2)
    assert read["forgetting"] == pytest.approx(sum(forgetting for _, forgetting in both) / 2)
    assert grid.record(trial(RATES[0])).scores["target_accuracy"] == pytest.approx(learned(RATES[0], STEPS)[0])
    assert grid.record(trial(RATES[-1])).scores["target_accuracy"] == pytest.approx(20)


def test_seeds_take_turns_and_noise_is_repeatable(written: Callable[..., Path]) -> None:
    grid, noise = Grid.read(written(lines(), lines(seed=1))), Noise(target=300, source=1000, points=0.7)

    def target(**more: Any) -> float:
        found = grid.record(trial(1e-3), **more).scores["target_accuracy"]
        assert found is not None
        return found

    true = [learned(1e-3, STEPS)[0] + seed for seed in (0, 1)]
    assert [target(seed=seed) for seed in range(4)] == pytest.approx([*true, *true])
    drawn = [target(index=index, noise=noise) for index in range(40)]
    assert drawn == [target(index=index, noise=noise) for index in range(40)]
    spread = math.sqrt(100**2 * 0.525 * 0.475 / 300 + 0.7**2)
    assert sum(drawn) / 40 == pytest.approx(true[0], abs=3 * spread / math.sqrt(40))
    assert len(set(drawn)) > 20


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_over_a_grid_depends_on_the_lag_and_not_on_the_slots(
    written: Callable[..., Path], sampler: str
) -> None:
    grid, plan = Grid.read(written(lines())), study("trials=20", "lag=3", f"sampler={sampler}")
    found = [replay(plan, TINY, grid, slots=slots) for slots in (1, 2, 3)]
    values = [[one.record.hyperparameters for one in searched] for searched in found]
    assert values[0] == values[1] == values[2]
    assert [max(one.ended for one in searched) for searched in found[:2]] == [20 * STEPS, 10 * STEPS]
    assert hypervolume(list(ends(found[0]))) <= hypervolume(grid.front("full")) + 1e-9


@pytest.mark.parametrize(("objective", "stopped"), [("mean", 4), ("[target_accuracy, source_accuracy]", 1)])
def test_a_pruned_search_spends_less_and_keeps_trials_that_ran_to_their_end(
    written: Callable[..., Path], objective: str, stopped: int
) -> None:
    grid = Grid.read(written(lines()))
    plan = study(f"objective={objective}", "trials=24", "lag=2", "scheduler=asha", "train.val_every=10")
    found = [replay(plan, TINY, grid, slots=slots) for slots in (1, 2)]
    states = [[(one.record.status, one.record.steps) for one in searched] for searched in found]
    assert states[0] == states[1]
    assert {steps for status, steps in states[0] if status == "stopped"} <= {10, 40}
    assert stopped <= [status for status, _ in states[0]].count("stopped") <= 22
    assert len(list(ends(found[0]))) == [status for status, _ in states[0]].count("ok")
    assert max(one.ended for one in found[0]) == sum(steps for _, steps in states[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": "fast"}, "line 2: could not convert string to float: 'fast'"),
        ({"lr": -1}, "line 2: accuracies are from 0 to 100, and the learning rate is above 0"),
        ({"target_accuracy": 101}, "line 2: accuracies are from 0 to 100"),
        ({"values": "[1]"}, "line 2: values is no JSON object"),
        ({"values": "{"}, "line 2: Expecting property name"),
        ({"step": 200}, "line 2: step 200 is not from 1 to 150"),
        ({"step": 40}, "lacks its last step, or has one twice"),
        ({"source_accuracy_before": "nan"}, "line 2: accuracies are from 0 to 100"),
    ],
)
def test_what_is_no_grid_is_refused_with_its_line(
    written: Callable[..., Path], change: dict[str, Any], said: str
) -> None:
    first, *others = lines()
    with pytest.raises(SpecError, match=r"--replay .*grid\.csv") as refused:
        Grid.read(written([{**first, **change}, *others]))
    assert said in str(refused.value)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    for text in ("", "lr,target\n1,2\n", ",".join(COLUMNS[:-1]) + "\n"):
        other.write_text(text)
        with pytest.raises(SpecError, match="is no recorded grid: it needs the columns method, values"):
            Grid.read(other)
    other.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(SpecError, match="has the columns of a grid, and no line below them: record some readings"):
        Grid.read(other)
    with pytest.raises(SpecError, match="cannot be read: it is missing"):
        Grid.read(tmp_path / "missing.csv")


def test_what_a_grid_does_not_hold_is_refused(written: Callable[..., Path]) -> None:
    grid = Grid.read(written(lines(), lines("lora", json.dumps({"rank": 8}))))
    with pytest.raises(SpecError, match=r'no lora with {"rank": 4} .it holds {"rank": 8}'):
        grid.record(trial(1e-3, "lora", rank=4))
    with pytest.raises(SpecError, match=r"no linear with {} .it holds none of this method"):
        grid.record(trial(1e-3, "linear"))
    with pytest.raises(SpecError, match=r"learning rates from 1e-05 to 0.1, not 1: set search.lr.low"):
        grid.record(trial(1.0))
    shorter = study("train.steps=20")
    with pytest.raises(SpecError, match=r"recorded with 150 steps: set train.steps=150 instead of 20"):
        grid.record(make_trial(shorter, TINY, {"lr": 1e-3}, launch="x", label="x", seed=0, phase="search"))


def test_a_grid_that_was_not_read_at_the_first_rung_prunes_nothing(written: Callable[..., Path]) -> None:
    grid = Grid.read(written(line for line in lines() if line["step"] != 10))
    with pytest.raises(SpecError, match="was not read after 10 steps, where scheduler asha compares full at lr"):
        replay(study("scheduler=asha", "train.val_every=10"), TINY, grid, slots=1)
    assert len(replay(study("scheduler=asha", "train.val_every=40", "trials=9"), TINY, grid, slots=1)) == 9


def test_the_command_line_replays_and_trains_nothing(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--study", "full", "--replay", str(written(lines())), "--results", str(tmp_path / "results")]
    assert launch.main([*asked, "--slots", "1", "--trials", "6"]) == 0
    shown = capsys.readouterr().out
    assert "nothing was trained" in shown
    assert "full: 6 trials, 0 ended early; 900 steps, 900 one after another; hypervolume" in shown
    assert "target_accuracy" in shown
    assert not list((tmp_path / "results").rglob("*.json"))
    with pytest.raises(SystemExit) as ended:
        launch.main([*asked, "--set", "search.lr.high=0.5"])
    assert ended.value.code == 2
    assert "learning rates from 1e-05 to 0.1, not 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], None),
        (["scheduler=asha", "train.val_every=40", "lag=2"], None),
        (
            ["scheduler=asha", "train.val_every=15", "lag=2"],
            "the grid was not read after 15 steps, where scheduler asha",
        ),
        (["search.lr.high=0.5"], "learning rates from 1e-05 to 0.1, not 0.5"),
        (["train.steps=20"], "recorded with 150 steps"),
        (["fixed.momentum=0.8"], 'the grid has no full with {"momentum": 0.8}'),
    ],
)
def test_a_dry_run_refuses_what_the_replay_refuses(
    written: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    said: str | None,
) -> None:
    asked = ["--study", "full", "--replay", str(written(lines())), "--results", str(tmp_path / "results")]
    asked += [word for one in overrides for word in ("--set", one)]
    found = []
    for more in ([], ["--dry-run"], ["--dry-run", "--json"]):
        try:
            code = launch.main([*asked, "--slots", "1", "--trials", "6", *more])
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        found.append((code, told.err, told.out))
    (first, *others), (_, rehearsed, events) = found, [out for *_, out in found]
    assert {(code, err) for code, err, _ in others} == {first[:2]}
    if said is not None:
        assert first[0] == 2
        assert said in first[1]
        return
    assert first[:2] == (0, "")
    assert "full: 6 search trials for the best mean" in rehearsed
    assert rehearsed.endswith("Nothing was started (--dry-run).\n")
    assert not any(word in rehearsed for word in ("MLflow", "confirmations", "Results"))
    assert [json.loads(line)["event"] for line in events.splitlines()] == ["ended"]


def test_the_first_rung_is_looked_for_wherever_a_search_may_lie(written: Callable[..., Path]) -> None:
    """Also between the ends of its range, of which a search may find the gap or not."""
    rates = sorted({float(line["lr"]) for line in lines()})
    gap = rates[len(rates) // 2]
    grid = Grid.read(written(line for line in lines() if not (float(line["lr"]) == gap and line["step"] == 10)))
    corners = [trial(rates[0]), trial(rates[-1])]
    check(corners, grid)
    grid.check_read(corners, 40)
    with pytest.raises(SpecError, match="was not read after 10 steps"):
        grid.check_read(corners, 10)
    grid.check_read([trial(rates[0]), trial(rates[1])], 10)


def test_what_a_search_can_reach_is_of_the_seed_that_answers_it(written: Callable[..., Path]) -> None:
    grid = Grid.read(written(lines(seed=0), lines(seed=3)))
    best = [max(target for target, _ in grid.front("full", seed=seed)) for seed in range(3)]
    assert best == pytest.approx([best[0], best[0] + 3, best[0]])
    found = [replay(study("trials=8"), TINY, grid, slots=2, seed=seed) for seed in (0, 1)]
    reached = [max(target for target, _ in ends(searched)) for searched in found]
    assert reached[1] == pytest.approx(reached[0] + 3)


def test_the_truth_is_the_mean_over_the_recorded_seeds(written: Callable[..., Path]) -> None:
    alone = [line for line in lines(seed=5) if line["lr"] != RATES[0]]  # a rate that only one seed has is left out
    grid = Grid.read(written(lines(seed=0), lines(seed=1), alone))
    truth = searching.mean(grid)
    for rate in RATES[1:]:
        scores_of = truth.record(trial(rate)).scores
        target, forgetting = learned(rate, STEPS)
        assert scores_of["target_accuracy"] == pytest.approx(target + 2)
        assert scores_of["forgetting"] == pytest.approx(forgetting)
    with pytest.raises(SpecError, match=r"learning rates from 0\.0001 to 0\.1"):
        truth.record(trial(RATES[0]))


def test_strategies_are_compared_over_the_recorded_grid(capsys: pytest.CaptureFixture[str]) -> None:
    """The grid that comes with the project holds what is asked of it, and a search of more trials comes nearer."""
    regrets = []
    for trials in ("4", "24"):
        assert searching.main(["--trials", trials, "--searches", "2", "--strategies", "quasi-random"]) == 0
        head, _, line = capsys.readouterr().out.splitlines()
        assert head.count("|") == line.count("|") == 6
        assert line.startswith(f"| {trials} | quasi-random | {trials}.0 | ")
        regrets.append(float(line.split("|")[4].split()[0]))
    assert 0 <= regrets[1] < regrets[0] < 10


def test_pruned_searches_take_no_more_steps_than_whole_ones(written: Callable[..., Path]) -> None:
    grid = Grid.read(written(lines()))
    plan = study("objective=mean", "trials=8", "lag=2", "scheduler=asha", "train.val_every=10")
    found = searching._at_equal_cost(plan, grid, 8, seed=0)
    assert len(found) > 8
    assert sum(one.record.steps for one in found) <= 8 * STEPS
