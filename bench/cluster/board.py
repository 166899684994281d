"""The board: where trials are submitted, handed out to slots, and answered. It knows nothing of Ray."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bench import records
from bench.cluster.pruning import Bar
from bench.cluster.topics import Topics
from bench.readings import Point
from bench.records import Record
from bench.spec import Trial

MAX_ATTEMPTS = 4
"""A trial is repeated three times: it has failed when its workers have died so often without its having come further
than before."""

START_ATTEMPTS = 3
"""A slot is given up when its worker group has failed so often for the same reason, and none has ever come to life."""

LAST_ATTEMPT = 15
"""Once one has: when the groups of all slots have failed so often in a row, in some ten minutes or more."""

MOST_INTERRUPTIONS = 15
"""A trial is not to blame for the death of its group's controller, until it has lost groups so often, for whatever
reason, without its having come further."""

LONGEST_WAIT = 60.0
"""A slot waits for 1, 2, 4, ... and at most so many seconds before it starts its next worker group."""

START_SECONDS = 600.0
"""A worker group may take so long to ask for its first trial, before the slot is not counted on."""

POLL_SECONDS = 30.0
"""A call to the board waits at most so long for news before it is asked again."""

GATHER_SECONDS, LONGEST_GATHER_SECONDS = 0.2, 0.5
"""Who hears of the events hears of them at most so often, since each answer costs milliseconds: of all at once. The
more slots there are the rarer, but never rarer than the second."""

SLOTS_AT_ONCE = 128.0
"""Slots of which is heard in a second's time."""

POST_SECONDS, LONGEST_POST_SECONDS = 2.0, 4.0
"""Points of a trial's curves are held for at most so long, before they are posted together: the longer, the more slots
there are, but never longer than the second. So long it may also take until a trial hears that it is to stop, or that
the board has ended."""

POSTS_PER_SECOND = 16.0
"""More posts than that are not asked for, as long as nobody waits too long: each costs milliseconds."""

EVENTS, QUEUE = "events", "queue"
"""Topics: what has happened; what there is to do for slots. Further ones are ``("trial", id)`` and ``("place", name)``.
"""


@dataclass(frozen=True)
class Event:
    """What happened to a trial. ``point`` comes with ``report``, ``record`` with ``finished`` and with ``known``: the
    trial had ended in an earlier try of the launch.

    ``weights`` holds the trained tensors of a finished trial, as the bytes of a safetensors file (uint8); whoever has
    the record has them, whatever becomes of the worker. ``seconds`` is what a finished trial took in its worker, from
    its being taken to its record; all other time of a slot is the harness's.
    """

    kind: Literal["started", "report", "finished", "known"]
    ticket: int
    trial: Trial
    slot: int | None = None
    point: Point | None = None
    record: Record | None = None
    weights: tuple[Any, ...] = ()
    seconds: float | None = None


class NoSlotsError(Exception):
    """No slot is left that could train a trial; the message says why. What has not ended has no record."""


class Snapshots(NamedTuple):
    """Where unfinished trials keep what they need to go on.

    ``mark`` is what the file :data:`MARK` in the folder says on a machine that sees it.
    """

    folder: str
    mark: str


MARK = ".launch"
"""A file of this name tells the launch's folder from one of the same path on another machine."""


class Life(NamedTuple):
    """One worker group of a slot, from its start to its end: in whose name something is said to the board.

    Workers whose controller has died live on for a moment, and calls of dead ones may still arrive: neither is heard
    any more as soon as the slot's next life begins, or this one is known to have ended.
    """

    slot: int
    number: int


class Group(NamedTuple):
    """The workers of a slot: handles of their actors by rank, pickled, and the ids of the nodes that they are on."""

    actors: tuple[bytes, ...]
    nodes: frozenset[str]


class Task(NamedTuple):
    """A trial that is given out, the minutes that it may take (None: any), and where its snapshots are kept, if so.

    Its points are posted together, every ``post_seconds``.
    """

    ticket: int
    trial: Trial
    minutes: float | None = None
    snapshots: Snapshots | None = None
    post_seconds: float = POST_SECONDS


