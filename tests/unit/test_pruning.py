"""Pruning: who survives a rung, by one score and by several, and that every row keeps trials that ran to their end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bench.cluster.pruning import Bar, Pruner, Seen, order, outstripped, rungs, seen, survives
from bench.readings import HEAD, KNN, Reading
from bench.records import Record
from bench.spec import Objective

Make = Callable[..., Record]

MEAN = Objective(quantity="mean")


def test_rungs_are_as_far_apart_as_the_factor_says_and_end_before_the_last_step() -> None:
    assert rungs(10, 150, 4) == (10, 40)
    assert rungs(10, 160, 4) == (10, 40)
    assert rungs(10, 161, 4) == (10, 40, 160)
    assert rungs(5, 5) == ()


@pytest.mark.parametrize(
    ("own", "other", "ends"),
    [
        ((12.0, 92.0), (40.0, 92.0), True),  # slow: it has learned little, and forgotten as little as the other one
        ((12.0, 94.0), (40.0, 92.0), True),  # readings differ by so much by chance
        ((12.0, 96.0), (40.0, 92.0), False),  # it forgets less
        ((12.0, 88.0), (40.0, 92.0), False),  # behind by both, as what a high learning rate has shaken comes back
        ((12.0, 40.0), (40.0, 92.0), False),
        ((20.0, 92.0), (40.0, 92.0), False),  # not far behind
        ((40.0, 60.0), (42.0, 92.0), True),  # learned as much, and forgot far more
        ((40.0, 92.0), (12.0, 92.0), False),
        ((12.0, -2.0), (40.0, -3.0), True),  # forgetting is maximised as less of it
        ((12.0, 92.0, 52.0), (40.0, 92.0, 66.0), True),  # three scores: one far behind, one equal, none ahead
        ((12.0, 52.0), (40.0, 66.0), False),  # no score is equal
    ],
)
def test_of_several_scores_what_is_far_behind_by_one_and_equal_by_another_ends(
    own: tuple[float, ...], other: tuple[float, ...], ends: bool
) -> None:
    assert outstripped(Seen(own), [Seen(other)]) is ends
    assert outstripped(Seen(own), [Seen(own), Seen(other), Seen(own)]) is ends
    assert outstripped(Seen(own), []) is False


def test_a_front_is_compared_with_trials_that_came_to_their_end() -> None:
    both = Objective.model_validate(["target_accuracy", "source_accuracy"])
    pruner = Pruner(both, (10, 40))
    for index in range(3):
        assert pruner.bar(index, {}) is None
    pruner.hear(0, {10: Seen((40.0, 92.0)), 40: Seen((60.0, 91.0))}, finished=True)
    pruner.hear(
        1, {10: Seen((90.0, 92.0))}, finished=False
    )  # it was stopped, so nobody knows what it would have become
    bar = pruner.bar(3, {})
    assert bar == Bar(both, {10: (Seen((40.0, 92.0)),), 40: (Seen((60.0, 91.0)),)})
    assert bar.stops(10, scored(10, 14, 92)) is True
    assert bar.stops(10, scored(10, 30, 92)) is False
    assert bar.stops(40, scored(40, 30, 92)) is True
    assert bar.stops(20, scored(20, 0, 92)) is False


def test_what_keeps_all_limits_comes_before_what_does_not() -> None:
    trials = [Seen((99.0,), 5.0), Seen((60.0,)), Seen((98.0,), 1.0), Seen((70.0,))]
    assert order(trials) == [3, 1, 2, 0]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_in_so_many_survives(factor: int) -> None:
    """Of n trials n / factor, rounded up: the better one of two, two of four, and never more than that."""
    for count in range(1, 25):
        trials = [Seen((float(value),)) for value in range(count)]
        alive = [one for one in trials if survives(one, [rival for rival in trials if rival is not one], factor)]
        assert alive == trials[count - math.ceil(count / factor) :]


def test_the_worse_of_two_does_not_go_on() -> None:
    worse, better = Seen((0.0,)), Seen((1.0,))
    assert survives(worse, [])
    assert survives(better, [worse])
    assert not survives(worse, [better])
    assert survives(worse, [better, Seen((-1.0,))])
    assert not survives(worse, [better, better, Seen((-1.0,))])


def test_a_limit_or_a_score_that_is_not_known_says_nothing() -> None:
    under = Objective.model_validate({"maximise": "target_accuracy", "subject_to": {"forgetting": {"max": 2}}})
    assert seen(under, {"target_accuracy": 90.0}) is None
    assert seen(under, {"target_accuracy": 90.0, "forgetting": 5.0}) == Seen((90.0,), 3.0)
    assert seen(Objective(quantity="forgetting"), {"forgetting": 5.0}) == Seen((-5.0,))


def test_a_row_has_no_bar_until_a_trial_of_it_has_come_to_its_end() -> None:
    pruner = Pruner(MEAN, (10, 40))
    assert [pruner.bar(index, {"p": index % 2}) for index in range(4)] == [None] * 4
    curve = {10: Seen((50.0,)), 20: Seen((55.0,)), 40: Seen((60.0,))}
    pruner.hear(0, curve, finished=True)
    pruner.hear(1, {10: Seen((70.0,))}, finished=False)  # it has failed
    assert pruner.bar(4, {"p": 0}) == Bar(MEAN, {10: (Seen((50.0,)),), 40: (Seen((60.0,)),)})
    assert pruner.bar(5, {"p": 1}) is None
    pruner.hear(2, {10: Seen((80.0,))}, finished=False)
    bar = pruner.bar(6, {"p": 0})
    assert bar is not None
    assert bar.rivals[10] == (Seen((50.0,)), Seen((80.0,)))
    assert pruner.bar(7, {"p": False}) is None  # another row than p = 0


def scored(step: int, target: float, source: float) -> list[Reading]:
    known: dict[str, Any] = {"step": step, "split": "val", "n": 100}
    return [
        Reading(domain="target", probe=HEAD, numbers={"top1": target}, **known),
        Reading(domain="source", probe=KNN, numbers={"top1": source}, **known),
    ]


def read(step: int, mean: float) -> list[Reading]:
    return scored(step, mean, mean)


@pytest.mark.parametrize(
    ("means", "status", "end"),
    [
        ((60, 70, 80), "ok", None),
        ((40, 70, 80), "ok", 10),
        ((60, 50, 80), "ok", 40),
        ((60, 50), "stopped", 40),
        ((60, 70), "stopped", None),
    ],
)
def test_a_bar_says_where_a_recorded_trial_would_have_ended(
    searched: Make, means: tuple[float, ...], status: str, end: int | None
) -> None:
    bar = Bar(MEAN, {10: (Seen((50.0,)),) * 2, 40: (Seen((60.0,)),) * 2})
    before = Reading(step=0, split="val", domain="source", probe=KNN, n=100, numbers={"top1": 90.0})
    steps = (10, 40, 150)[: len(means)]
    readings = [one for step, mean in zip(steps, means, strict=True) for one in read(step, mean)]
    record = searched(readings=(before, *readings), steps=steps[-1], status=status)
    assert bar.end(record) == end
    assert bar.stops(10, read(10, 40)) is True
    assert bar.stops(20, read(20, 0)) is False
