"""What a slot says to the board, without either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cluster.board import POST_SECONDS
from bench.cluster.slot import SOON, Posts
from bench.readings import Point, Reading


class Board:
    """Hears of points; calls later what it is asked to when a test says so; stops the trial as soon as it is told."""

    def __init__(self) -> None:
        self.heard: list[list[int]] = []
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.stop = False
        self.error: Exception | None = None
        self.posts = Posts(self.hear, later=self.later)

    def later(self, seconds: float, call: Callable[[], None]) -> Any:
        self.due.append((seconds, call))
        return SimpleNamespace(start=lambda: None, cancel=lambda: self.due.remove((seconds, call)))

    def time_passes(self) -> float:
        ((seconds, call),) = self.due
        self.due.clear()
        call()
        return seconds

    def hear(self, points: Sequence[Point]) -> bool:
        if self.error is not None:
            raise self.error
        self.heard.append([point.step for point in points])
        return self.stop

    def add(self, step: int, *, read: bool = False) -> bool:
        reading = Reading(step=step, split="val", domain="target", probe="head", n=10, numbers={"top1": 50.0})
        return self.posts.add(Point(step, 100, {"train_loss": 1.0}, (reading,) if read else ()))


@pytest.fixture
def board() -> Board:
    return Board()


def test_points_are_posted_together_and_none_is_lost(board: Board) -> None:
    for step in (10, 20, 30):
        board.add(step)
    assert board.heard == [[10]]  # the first one at once: something is seen of the trial
    assert board.time_passes() == SOON  # a trial that goes on has told all that it had told before
    board.add(40)
    board.add(50)
    assert board.heard == [[10], [20, 30]]
    assert board.time_passes() == POST_SECONDS
    assert board.heard == [[10], [20, 30], [40, 50]]
    board.add(60)
    board.posts.flush()
    board.posts.flush()
    assert board.heard[3:] == [[60]]
    assert board.due == []


def test_what_is_waited_for_is_posted_at_once_and_in_order(board: Board) -> None:
    board.add(10)
    board.add(20)
    board.add(30, read=True)
    assert board.heard == [[10], [20, 30]]
    assert board.due == []


def test_the_last_points_go_with_the_end_of_the_trial(board: Board) -> None:
    for step in (10, 20, 100):
        board.add(step)
    assert [point.step for point in board.posts.rest()] == [20, 100]
    assert board.posts.rest() == []
    assert (board.heard, board.due) == ([[10]], [])


def test_a_trial_does_not_end_well_if_a_point_was_lost(board: Board) -> None:
    board.add(10)
    board.add(20)
    board.error = RuntimeError("the board is gone")
    board.time_passes()
    with pytest.raises(RuntimeError, match="the board is gone"):
        board.posts.rest()


def test_a_trial_hears_after_its_next_post_that_it_is_to_stop(board: Board) -> None:
    assert board.add(10) is False
    board.stop = True
    assert board.add(20) is False
    board.time_passes()
    assert board.add(30) is True


def test_what_cannot_be_posted_ends_the_trial(board: Board) -> None:
    board.add(10)
    board.add(20)
    board.error = RuntimeError("the board is gone")
    board.time_passes()
    with pytest.raises(RuntimeError, match="the board is gone"):
        board.add(30)


def test_nothing_waits_for_a_further_point() -> None:
    heard, posted = list[int](), threading.Event()

    def hear(points: Sequence[Point]) -> bool:
        heard.extend(point.step for point in points)
        if len(heard) == 2:
            posted.set()
        return False

    posts = Posts(hear)
    for step in (10, 20):
        posts.add(Point(step, 100, {"train_loss": 1.0}, ()))
    assert posted.wait(30)
    assert heard == [10, 20]
