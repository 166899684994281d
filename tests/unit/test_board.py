"""The board without Ray: who gets which trial, what is kept, and what becomes of a trial whose slot goes."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bench import records
from bench.cluster import board as board_module
from bench.cluster.board import (
    LAST_ATTEMPT,
    LONGEST_POST_SECONDS,
    MAX_ATTEMPTS,
    MOST_INTERRUPTIONS,
    POST_SECONDS,
    START_ATTEMPTS,
    Board,
    End,
    Event,
    Group,
    Life,
    NoSlotsError,
)
from bench.cluster.pruning import Bar, Seen
from bench.launching import benchmarks, studies
from bench.readings import Point, Reading
from bench.records import Record
from bench.spec import Objective, Trial, make_trial

Story = Callable[[Board], Coroutine[Any, Any, None]]


@functools.cache
def trial(label: str) -> Trial:
    study = studies.load("linear").studies[0]
    return make_trial(study, benchmarks.get("tiny"), {"lr": 0.1}, launch="test", label=label, seed=0, phase="search")


@functools.cache
def ended(label: str) -> Record:
    return records.of(trial(label), status="stopped")


def point(step: int, *, validated: bool = False) -> Point:
    reading = Reading(step=step, split="val", domain="target", probe="head", n=10, numbers={"top1": 50.0})
    return Point(step, 100, {"train_loss": 1.0, "lr": 0.1}, (reading,) if validated else ())


def play(story: Story, *, slots: int = 1, start_seconds: float = 600) -> None:
    async def run() -> None:
        await story(Board(slots, start_seconds))

    asyncio.run(run())


def life(board: Board, slot: int) -> Life:
    """The one that a slot has now."""
    return Life(slot, board._lives[slot])


def finished(events: list[Event]) -> list[Record]:
    return [event.record for event in events if event.record]


def told(events: list[Event]) -> list[tuple[str, str, int | None]]:
    return [(event.kind, event.trial.id.removeprefix("linear-"), event.slot) for event in events]


def test_a_trial_is_forgotten_when_it_has_ended() -> None:
    async def story(board: Board) -> None:
        for label in ("a", "b"):
            ticket = await board.submit(trial(label))
            await board.take(life(board, 0))
            assert await board.report(life(board, 0), ticket, point(1, validated=True)) is False
            await board.finish(life(board, 0), ticket, End(ended(label), 0.5))
            (done,) = [event for event in await board.events() if event.kind == "finished"]
            assert (done.slot, done.seconds) == (0, 0.5)
        assert board._tickets == {}
        assert await board.report(life(board, 0), ticket, point(2)) is True  # a worker that comes late is to stop
        await board.finish(life(board, 0), ticket, End(ended("b")))
        await board.stop(ticket)
        assert not board._events

    play(story)


def test_a_watched_trial_is_kept_until_it_is_released() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), watched=True)
        await board.take(life(board, 0))
        await board.report(life(board, 0), ticket, point(1))
        await board.report(life(board, 0), ticket, point(2, validated=True))
        assert await board.reading("linear-a", 0) == (point(2, validated=True), None)
        await board.finish(life(board, 0), ticket, End(ended("a")))
        for _ in range(2):  # whoever missed the answer may ask again
            found, record = await board.reading("linear-a", 1)
            assert found is None
            assert record is not None
            assert (record.trial, record.status) == ("linear-a", "stopped")
        await board.release("linear-a")
        await board.release("linear-a")
        assert (board._tickets, board._watched) == ({}, {})

    play(story)


def test_the_end_of_a_trial_comes_with_its_last_points_and_is_answered_by_the_next_one() -> None:
    async def story(board: Board) -> None:
        first, second = await board.submit(trial("a"), watched=True), await board.submit(trial("b"))
        await board.take(life(board, 0))
        await board.events()
        end = End(ended("a"), 0.5, (point(1), point(2, validated=True)))
        assert (await board.finish_and_take(life(board, 0), first, end))[:2] == (second, trial("b"))
        events = await board.events()
        assert told(events) == [("report", "a", 0), ("report", "a", 0), ("finished", "a", 0), ("started", "b", 0)]
        assert ([event.point for event in events[:2]], events[2].seconds) == ([*end.points], 0.5)
        assert await board.reading("linear-a", 0) == (point(2, validated=True), finished(events)[0])

        old = life(board, 0)
        await board.begin(0)
        assert await board.finish_and_take(old, second, End(ended("b"), 0.5, (point(1),))) == "close"
        assert not board._events

    play(story)


def test_a_search_releases_what_it_has_heard_of_with_its_next_proposal() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), watched=True)
        await board.take(life(board, 0))
        await board.finish(life(board, 0), ticket, End(ended("a")))
        await board.submit(trial("b"), watched=True, release=["linear-a"])
        assert [*board._watched] == ["linear-b"]
        assert await board.remembers() == 1
        await board.submit(trial("c"), watched=True)
        await board.release("linear-b", "linear-a", "linear-c")
        assert await board.remembers() == 0

    play(story)


@pytest.mark.parametrize(
    ("slots", "held", "gathered"),
    [
        (1, POST_SECONDS, board_module.GATHER_SECONDS),
        (48, 3.0, 0.375),
        (1000, LONGEST_POST_SECONDS, board_module.LONGEST_GATHER_SECONDS),
    ],
)
def test_the_more_slots_there_are_the_longer_their_news_are_held(slots: int, held: float, gathered: float) -> None:
    async def story(board: Board) -> None:
        await board.submit(trial("a"))
        task = await board.take(life(board, 0))
        assert task[4] == held
        assert board._gather_seconds == pytest.approx(gathered)

    play(story, slots=slots)


def test_releasing_stops_a_running_trial_and_drops_a_waiting_one() -> None:
    async def story(board: Board) -> None:
        running = await board.submit(trial("a"), watched=True)
        await board.submit(trial("b"), watched=True)
        await board.take(life(board, 0))
        await board.release("linear-b")
        assert [record.status for record in finished(await board.events())] == ["stopped"]
        await board.release("linear-a")
        assert await board.report(life(board, 0), running, point(1)) is True
        await board.finish(life(board, 0), running, End(ended("a")))
        assert board._tickets == {}

    play(story)


def test_a_trial_whose_workers_die_is_tried_again_but_not_for_ever() -> None:
    """Its record says how they died, and holds what they left."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for _ in range(MAX_ATTEMPTS):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            assert await board.slot_failed(0, "rank 0 died: Segmentation fault", "a stack") == 1
        await board.submit(trial("b"))
        assert (await board.take(life(board, 0)))[1] == trial("b")
        (record,) = finished(await board.events())
        assert record.error is not None
        said = f"its workers were lost {MAX_ATTEMPTS} times without its coming further, the last time: "
        assert f"{said}rank 0 died: Segmentation fault" in record.error
        assert "a stack" in record.details["traceback"]

    play(story)