class End(NamedTuple):
    """How a trial has ended, what it took in its worker, and the last points of its curves."""

    record: Record
    seconds: float | None = None
    points: Sequence[Point] = ()


@dataclass
class _Ticket:
    trial: Trial
    watched: bool = False
    minutes: float | None = None
    started: float = 0.0
    step: int = 0
    furthest: int = -1
    deaths: int = 0
    interruptions: int = 0
    stacks: dict[int, str] = field(default_factory=dict)
    stop: bool = False
    readings: list[Point] = field(default_factory=list)
    record: Record | None = None
    bar: Bar | None = None


class Board:
    """Where trials are asked for and answered; a plain asyncio object, whose methods run without interruption.

    Slots join, leave and come back. A trial is given out, answered once, or given back unfinished, and then given out
    again, to whichever slot asks first. It is forgotten as soon as it has ended and nobody watches it any more.
    """

    def __init__(self, slots: int, start_seconds: float = START_SECONDS, code: Mapping[str, Any] | None = None) -> None:
        """Expect so many slots, numbered from 0; others may join.

        Args:
            start_seconds: how long a slot may take from joining to asking for its first trial.
            code: what records say of the code that runs, see :func:`bench.records.commit`; that is the launch's, which
                the copies on its nodes may not know.
        """
        self._tickets: dict[int, _Ticket] = {}
        self._watched: dict[str, int] = {}
        self._submitted = 0
        self._waiting: deque[int] = deque()
        self._running: dict[int, int] = {}
        self._alive: set[int] = set()
        self._away: set[int] = set()
        self._known: set[int] = set()
        self._failures: Counter[int] = Counter()
        self._reasons: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._late: set[int] = set()
        self._lives: Counter[int] = Counter()
        self._groups: dict[int, Group] = {}
        self._deserted_since: float | None = None
        self._asked = False
        self._start_seconds = start_seconds
        self._due: dict[int, float] = {}
        for slot in range(slots):
            self._join(slot)
        self._last_error: str | None = None
        self._refusals: dict[str, None] = {}
        self._code = dict(code or {})
        self._snapshots: Snapshots | None = None
        self._known_records: dict[str, Record] = {}
        self._events: deque[Event] = deque()
        self._met: defaultdict[str, set[str]] = defaultdict(set)
        self._closed = False
        self._woken = False
        self._topics = Topics()
        self._told_at = 0.0

    async def join(self, slot: int) -> None:
        """A slot is being started, for the first time or again; it is expected to ask for a trial soon."""
        self._join(slot)
        self._topics.notify(EVENTS)

    async def leave(self, slot: int) -> None:
        """A slot is gone, or about to go; its trial is given back unfinished. It may join again.

        Unlike one that has failed it costs no trial anything, even if it was the last one: they wait for the next.
        """
        if slot in self._alive:
            self._away.add(slot)
        self._leave(slot)
        self._topics.notify(EVENTS)

    async def begin(self, slot: int) -> Life:
        """A worker group is started for a slot; who speaks in the name of an earlier one is not heard any more."""
        return Life(slot, self._live_again(slot))

    async def enrol(self, life: Life, group: Group) -> None:
        """Post who the workers of a slot are."""
        if self._lives_on(life):
            self._groups[life.slot] = group

    async def groups(self) -> Mapping[int, Group]:
        """The workers of all slots."""
        return self._groups

    async def deserted(self, seconds: float, reason: str) -> bool:
        """Whether no slot has worked for so long; then those that are away do not come back, for that reason."""
        now = time.monotonic()
        if self._alive - self._late:
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now
        elif now - self._deserted_since >= seconds:
            self._away.clear()
            self._last_error = reason
            self._topics.notify(EVENTS)
            return True
        return False

    async def stay_away(self, slot: int, reason: str) -> None:
        """A slot is gone, and does not come back."""
        self._leave(slot)
        self._away.discard(slot)
        self._last_error = reason
        self._topics.notify(EVENTS)

    async def refuse(self, slot: int, reason: str) -> None:
        """A slot's nodes lack something that trials need: it is gone, and does not come back.

        What it has been given is another one's; it has cost the trial nothing.
        """
        self._leave(slot)
        self._away.discard(slot)
        self._refusals[reason] = None
        self._topics.notify(EVENTS)

    async def keep_snapshots(self, snapshots: Snapshots) -> None:
        """Trials that are given out from now on keep what they need to go on there."""
        self._snapshots = snapshots

    async def know(self, records: Mapping[str, Record]) -> None:
        """Trials of these names are answered by these records, if they were asked for the very same."""
        self._known_records.update(records)

    async def submit(
        self,
        trial: Trial,
        watched: bool = False,
        minutes: float | None = None,
        bar: Bar | None = None,
        release: Sequence[str] = (),
    ) -> int:
        """Queue a trial, or answer it at once if its record is known; returns its ticket.

        Args:
            watched: its readings are kept for :meth:`reading`, until :meth:`release`.
            minutes: it may take from when it is taken; any time if None.
            bar: it ends at the first reading that does not pass it.
            release: see :meth:`release`.
        """
        await self.release(*release)
        ticket, self._submitted = self._submitted, self._submitted + 1
        self._tickets[ticket] = _Ticket(trial, watched, minutes, bar=bar)
        if watched:
            self._watched[trial.id] = ticket
            self._topics.notify(("trial", trial.id))
        record = self._known_records.pop(trial.id, None)
        if record is not None and _answers(record, trial, bar):
            self._answer(ticket, record)
        else:
            self._waiting.append(ticket)
            self._topics.notify(QUEUE)
        return ticket

    async def take(self, life: Life) -> Task | Literal["wait", "close"]:
        """The next trial of a slot; the same one again if its workers died in the middle of it."""
        slot = life.slot
        if slot not in self._alive or not self._lives_on(life):  # it came to life after it had been given up
            return "close"
        self._due.pop(slot, None)
        self._late.discard(slot)
        self._failures[slot] = 0
        self._reasons.pop(slot, None)
        self._asked = True
        if slot in self._running:
            return self._start(slot, self._running[slot])
        await self._wait(QUEUE, lambda: bool(self._waiting) or self._closed or not self._lives_on(life))
        if not self._lives_on(life):  # who has asked is dead, or has been given up: Ray does not end its calls
            return "close"
        if self._waiting:
            return self._start(slot, self._waiting.popleft())
        return "close" if self._closed else "wait"

    async def report(self, life: Life, ticket: int, *points: Point) -> bool:
        """Post points of a running trial's curves; returns whether it is to stop now."""
        if not self._runs(life, ticket):
            return True  # it has ended for us, or was given to another slot meanwhile
        state = self._tickets[ticket]
        for point in points:
            state.step = max(state.step, point.step)
            if state.watched and point.readings:
                state.readings.append(point)
                self._topics.notify(("trial", state.trial.id))
            self._happened(Event("report", ticket, state.trial, slot=life.slot, point=point))
        # Not for good: should its workers die before its end is known, it is trained again, and ends here again.
        return state.stop or (
            state.bar is not None and any(state.bar.stops(point.step, point.readings) for point in points)
        )

    async def saved(self, life: Life, ticket: int, step: int) -> None:
        """Post that a running trial could go on from a step, should its workers die."""
        if self._runs(life, ticket):
            state = self._tickets[ticket]
            state.step = max(state.step, step)

    async def finish(self, life: Life, ticket: int, end: End, *weights: Any) -> None:
        """Post how a slot's trial has ended; it counts once.

        Args:
            weights: its trained tensors, if they are kept, see :class:`Event`.
        """
        await self.report(life, ticket, *end.points)
        if self._runs(life, ticket):
            self._finish(ticket, end.record, weights, end.seconds)

    async def finish_and_take(self, life: Life, ticket: int, end: End) -> Task | Literal["wait", "close"]:
        """:meth:`finish` without tensors, which would be held while it waits, and :meth:`take`."""
        await self.finish(life, ticket, end)
        return await self.take(life)

    async def hung(self, life: Life, ticket: int, stacks: Mapping[int, str], ranks: int) -> bool:
        """Post where ranks of a slot stand in a trial that has taken too long; it ends when all have said so.

        Returns:
            Whether it has ended: whoever has posted may go.
        """
        if self._runs(life, ticket):
            state = self._tickets[ticket]
            state.stacks |= stacks
            if len(state.stacks) >= ranks:
                self._fail(ticket, _overdue(state))
        return not self._runs(life, ticket)

    async def stop(self, ticket: int) -> None:
        """Ask a trial to end at its next report; one that has not started yet is dropped from the queue."""
        self._stop(ticket)

    async def release(self, *trials: str) -> None:
        """Stop watched trials that still run, and keep nothing more of them than their ends."""
        for trial in trials:
            ticket = self._watched.pop(trial, None)
            if ticket is None:
                continue
            self._tickets[ticket].watched = False
            self._stop(ticket)
            self._forget(ticket)
            self._topics.notify(("trial", trial))

    async def reading(self, trial: str, index: int) -> tuple[Point | None, Record | None]:
        """Wait for number ``index`` of a watched trial's points with readings, or else for its record."""

        def state() -> _Ticket | None:
            return self._tickets[self._watched[trial]] if trial in self._watched else None

        def ready() -> bool:
            return (now := state()) is not None and (len(now.readings) > index or now.record is not None)

        await self._wait(("trial", trial), ready)
        now = state()
        if now is None:
            return None, None
        return (now.readings[index] if len(now.readings) > index else None), now.record

    async def meet(self, place: str, who: str, count: int) -> bool:
        """Come to a place, and wait there for others; returns whether that many have come, or else is asked again."""
        self._met[place].add(who)
        self._topics.notify(("place", place))
        await self._wait(("place", place), lambda: len(self._met[place]) >= count)
        return len(self._met[place]) >= count

    async def events(self) -> list[Event]:
        """What has happened since the last call; waits for something to happen.

        Raises:
            NoSlotsError: all slots are given up, or do not come; nothing more will happen.
        """
        self._look_for_who_is_late()
        await asyncio.sleep(self._told_at + self._gather_seconds - time.monotonic())
        await self._wait(EVENTS, lambda: bool(self._events) or self._closed or self._woken or self._lost)
        self._woken, self._told_at = False, time.monotonic()
        events = list(self._events)
        self._events.clear()
        if not events and self._lost and not self._closed:
            raise NoSlotsError(self._why)
        return events

    async def wake(self) -> None:
        """Let who waits for events return, even if there are none."""
        self._woken = True
        self._topics.notify(EVENTS)

    async def slot_failed(self, slot: int, error: str, words: str = "", *, of_workers: bool = True) -> float | None:
        """A slot's worker group has ended with an error.

        Args:
            error: why, in one line.
            words: what its processes left to be read, such as a stack.
            of_workers: it is one of a process that trains, and not of the one that controls them.

        Returns:
            After how many seconds it is to be started again; None: it is given up.
        """
        if slot not in self._alive:
            return None
        ticket = self._running.get(slot)
        if ticket is not None and not self._failures[slot]:  # a group that did not start did not die of it
            self._note_death(ticket, error, words, of_workers)
        self._live_again(slot)
        self._groups.pop(slot, None)
        self._failures[slot] += 1
        self._reasons[slot][_kind(error)] += 1
        if self._hopeless(slot):
            self._give_up(slot, f"the worker group of slot {slot} could not be kept alive: {error}")
            wait = None
        else:
            wait = min(LONGEST_WAIT, 2.0 ** (self._failures[slot] - 1))
            self._due[slot] = time.monotonic() + wait + self._start_seconds
        self._topics.notify(EVENTS)
        return wait

    async def remembers(self) -> int:
        """How many trials are kept: those that have not ended, and those that are watched."""
        return len(self._tickets)

    async def close(self) -> None:
        """Let every slot end once its queue is empty."""
        self._closed = True
        self._topics.notify(EVENTS, QUEUE)

    def _join(self, slot: int) -> None:
        self._alive.add(slot)
        self._away.discard(slot)
        self._late.discard(slot)
        self._known.add(slot)
        self._failures[slot] = 0
        self._reasons.pop(slot, None)
        self._due[slot] = time.monotonic() + self._start_seconds

    def _note_death(self, ticket: int, reason: str, words: str, of_workers: bool) -> None:
        """A trial's group has ended: it is repeated, unless it took too long, or its workers die of it."""
        state = self._tickets[ticket]
        if state.step > state.furthest:
            state.deaths = state.interruptions = 0
        state.furthest = max(state.furthest, state.step)
        state.deaths += of_workers
        state.interruptions += 1
        if state.stacks or (state.minutes is not None and time.monotonic() - state.started > 60 * state.minutes):
            self._fail(ticket, _overdue(state, words))
        elif state.deaths >= MAX_ATTEMPTS or state.interruptions >= MOST_INTERRUPTIONS:
            self._fail(ticket, _died(state.interruptions, reason, words))

    def _hopeless(self, slot: int) -> bool:
        """Whether another worker group would fail like those before."""
        if not self._asked:
            return max(self._reasons[slot].values()) >= START_ATTEMPTS
        return all(self._failures[other] >= LAST_ATTEMPT for other in self._alive)

    def _look_for_who_is_late(self) -> None:
        """A slot that does not ask for a trial in time is not counted on; it may come all the same."""
        now = time.monotonic()
        late = [slot for slot, due in self._due.items() if due < now]
        for slot in late:
            del self._due[slot]
            self._late.add(slot)
            self._give_back(slot)
            self._last_error = f"the worker group of slot {slot} did not start within {self._start_seconds:.0f} s"

    @property
    def _lost(self) -> bool:
        """Whether there is no slot, nor one that may come back, and a reason for that."""
        return self._why is not None and not self._away and self._alive <= self._late

    @property
    def _why(self) -> str | None:
        """Why slots were lost, in one sentence; None if none was."""
        reasons = [*self._refusals, *([self._last_error] if self._last_error else [])]
        return "; ".join(reasons) or None

    def _live_again(self, slot: int) -> int:
        """Whoever still asks for a trial in the name of an earlier life of a slot is told so; returns the new life."""
        self._lives[slot] += 1
        self._topics.notify(QUEUE)
        return self._lives[slot]

    def _lives_on(self, life: Life) -> bool:
        return self._lives[life.slot] == life.number

    def _runs(self, life: Life, ticket: int) -> bool:
        """Whether it is this life of a slot that a trial is given to."""
        return self._lives_on(life) and self._running.get(life.slot) == ticket

    def _leave(self, slot: int) -> None:
        self._live_again(slot)
        self._groups.pop(slot, None)
        self._alive.discard(slot)
        self._late.discard(slot)
        self._due.pop(slot, None)
        self._give_back(slot)

    def _give_back(self, slot: int) -> None:
        ticket = self._running.pop(slot, None)
        if ticket is None:
            return
        self._waiting.appendleft(ticket)
        self._topics.notify(QUEUE)
        if self._tickets[ticket].stop:
            self._stop(ticket)

    def _start(self, slot: int, ticket: int) -> Task:
        state = self._tickets[ticket]
        state.started, state.step = time.monotonic(), 0
        state.readings.clear()
        state.stacks.clear()
        self._running[slot] = ticket
        self._happened(Event("started", ticket, state.trial, slot=slot))
        return Task(ticket, state.trial, state.minutes, self._snapshots, self._post_seconds)

    def _give_up(self, slot: int, error: str) -> None:
        """Do without a slot: another one gets its trial."""
        self._leave(slot)
        self._last_error = error

    def _stop(self, ticket: int) -> None:
        state = self._tickets.get(ticket)
        if state is None:
            return
        state.stop = True
        if ticket in self._waiting:
            self._finish(ticket, records.of(state.trial, status="stopped"))

    @property
    def _gather_seconds(self) -> float:
        return min(max(GATHER_SECONDS, len(self._alive) / SLOTS_AT_ONCE), LONGEST_GATHER_SECONDS)

    @property
    def _post_seconds(self) -> float:
        return min(max(POST_SECONDS, len(self._alive) / POSTS_PER_SECOND), LONGEST_POST_SECONDS)

    def _fail(self, ticket: int, error: BaseException) -> None:
        self._finish(ticket, records.failed(self._tickets[ticket].trial, error))

    def _finish(self, ticket: int, record: Record, weights: Sequence[Any] = (), seconds: float | None = None) -> None:
        state = self._tickets.get(ticket)
        if state is None or state.record is not None:
            return
        provenance = {**record.provenance, **self._code, "slots": len(self._known)}
        state.record = record.model_copy(update={"provenance": provenance})
        slot = next((slot for slot, other in self._running.items() if other == ticket), None)
        if slot is not None:
            del self._running[slot]
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        event = Event(
            "finished", ticket, state.trial, slot=slot, record=state.record, weights=tuple(weights), seconds=seconds
        )
        self._happened(event)
        self._topics.notify(("trial", state.trial.id))
        self._forget(ticket)

    def _answer(self, ticket: int, record: Record) -> None:
        """End a trial by its record of an earlier try, with the readings on the way that whoever watches would see."""
        state = self._tickets[ticket]
        if state.watched:
            before = tuple(reading for reading in record.readings if reading.step == 0)
            last = record.steps if record.status == "ok" else record.steps + 1
            for step in sorted({reading.step for reading in record.readings if 0 < reading.step < last}):
                at_step = tuple(reading for reading in record.readings if reading.step == step)
                state.readings.append(Point(step, record.steps, {}, (*before, *at_step)))
        state.record = record
        self._happened(Event("known", ticket, state.trial, record=record))
        self._topics.notify(("trial", state.trial.id))
        self._forget(ticket)

    def _forget(self, ticket: int) -> None:
        state = self._tickets.get(ticket)
        if state is not None and state.record is not None and not state.watched:
            del self._tickets[ticket]

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        self._topics.notify(EVENTS)

    async def _wait(self, topic: Hashable, ready: Callable[[], bool]) -> None:
        """Wait for a while; the caller asks again: no call may hang on a connection that was lost without a word."""
        await self._topics.wait(topic, ready, POLL_SECONDS)


