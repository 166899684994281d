"""What a slot says to the board, without either."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from bench.cluster import slot
from bench.cluster.slot import POST_SECONDS, Posts
from bench.readings import Point, Reading


class Board:
    """Hears of points at a time that it says; stops the trial as soon as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[list[int]] = []
        self.now = 100.0
        self.stop = False
        monkeypatch.setattr(slot, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.posts = Posts(self.hear)

    def hear(self, points: Sequence[Point]) -> bool:
        self.heard.append([point.step for point in points])
        return self.stop

    def add(self, step: int, *, read: bool = False) -> bool:
        reading = Reading(step=step, split="val", domain="target", probe="head", n=10, numbers={"top1": 50.0})
        return self.posts.add(Point(step, 100, {"train_loss": 1.0}, (reading,) if read else ()))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(monkeypatch)


def test_points_are_posted_together_and_none_is_lost(board: Board) -> None:
    for step in (10, 20, 30):
        board.add(step)
    assert board.heard == [[10]]  # the first one at once: something is seen of the trial
    board.now += POST_SECONDS
    board.add(40)
    board.add(50)
    assert board.heard == [[10], [20, 30, 40]]
    board.posts.flush()
    board.posts.flush()
    assert board.heard == [[10], [20, 30, 40], [50]]


@pytest.mark.parametrize(("step", "read"), [(30, True), (100, False)], ids=["readings", "the last one"])
def test_what_is_waited_for_is_posted_at_once_and_in_order(board: Board, step: int, read: bool) -> None:
    board.add(10)
    board.add(20)
    board.add(step, read=read)
    assert board.heard == [[10], [20, step]]


def test_a_trial_hears_with_its_next_post_that_it_is_to_stop(board: Board) -> None:
    assert board.add(10) is False
    board.stop = True
    assert board.add(20) is False
    board.now += POST_SECONDS
    assert board.add(30) is True