def test_a_death_counts_only_where_a_trial_came_no_further_than_before() -> None:
    """Workers that are killed from outside die anywhere; a trial that they die of kills them at the same step."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for step in (10, 20, 30, 40, *(MAX_ATTEMPTS - 1) * [50]):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.report(life(board, 0), ticket, point(step))
            assert await board.slot_failed(0, "killed") == 1
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        await board.slot_failed(0, "killed")  # before its first report
        assert [record.status for record in finished(await board.events())] == ["failed"]

    play(story)


def test_a_trial_comes_further_by_its_snapshots_too() -> None:
    """Points of its curves may be far apart."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for step in range(1, 3 * MAX_ATTEMPTS):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.saved(life(board, 0), ticket, step)
            assert await board.slot_failed(0, "killed") == 1
        await board.saved(life(board, 0), ticket, 1000)  # of a life that has not taken it
        for _ in range(MAX_ATTEMPTS - 1):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.saved(life(board, 0), ticket, step)
            assert await board.slot_failed(0, "killed") == 1
        assert [record.status for record in finished(await board.events())] == ["failed"]

    play(story)


@pytest.mark.parametrize(("of_workers", "times"), [(True, MAX_ATTEMPTS), (False, MOST_INTERRUPTIONS)])
def test_a_trial_is_seldom_to_blame_for_its_controllers_death(of_workers: bool, times: int) -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for _ in range(times):
            assert not finished(list(board._events))
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.slot_failed(0, "ActorDiedError: its process died", of_workers=of_workers)
        (record,) = finished(await board.events())
        assert record.error is not None
        assert f"were lost {times} times" in record.error

    play(story)