def _answers(record: Record, trial: Trial, bar: Bar | None) -> bool:
    """Whether a record is of the very same trial, which would end where that one has ended."""
    end = None if bar is None else bar.end(record)
    return record.config == trial.model_dump(mode="json") and end == (
        record.steps if record.status == "stopped" else None
    )


def _kind(error: str) -> str:
    """What errors of the same kind have in common: they name other processes, addresses and times."""
    return error.split(":", 1)[0]


def _died(times: int, reason: str, words: str) -> RuntimeError:
    """Why a trial is not tried again, with what its workers left."""
    error = RuntimeError(f"its workers were lost {times} times without its coming further, the last time: {reason}")
    if words:
        error.add_note(words)
    return error


def _overdue(state: _Ticket, words: str = "") -> TimeoutError:
    """Why a trial that has not come to its end has ended, with a stack of each rank."""
    stood = "; ".join(f"rank {rank} stood in {_innermost(stack)}" for rank, stack in sorted(state.stacks.items()))
    error = TimeoutError(
        f"the trial did not end within trial_minutes = {state.minutes:g}: {stood or 'its stacks are in the traceback'}"
    )
    for rank, stack in sorted(state.stacks.items()):
        error.add_note(f"Rank {rank}:\n{stack}")
    if words:
        error.add_note(words)
    return error


def _innermost(stack: str) -> str:
    """The last frame of a stack in words, as `traceback` writes it: file, line, function."""
    frames = [line.strip() for line in stack.splitlines() if line.lstrip().startswith("File ")]
    return frames[-1].removeprefix("File ") if frames else "no Python code"
