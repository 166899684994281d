"""The board without Ray: who gets which trial, what is kept, and when a slot is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bench import benchmarks, records, studies, workers
from bench.records import Record
from bench.spec import Trial, make_trial
from bench.workers import Board, Event

Story = Callable[[Board], Coroutine[Any, Any, None]]


def trial(label: str) -> Trial:
    study = studies.load("linear").studies[0]
    return make_trial(study, benchmarks.get("tiny"), {"lr": 0.1}, launch="test", label=label, seed=0, phase="search")


def ended(label: str) -> Record:
    return records.of(trial(label), status="stopped")


def play(story: Story, *, slots: int = 1, start_seconds: float = 600) -> None:
    async def run() -> None:
        await story(Board(slots, start_seconds))

    asyncio.run(run())


def finished(events: list[Event]) -> list[Record]:
    return [event.record for event in events if event.record]


def test_a_trial_is_forgotten_when_it_has_ended() -> None:
    async def story(board: Board) -> None:
        for label in ("a", "b"):
            ticket = await board.submit(trial(label))
            await board.take(0)
            assert await board.report(ticket, {"step": 1, "val_mean": 1.0}) is False
            await board.finish(ticket, ended(label), seconds=0.5)
            (done,) = [event for event in await board.events() if event.kind == "finished"]
            assert (done.slot, done.seconds) == (0, 0.5)
        assert board._tickets == {}
        assert await board.report(ticket, {"step": 2}) is True  # a worker that comes late is to stop
        await board.finish(ticket, ended("b"))
        await board.stop(ticket)
        assert not board._events

    play(story)


def test_a_watched_trial_is_kept_until_it_is_released() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), watched=True)
        await board.take(0)
        await board.report(ticket, {"step": 1, "val_mean": 1.0})
        assert await board.reading("linear-a", 0) == ({"step": 1, "val_mean": 1.0}, None)
        await board.finish(ticket, ended("a"))
        for _ in range(2):  # whoever missed the answer may ask again
            assert await board.reading("linear-a", 1) == (None, ended("a").model_copy(update={}))
        await board.release("linear-a")
        await board.release("linear-a")
        assert (board._tickets, board._watched) == ({}, {})

    play(story)


def test_releasing_stops_a_running_trial_and_drops_a_waiting_one() -> None:
    async def story(board: Board) -> None:
        running = await board.submit(trial("a"), watched=True)
        await board.submit(trial("b"), watched=True)
        await board.take(0)
        await board.release("linear-b")
        assert [record.status for record in finished(await board.events())] == ["stopped"]
        await board.release("linear-a")
        assert await board.report(running, {"step": 1}) is True
        await board.finish(running, ended("a"))
        assert board._tickets == {}

    play(story)


def test_a_slot_that_comes_back_gets_its_trial_again_but_not_for_ever() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for _ in range(workers.MAX_ATTEMPTS):
            assert await board.take(0) == (ticket, trial("a"))
            assert await board.slot_failed(0, "killed") is True
        await board.submit(trial("b"))
        assert (await board.take(0))[1] == trial("b")
        (record,) = finished(await board.events())
        assert record.error is not None
        assert "its workers died 3 times" in record.error

    play(story)


def test_a_slot_that_cannot_start_is_given_up_and_all_fail_with_the_last_one() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(0)
        for answer in (True, False, False):  # the last call is for nothing: it was given up before
            assert await board.slot_failed(0, "no torch") is answer
        assert await board.take(0) == "close"
        assert await board.take(1) == (ticket, trial("a"))  # the other slot takes over
        for answer in (True, False):
            assert await board.slot_failed(1, "no torch") is answer
        await board.submit(trial("late"))
        first, late = finished(await board.events())
        for record in (first, late):
            assert record.status == "failed"
            assert record.error is not None
            assert "the worker group of slot 1 could not be kept alive: no torch" in record.error

    play(story, slots=2)


def test_a_slot_that_does_not_come_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(board: Board) -> None:
        await board.submit(trial("a"))
        await asyncio.sleep(0.02)
        (record,) = finished(await board.events())
        assert record.error is not None
        assert "the worker group of slot 0 did not start within 0 s" in record.error
        assert await board.take(0) == "close"

    play(story, start_seconds=0.01)


def test_whoever_meets_goes_on_together_or_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(board: Board) -> None:
        early = asyncio.create_task(board.meet("linear", 2))
        await asyncio.sleep(0.01)
        assert not early.done()
        await asyncio.wait_for(board.meet("linear", 2), timeout=1)
        await asyncio.wait_for(early, timeout=1)
        monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
        await asyncio.wait_for(board.meet("lora", 2), timeout=1)  # nobody else comes

    play(story)