def test_deaths_of_controllers_and_workers_are_counted_apart() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for of_workers in [False, True] * (MAX_ATTEMPTS - 1) + [False] * MAX_ATTEMPTS:
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.slot_failed(0, "killed", of_workers=of_workers)
        assert not finished(list(board._events))
        for step in [1, 0, 0, 0, 0][:MAX_ATTEMPTS]:  # it comes further once: all is counted anew
            assert not finished(list(board._events))
            await board.take(life(board, 0))
            await board.report(life(board, 0), ticket, point(step))
            await board.slot_failed(0, "killed")
        assert [record.status for record in finished(await board.events())] == ["failed"]

    play(story)


def test_a_group_that_does_not_start_again_is_no_death_of_the_trial() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), minutes=60)
        await board.take(life(board, 0))
        for _ in range(MAX_ATTEMPTS + 2):
            await board.slot_failed(0, "WorkerGroupStartupTimeoutError: no room")
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        assert finished(await board.events()) == []

    play(story)


def test_a_slot_whose_group_cannot_start_waits_longer_each_time() -> None:
    """Nothing is given up once groups have started: what keeps them from it may pass."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.finish(life(board, 0), ticket, End(ended("a")))
        waits = [await board.slot_failed(0, f"no room {index}") for index in range(8)]
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        assert await board.slot_failed(1, "no room") == 1
        ticket = await board.submit(trial("b"))
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("b"))
        assert await board.slot_failed(0, "killed") == 1

    play(story, slots=2)


def test_without_any_slot_the_launch_ends_and_what_never_ran_has_no_record() -> None:
    async def story(board: Board) -> None:
        await board.submit(trial("a"))
        for slot in (0, 1):
            answers = [await board.slot_failed(slot, f"ImportError: no torch in process {n}") for n in range(4)]
            assert answers == [1, 2, None, None]  # the last call is for nothing: it was given up before
            assert await board.take(life(board, slot)) == "close"
        await board.submit(trial("late"))
        with pytest.raises(NoSlotsError, match="slot 1 could not be kept alive: ImportError: no torch in process 2"):
            await board.events()
        assert not board._events
        assert await board.remembers() == 2

    play(story, slots=2)


def test_different_reasons_are_no_clear_evidence() -> None:
    async def story(board: Board) -> None:
        reasons = ["ImportError: x", "TimeoutError: y"] * 2
        assert [await board.slot_failed(0, reason) for reason in reasons] == [1, 2, 4, 8]
        assert await board.slot_failed(0, reasons[0]) is None

    play(story)


def test_slots_are_given_up_when_none_has_worked_for_long() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        for _ in range(LAST_ATTEMPT + 2):
            assert await board.slot_failed(1, "no GPU") is not None  # the other one is at work
        await board.finish(life(board, 0), ticket, End(ended("a")))
        await board.submit(trial("b"))
        answers = [await board.slot_failed(0, "no GPU") for _ in range(LAST_ATTEMPT)]
        assert None not in answers[:-1]
        assert answers[-1] is None
        assert await board.slot_failed(1, "no GPU") is None
        await board.events()
        with pytest.raises(NoSlotsError, match="no GPU"):
            await board.events()

    play(story, slots=2)


def test_a_slot_that_is_late_is_not_counted_on_and_welcome_all_the_same() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await asyncio.sleep(0.02)
        with pytest.raises(NoSlotsError, match="the worker group of slot 0 did not start within 0 s"):
            await board.events()
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        assert [event.kind for event in await board.events()] == ["started"]

    play(story, start_seconds=0.01)


def test_a_trial_of_a_slot_that_does_not_come_back_goes_to_another() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.take(life(board, 0))
        board._start_seconds = -2  # so that it is late at once
        await board.slot_failed(0, "killed")
        waiting = asyncio.create_task(board.take(life(board, 1)))
        await asyncio.sleep(0.01)
        await board.events()
        assert (await asyncio.wait_for(waiting, timeout=1))[:2] == (ticket, trial("a"))

    play(story, slots=2)


def test_a_trial_that_takes_too_long_ends_with_a_stack_of_each_rank() -> None:
    stack = '  File "loop.py", line 3, in train\n    x()\n  File "method.py", line 7, in loss\n    time.sleep(9)\n'

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), minutes=0.5)
        task = await board.take(life(board, 0))
        assert not isinstance(task, str)
        assert task.minutes == 0.5
        assert await board.hung(life(board, 0), ticket, {1: stack}, 2) is False
        assert finished(list(board._events)) == []
        assert await board.hung(life(board, 0), ticket, {0: "nothing"}, 2) is True
        assert await board.hung(life(board, 0), ticket, {1: stack}, 2) is True  # whoever asks again may go
        (record,) = finished(await board.events())
        assert record.status == "failed"
        assert record.error is not None
        assert record.error.startswith(
            "TimeoutError: the trial did not end within trial_minutes = 0.5: rank 0 stood in"
        )
        assert 'rank 1 stood in "method.py", line 7, in loss' in record.error
        assert "time.sleep(9)" in record.details["traceback"]
        assert await board.slot_failed(0, "the process of rank 0 died") == 1  # and it is started again

    play(story)


@pytest.mark.parametrize("said", [True, False], ids=["one rank could say where", "none could"])
def test_a_trial_whose_workers_end_after_its_time_is_not_repeated(said: bool) -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), minutes=1e-9)
        await board.take(life(board, 0))
        if said:
            await board.hung(life(board, 0), ticket, {0: '  File "x.py", line 1, in f\n'}, 2)
        await asyncio.sleep(0.001)
        assert await board.slot_failed(0, "the process of rank 1 died", "Timeout (0:00:20)!\nThread 0x1") == 1
        (record,) = finished(await board.events())
        assert record.error is not None
        assert "did not end within trial_minutes = 1e-09" in record.error
        assert ("rank 0 stood in" in record.error) is said
        assert "Timeout (0:00:20)!" in record.details["traceback"]

    play(story)


def test_whoever_meets_waits_for_all_however_long_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes twice, having been sent to ask again, counts once."""

    async def story(board: Board) -> None:
        early = asyncio.create_task(board.meet("linear", "a", 2))
        await asyncio.sleep(0)
        assert not early.done()
        assert await asyncio.wait_for(board.meet("linear", "b", 2), timeout=1)
        assert await asyncio.wait_for(early, timeout=1)
        monkeypatch.setattr(board_module, "POLL_SECONDS", 0.05)
        for _ in range(3):
            assert not await asyncio.wait_for(board.meet("lora", "a", 2), timeout=1)
        assert await board.meet("lora", "b", 2)
        assert await board.meet("lora", "a", 2)

    play(story)


def test_a_trial_of_a_slot_that_leaves_is_the_next_one_of_another() -> None:
    async def story(board: Board) -> None:
        ticket, later = [await board.submit(trial(label)) for label in ("a", "b")]
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        assert await board.report(life(board, 0), ticket, point(1)) is False
        await board.leave(0)
        assert (await board.take(life(board, 1)))[:2] == (ticket, trial("a"))  # before what has waited all the time
        await board.finish(life(board, 1), ticket, End(ended("a")))
        assert (await board.take(life(board, 1)))[:2] == (later, trial("b"))
        assert told(await board.events()) == [
            ("started", "a", 0),
            ("report", "a", 0),
            ("started", "a", 1),
            ("finished", "a", 1),
            ("started", "b", 1),
        ]

    play(story, slots=2)


def test_readings_of_a_trial_that_was_given_back_begin_anew() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), watched=True)
        await board.take(life(board, 0))
        await board.report(life(board, 0), ticket, point(1, validated=True))
        await board.leave(0)
        await board.take(life(board, 1))
        await board.report(life(board, 1), ticket, point(2, validated=True))
        assert await board.reading("linear-a", 0) == (point(2, validated=True), None)

    play(story, slots=2)


@pytest.mark.parametrize("taken", [False, True], ids=["waiting", "taken by another"])
def test_who_left_is_told_to_stop_and_its_record_does_not_count(taken: bool) -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.leave(0)
        if taken:
            assert (await board.take(life(board, 1)))[:2] == (ticket, trial("a"))
        await board.events()
        assert await board.report(life(board, 0), ticket, point(5)) is True
        await board.finish(life(board, 0), ticket, End(ended("a")))
        assert await board.take(life(board, 0)) == "close"
        assert not board._events
        if not taken:
            assert (await board.take(life(board, 1)))[:2] == (ticket, trial("a"))
        assert await board.report(life(board, 1), ticket, point(5)) is False
        await board.finish(life(board, 1), ticket, End(ended("a")))
        await board.finish(life(board, 1), ticket, End(ended("a")))
        assert [event.slot for event in await board.events() if event.kind == "finished"] == [1]
        assert await board.remembers() == 0

    play(story, slots=2)


def test_a_slot_that_leaves_while_it_waits_is_closed() -> None:
    async def story(board: Board) -> None:
        waiting = asyncio.create_task(board.take(life(board, 0)))
        await asyncio.sleep(0.01)
        await board.leave(0)
        await board.submit(trial("a"))
        assert await asyncio.wait_for(waiting, timeout=1) == "close"
        assert (await board.take(life(board, 1)))[1] == trial("a")

    play(story, slots=2)


def test_a_slot_may_leave_and_join_again() -> None:
    async def story(board: Board) -> None:
        first = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.leave(0)
        await board.leave(0)  # twice is once
        assert await board.take(life(board, 0)) == "close"
        await board.join(0)
        assert (await board.take(life(board, 0)))[:2] == (first, trial("a"))
        assert await board.report(life(board, 0), first, point(1)) is False
        await board.finish(life(board, 0), first, End(ended("a")))
        await board.join(7)  # one that was not expected
        second = await board.submit(trial("b"))
        assert (await board.take(life(board, 7)))[:2] == (second, trial("b"))
        assert [event for event in told(await board.events()) if event[0] != "report"] == [
            ("started", "a", 0),
            ("started", "a", 0),
            ("finished", "a", 0),
            ("started", "b", 7),
        ]

    play(story)


def test_a_slot_that_was_given_up_may_join_again() -> None:
    async def story(board: Board) -> None:
        for answer in (1, 2, None):
            assert await board.slot_failed(0, "no torch") == answer
        await board.join(0)
        ticket = await board.submit(trial("a"))
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        assert await board.slot_failed(0, "no torch") == 1  # what happened before is forgiven

    play(story)


def test_trials_wait_when_the_last_slot_leaves() -> None:
    async def story(board: Board) -> None:
        tickets = [await board.submit(trial(label)) for label in ("a", "b")]
        await board.take(life(board, 0))
        await board.leave(0)
        assert told(await board.events()) == [("started", "a", 0)]
        await board.join(0)
        for label, ticket in zip("ab", tickets, strict=True):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial(label))
            await board.finish(life(board, 0), ticket, End(ended(label)))
        assert {record.status for record in finished(await board.events())} == {"stopped"}

    play(story)


def test_a_trial_that_is_submitted_while_all_slots_have_left_waits() -> None:
    async def story(board: Board) -> None:
        await board.leave(0)
        ticket = await board.submit(trial("a"))
        assert finished(list(board._events)) == []
        await board.join(0)
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))

    play(story)


def test_to_leave_costs_a_trial_no_attempt() -> None:
    """What counts is how often its workers died, as its record says."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        for _ in range(MAX_ATTEMPTS):
            assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
            await board.leave(0)
            await board.join(0)
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))
        assert await board.slot_failed(0, "killed") == 1
        await board.submit(trial("b"))
        assert (await board.take(life(board, 0)))[:2] == (ticket, trial("a"))

    play(story)


def test_a_record_says_how_many_slots_there_were() -> None:
    async def story(board: Board) -> None:
        for label, change in (("a", None), ("b", board.join(2)), ("c", board.leave(2)), ("d", board.join(2))):
            if change is not None:
                await change
            ticket = await board.submit(trial(label))
            await board.take(life(board, 0))
            await board.finish(life(board, 0), ticket, End(ended(label)))
        found = finished(await board.events())
        assert [record.provenance["slots"] for record in found] == [2, 3, 3, 3]
        assert {**found[0].provenance, "slots": 2} == {**ended("a").provenance, "slots": 2}  # nothing else is touched

    play(story, slots=2)


def test_who_waits_for_events_can_be_woken() -> None:
    async def story(board: Board) -> None:
        waiting = asyncio.create_task(board.events())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await board.wake()
        assert await asyncio.wait_for(waiting, timeout=1) == []

    play(story)


def test_the_board_needs_no_ray() -> None:
    code = "import sys, bench.cluster.board; print([m for m in ('ray', 'torch', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_trial_ends_at_the_reading_that_does_not_pass_its_bar_however_often_its_workers_die() -> None:
    bar = Bar(Objective(quantity="target_accuracy"), {4: (Seen((40.0,)),) * 2, 16: (Seen((60.0,)),) * 2})

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"), watched=True, bar=bar)
        for _ in range(2):
            await board.take(life(board, 0))
            said = [await board.report(life(board, 0), ticket, point(step, validated=True)) for step in (4, 8, 16)]
            assert said == [False, False, True]  # 50 is above 40, and below 60
            await board.slot_failed(0, "killed")
        await board.take(life(board, 0))
        assert await board.report(life(board, 0), ticket, point(16)) is False  # a loss is no reading
        assert finished(await board.events()) == []

    play(story)


def test_a_record_that_ended_where_the_trial_would_not_is_no_answer() -> None:
    """As one that a launch has stopped because it was ended itself, or that had other rivals."""
    course = [reading for step in (4, 16) for reading in point(step, validated=True).readings]
    stopped = ended("a").model_copy(update={"steps": 16, "readings": tuple(course)})
    objective = Objective(quantity="target_accuracy")
    for bar, known in (
        (None, False),
        (Bar(objective, {16: (Seen((60.0,)),) * 2}), True),
        (Bar(objective, {16: (Seen((40.0,)),) * 2}), False),
        (Bar(objective, {4: (Seen((60.0,)),) * 2, 16: (Seen((60.0,)),) * 2}), False),
    ):

        async def story(board: Board, bar: Bar | None = bar, known: bool = known) -> None:
            await board.know({stopped.trial: stopped})
            await board.submit(trial("a"), watched=True, bar=bar)
            assert [event.kind for event in list(board._events)] == (["known"] if known else [])

        play(story)


def test_a_trial_whose_record_is_known_is_answered_at_once() -> None:
    """With the readings on the way that whoever watches would have seen, and without a slot."""
    course = [reading for step in (5, 10, 15) for reading in point(step, validated=True).readings]
    before = Reading(step=0, split="val", domain="source", probe="knn", n=10, numbers={"top1": 90.0})
    known = ended("a").model_copy(update={"steps": 15, "readings": (before, *course)})
    bar = Bar(Objective(quantity="target_accuracy"), {15: (Seen((60.0,)),) * 2})

    async def story(board: Board) -> None:
        await board.know({known.trial: known, "linear-c": records.failed(trial("c"), ValueError("no"))})
        await board.submit(trial("a"), watched=True, bar=bar)
        await board.submit(trial("b"), watched=True)
        assert told(await board.events()) == [("known", "a", None)]
        assert [await board.reading("linear-a", index) for index in range(3)] == [
            (Point(step, 15, {}, (before, *point(step, validated=True).readings)), known) for step in (5, 10, 15)
        ]  # it was stopped at its last reading
        assert await board.reading("linear-a", 3) == (None, known)
        await board.release("linear-a")
        ticket, given, *_ = await board.take(life(board, 0))  # type: ignore[misc]
        assert given.id == "linear-b"
        await board.finish(life(board, 0), ticket, End(ended("b")))
        await board.submit(trial("c"))
        assert told(await board.events())[-1] == ("known", "c", None)
        await board.release("linear-b")
        assert board._tickets == {}

    play(story)


def test_a_record_of_another_configuration_answers_nothing() -> None:
    async def story(board: Board) -> None:
        await board.know({"linear-a": ended("a")})
        await board.submit(trial("a").model_copy(update={"seed": 7}))
        assert (await board.take(life(board, 0)))[1].seed == 7  # type: ignore[union-attr]

    play(story)


@pytest.mark.parametrize("how", ["failed", "left"])
def test_what_a_dead_worker_still_asks_for_goes_to_the_one_that_lives(how: str) -> None:
    """Ray does not end a call whose caller has died, and a group may be back while it still waits."""

    async def run() -> None:
        board = Board(1)
        stale = asyncio.create_task(board.take(life(board, 0)))
        await asyncio.sleep(0)
        if how == "failed":
            assert await board.slot_failed(0, "SIGKILL") is not None
        else:
            await board.leave(0)
            await board.join(0)
        assert await stale == "close"
        live = asyncio.create_task(board.take(life(board, 0)))
        await asyncio.sleep(0)
        ticket = await board.submit(trial("a"))
        assert (await live)[0] == ticket
        assert await board.remembers() == 1

    asyncio.run(run())


def test_two_lives_of_one_slot_get_one_trial() -> None:
    async def run() -> None:
        board = Board(1)
        first = asyncio.create_task(board.take(await board.begin(0)))
        await asyncio.sleep(0)
        second = asyncio.create_task(board.take(await board.begin(0)))
        await asyncio.sleep(0)
        ticket = await board.submit(trial("a"))
        assert await first == "close"
        assert (await second)[0] == ticket

    asyncio.run(run())


@pytest.mark.parametrize("again", ["before", "after"])
def test_workers_that_outlive_their_controller_are_not_heard(again: str) -> None:
    """They train on for a moment, in the name of a slot whose next group has the trial, or will have it."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        old = await board.begin(0)
        assert (await board.take(old))[0] == ticket
        assert await board.slot_failed(0, "its controller was killed") is not None
        new = await board.begin(0)
        if again == "after":
            assert (await board.take(new))[0] == ticket
        await board.events()
        assert await board.report(old, ticket, point(99)) is True
        await board.saved(old, ticket, 99)
        await board.enrol(old, Group((b"old",), frozenset()))
        await board.finish(old, ticket, End(ended("a")))
        assert await board.hung(old, ticket, {0: "nothing"}, 1) is True
        assert await board.take(old) == "close"
        assert board._tickets[ticket].step == 0
        assert await board.groups() == {}
        if again == "before":
            assert (await board.take(new))[0] == ticket
        assert not finished(list(board._events))
        assert await board.report(new, ticket, point(1)) is False
        await board.finish(new, ticket, End(ended("a")))
        assert len(finished(await board.events())) == 1

    play(story)


def test_slots_wait_for_nodes_as_long_as_another_works_and_a_while_longer() -> None:
    async def run() -> None:
        board = Board(3)
        for slot in (1, 2):
            await board.leave(slot)
        assert not await board.deserted(0.05, "no node came")
        await asyncio.sleep(0.1)
        assert not await board.deserted(0.05, "no node came")  # slot 0 works
        await board.leave(0)
        assert not await board.deserted(0.05, "no node came")  # the time begins here
        await asyncio.sleep(0.1)
        assert await board.deserted(0.05, "no node came")
        with pytest.raises(NoSlotsError, match="no node came"):
            await board.events()

    asyncio.run(run())


def test_a_slot_that_is_given_up_does_not_let_others_wait_for_ever() -> None:
    async def run() -> None:
        board = Board(2)
        await board.leave(1)
        for _ in range(START_ATTEMPTS):
            wait = await board.slot_failed(0, "ImportError: x")
        assert wait is None
        assert not await board.deserted(0.05, "no node came")
        await asyncio.sleep(0.1)
        assert await board.deserted(0.05, "no node came")

    asyncio.run(run())


def test_a_slot_that_is_refused_leaves_its_trial_to_the_others() -> None:
    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.refuse(0, "host a cannot train: timm is missing")
        assert await board.take(life(board, 0)) == "close"
        task = await board.take(life(board, 1))
        assert isinstance(task, board_module.Task)
        assert task.ticket == ticket
        await board.finish(life(board, 1), ticket, End(ended("a")))
        assert [record.status for record in finished(await board.events())] == ["stopped"]

    play(story, slots=2)


@pytest.mark.parametrize("last", ["refused", "failed"])
def test_when_every_slot_is_refused_all_reasons_are_said_once(last: str) -> None:
    async def story(board: Board) -> None:
        await board.submit(trial("a"))
        for slot in (0, 1):
            await board.refuse(slot, "host a cannot train: timm is missing")
        if last == "refused":
            await board.refuse(2, "host b cannot train: no GPU")
        else:
            await board.stay_away(2, "slot 2: OSError: the disk is full")
        with pytest.raises(NoSlotsError) as raised:
            await board.events()
        other = {"refused": "host b cannot train: no GPU", "failed": "slot 2: OSError: the disk is full"}[last]
        assert str(raised.value) == f"host a cannot train: timm is missing; {other}"

    play(story, slots=3)


def test_a_refused_slot_does_not_end_what_others_may_still_do() -> None:
    async def story(board: Board) -> None:
        await board.submit(trial("a"))
        await board.leave(1)  # it waits for a node
        await board.refuse(0, "host a cannot train: timm is missing")
        await board.wake()
        assert await board.events() == []

    play(story, slots=2)


def test_records_have_the_launchs_commit_whatever_the_worker_knows() -> None:
    async def story() -> None:
        board = Board(1, code={"commit": "c" * 40, "dirty": True})
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        unknown = {**ended("a").provenance, "commit": None, "dirty": None}
        await board.finish(life(board, 0), ticket, End(ended("a").model_copy(update={"provenance": unknown})))
        (record,) = finished(await board.events())
        assert (record.provenance["commit"], record.provenance["dirty"]) == ("c" * 40, True)

    asyncio.run(story())


def test_a_report_wakes_nobody_but_who_hears_of_the_events() -> None:
    """With a thousand slots that wait, each of a trial's reports would wake a thousand."""

    async def story(board: Board) -> None:
        looks = dict.fromkeys(range(1, 4), 0)

        class Waiting(board_module.deque[int]):
            def __bool__(self) -> bool:
                looks[1] += 1
                return len(self) > 0

        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        await board.events()
        board._waiting = Waiting()
        waiting = [asyncio.create_task(board.take(life(board, slot))) for slot in range(1, 4)]
        hears = asyncio.create_task(board.events())
        await asyncio.sleep(board_module.GATHER_SECONDS)
        before = looks[1]
        assert before >= 3
        await board.report(life(board, 0), ticket, point(1))
        assert told(await hears) == [("report", "a", 0)]
        assert looks[1] == before
        await board.close()
        assert await asyncio.gather(*waiting) == ["close"] * 3
        assert len(board._topics) == 0

    play(story, slots=4)


def test_what_happens_in_between_is_heard_of_at_once() -> None:
    """Every answer costs milliseconds: of a hundred events a second there are ten."""

    async def story(board: Board) -> None:
        ticket = await board.submit(trial("a"))
        await board.take(life(board, 0))
        assert told(await board.events()) == [("started", "a", 0)]
        for step in range(1, 30):
            await board.report(life(board, 0), ticket, point(step))
            await asyncio.sleep(0.001)
        assert len(await board.events()) >= 29

    play(story)
