"""Ray Train: worker groups that stay warm and are fed trials.

A *slot* is one trainer's ``fit()`` that stays open: its processes, imports, weights, data sets and process group
live across trials. A trial is a message: it is submitted to the *board*, a small actor that all slots take their work
from and post their results to, so that whoever submits a trial needs to know nothing about who runs it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ray

from bench import records
from bench.records import Record
from bench.resources import Plan
from bench.spec import SpecError, Trial

log = logging.getLogger(__name__)

CPUS_PER_WORKER = 0.9
"""Of the core that a worker is planned on: the rest is left for the search's own tiny actors (see ``search.py``)."""

MAX_ATTEMPTS = 3
"""Times a trial is started before its record says that its workers keep dying."""

START_ATTEMPTS = 2
"""Failures of a slot's worker group in a row, without a trial taken in between, before the slot is given up."""

START_SECONDS = 600.0
"""How long a worker group may take to ask for its first trial, before the slot is given up."""

CLOSE_SECONDS = 60.0
"""How long the end of the slots is waited for, when their work is done or the launch is interrupted."""

POLL_SECONDS = 10.0
"""How long a call to the board may wait for news before it is asked again."""

RAY_SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor a slot, for checkpoints that a slot does not have
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the launch, not only the search
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records and MLflow say it all
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a search is not restored
}
"""Environment of every process of a launch; what the user has set stays."""


@dataclass(frozen=True)
class Event:
    """What happened to a trial. ``metrics`` comes with ``report``, ``record`` with ``finished``.

    ``weights`` holds a reference to the trained tensors of a finished trial, as the bytes of a safetensors file; it
    stays in the worker's memory until it is fetched. ``seconds`` is what a finished trial took in its worker, from
    its being taken to its record; all other time of a slot is the harness's.
    """

    kind: Literal["started", "report", "finished"]
    ticket: int
    trial: Trial
    slot: int | None = None
    metrics: Mapping[str, float] | None = None
    record: Record | None = None
    weights: tuple[Any, ...] = ()
    seconds: float | None = None


@dataclass
class _Ticket:
    trial: Trial
    watched: bool = False
    attempts: int = 0
    stop: bool = False
    readings: list[Mapping[str, float]] = field(default_factory=list)
    record: Record | None = None


class Board:
    """Where trials are asked for and answered; an asyncio actor, so every method runs without interruption.

    A trial is forgotten as soon as it has ended and nobody watches it any more.
    """

    def __init__(self, slots: int, start_seconds: float = START_SECONDS) -> None:
        self._tickets: dict[int, _Ticket] = {}
        self._watched: dict[str, int] = {}
        self._submitted = 0
        self._waiting: deque[int] = deque()
        self._running: dict[int, int] = {}
        self._alive = set(range(slots))
        self._failures = dict.fromkeys(range(slots), 0)
        self._start_seconds = start_seconds
        self._due = dict.fromkeys(range(slots), time.monotonic() + start_seconds)
        self._last_error = "there is no slot"
        self._events: deque[Event] = deque()
        self._met: Counter[str] = Counter()
        self._closed = False
        self._changed = asyncio.Condition()

    async def submit(self, trial: Trial, watched: bool = False) -> int:
        """Queue a trial; returns its ticket.

        Args:
            watched: its readings are kept for :meth:`reading`, until :meth:`release`.
        """
        ticket, self._submitted = self._submitted, self._submitted + 1
        self._tickets[ticket] = _Ticket(trial, watched)
        if watched:
            self._watched[trial.id] = ticket
        self._waiting.append(ticket)
        if not self._alive:
            self._fail(ticket, RuntimeError(self._last_error))
        await self._notify()
        return ticket

    async def take(self, slot: int) -> tuple[int, Trial] | Literal["wait", "close"]:
        """The next trial of a slot; the same one again if its workers died in the middle of it."""
        if slot not in self._alive:  # it came to life after it had been given up
            return "close"
        self._due.pop(slot, None)
        self._failures[slot] = 0
        if slot in self._running:
            ticket = self._running[slot]
            if self._tickets[ticket].attempts < MAX_ATTEMPTS:
                return self._start(slot, ticket)
            self._fail(ticket, RuntimeError(f"its workers died {MAX_ATTEMPTS} times"))
            await self._notify()
        await self._wait(lambda: bool(self._waiting) or self._closed)
        if self._waiting:
            return self._start(slot, self._waiting.popleft())
        return "close" if self._closed else "wait"

    async def report(self, ticket: int, metrics: Mapping[str, float]) -> bool:
        """Post a running trial's metrics; returns whether it is to stop now."""
        state = self._tickets.get(ticket)
        if state is None:
            return True  # it was counted as failed meanwhile
        if state.watched and any(name.startswith("val_") for name in metrics):
            state.readings.append(metrics)
        self._events.append(Event("report", ticket, state.trial, metrics=metrics))
        await self._notify()
        return state.stop

    async def finish(
        self, ticket: int, record: Record, weights: Sequence[Any] = (), seconds: float | None = None
    ) -> None:
        """Post a trial's record; the first one counts.

        Args:
            weights: a reference to its trained tensors, in a sequence so that it is passed on and not fetched.
            seconds: what the trial took in its worker.
        """
        self._finish(ticket, record, weights, seconds)
        await self._notify()

    async def stop(self, ticket: int) -> None:
        """Ask a trial to end at its next report; one that has not started yet is dropped from the queue."""
        self._stop(ticket)
        await self._notify()

    async def release(self, trial: str) -> None:
        """Stop a watched trial if it still runs, and keep nothing more of it than its end."""
        ticket = self._watched.pop(trial, None)
        if ticket is None:
            return
        self._tickets[ticket].watched = False
        self._stop(ticket)
        self._forget(ticket)
        await self._notify()

    async def reading(self, trial: str, index: int) -> tuple[Mapping[str, float] | None, Record | None]:
        """Wait for a watched trial's validation reading number ``index``, or else for its record."""

        def state() -> _Ticket | None:
            return self._tickets[self._watched[trial]] if trial in self._watched else None

        await self._wait(lambda: (s := state()) is not None and (len(s.readings) > index or s.record is not None))
        found = state()
        if found is None:
            return None, None
        return (found.readings[index] if len(found.readings) > index else None), found.record

    async def meet(self, place: str, count: int) -> None:
        """Wait, but only for some seconds, until that many have come to a place."""
        self._met[place] += 1
        await self._notify()
        await self._wait(lambda: self._met[place] >= count)

    async def events(self) -> list[Event]:
        """What has happened since the last call; waits for something to happen."""
        now = time.monotonic()
        for slot in [slot for slot, due in self._due.items() if due < now]:
            self._give_up(slot, f"the worker group of slot {slot} did not start within {self._start_seconds:.0f} s")
        await self._wait(lambda: bool(self._events) or self._closed)
        events = list(self._events)
        self._events.clear()
        return events

    async def slot_failed(self, slot: int, error: str) -> bool:
        """A slot's worker group has ended with an error; returns whether it is worth another one."""
        if slot not in self._alive:
            return False
        self._failures[slot] += 1
        if self._failures[slot] < START_ATTEMPTS:
            self._due[slot] = time.monotonic() + self._start_seconds
            return True
        self._give_up(slot, f"the worker group of slot {slot} could not be kept alive: {error}")
        await self._notify()
        return False

    async def remembers(self) -> int:
        """How many trials are kept: those that have not ended, and those that are watched."""
        return len(self._tickets)

    async def close(self) -> None:
        """Let every slot end once its queue is empty."""
        self._closed = True
        await self._notify()

    def _start(self, slot: int, ticket: int) -> tuple[int, Trial]:
        state = self._tickets[ticket]
        state.attempts += 1
        state.readings.clear()
        self._running[slot] = ticket
        self._events.append(Event("started", ticket, state.trial, slot=slot))
        return ticket, state.trial

    def _give_up(self, slot: int, error: str) -> None:
        """Do without a slot: another one gets its trial; with the last slot all trials fail."""
        self._alive.discard(slot)
        self._due.pop(slot, None)
        self._last_error = error
        if slot in self._running:
            self._waiting.appendleft(self._running.pop(slot))
        if not self._alive:
            for ticket in list(self._waiting):
                self._fail(ticket, RuntimeError(error))

    def _stop(self, ticket: int) -> None:
        state = self._tickets.get(ticket)
        if state is None:
            return
        state.stop = True
        if ticket in self._waiting:
            self._finish(ticket, records.of(state.trial, status="stopped"))

    def _fail(self, ticket: int, error: BaseException) -> None:
        self._finish(ticket, records.failed(self._tickets[ticket].trial, error))

    def _finish(self, ticket: int, record: Record, weights: Sequence[Any] = (), seconds: float | None = None) -> None:
        state = self._tickets.get(ticket)
        if state is None or state.record is not None:
            return
        state.record = record
        slot = next((slot for slot, other in self._running.items() if other == ticket), None)
        if slot is not None:
            del self._running[slot]
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        event = Event(
            "finished", ticket, state.trial, slot=slot, record=record, weights=tuple(weights), seconds=seconds
        )
        self._events.append(event)
        self._forget(ticket)

    def _forget(self, ticket: int) -> None:
        state = self._tickets.get(ticket)
        if state is not None and state.record is not None and not state.watched:
            del self._tickets[ticket]

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, ready: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS), self._changed:
                await self._changed.wait_for(ready)
        except TimeoutError:
            return  # the caller asks again: no call may hang on a connection that was lost without a word


class Pool:
    """The worker groups of one launch. They start at once and live until :meth:`close` or :meth:`abandon`."""

    def __init__(self, plan: Plan, *, storage: Path, start_seconds: float = START_SECONDS) -> None:
        """Start the slots.

        Args:
            plan: how many, and of what size.
            storage: folder for Ray Train's own files.
            start_seconds: how long a worker group may take to ask for its first trial.
        """
        self.plan = plan
        actor: Any = ray.remote(num_cpus=0)(Board)
        self.board = actor.options(max_concurrency=1000).remote(plan.slots, start_seconds)
        importlib.import_module("ray.train.torch")  # once, not in every thread at the same time
        self._storage = storage
        self._abandoned = False
        self._threads = [
            threading.Thread(target=self._hold, args=(slot,), name=f"slot-{slot}", daemon=True)
            for slot in range(plan.slots)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, trial: Trial) -> int:
        """Queue a trial; returns its ticket."""
        ticket: int = ray.get(self.board.submit.remote(trial))
        return ticket

    def events(self) -> list[Event]:
        """What has happened since the last call; waits up to some seconds for something to happen."""
        events: list[Event] = ray.get(self.board.events.remote())
        return events

    def close(self) -> None:
        """End the slots. Nothing must be queued or running: what is waited for is their shutdown only."""
        ray.get(self.board.close.remote())
        self._join()

    def _join(self) -> None:
        end = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not end within %.0f s", thread.name, CLOSE_SECONDS)

    def abandon(self) -> None:
        """The launch is interrupted: end the board, and with it every slot, at its trial's next report.

        The slots are waited for, because a thread that still waits for Ray when Ray is shut down ends the process on
        the spot, and leaves Ray's behind.
        """
        self._abandoned = True
        ray.kill(self.board)
        self._join()

    def _hold(self, slot: int) -> None:
        """Keep one slot open; runs in its own thread for as long as the slot lives."""
        again = True
        while again:
            try:
                self._trainer(slot).fit()
                return
            except Exception as error:
                if self._abandoned:
                    return
                log.exception("slot %d ended", slot)
                again = ray.get(self.board.slot_failed.remote(slot, _first_reason(error)))

    def _trainer(self, slot: int) -> Any:
        """One life of a worker group. Whether it gets another one is the board's to say, not Ray's."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        return TorchTrainer(
            serve,
            train_loop_config={"board": self.board, "slot": slot},
            scaling_config=ScalingConfig(
                num_workers=self.plan.workers,
                use_gpu=self.plan.gpu,
                resources_per_worker={"CPU": CPUS_PER_WORKER, **({"GPU": 1} if self.plan.gpu else {})},
            ),
            run_config=RunConfig(
                name=f"slot-{slot}",
                storage_path=str(self._storage),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg] # v2 has it
            ),
        )


def _first_reason(error: BaseException) -> str:
    """What went wrong in a worker group, in one line: of Ray's errors the one of the first worker."""
    from ray.train import ControllerError, WorkerGroupError

    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = error.worker_failures[min(error.worker_failures)]
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else 'no message'}"


def start_ray(address: str | None, *, folder: Path, cores: int | None = None) -> None:
    """Start Ray on this machine, or join the cluster at ``address``.

    Args:
        folder: of the project, from which workers import ``bench``.
        cores: that Ray may use of this machine; all that it finds if None.

    Raises:
        SpecError: there is no cluster at that address.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        # By the environment, not by a runtime_env: Ray's own spare processes can then become our actors.
        with _importable(folder):
            # "local" by name: a RAY_ADDRESS in the environment must not take the launch to a cluster nobody asked for.
            ray.init("local", include_dashboard=False, num_cpus=cores, **quiet)
        return
    try:
        excludes = [".git", ".venv", "results", "**/__pycache__"]
        settings = {name: os.environ[name] for name in RAY_SETTINGS}
        environment = {"working_dir": str(folder), "excludes": excludes, "env_vars": settings}
        ray.init(address, runtime_env=environment, **quiet)
    except (ConnectionError, ValueError) as error:
        raise SpecError(f"cannot join a Ray cluster at --address {address}: {error}") from None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the processes that are started meanwhile import from a folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def serve(config: Mapping[str, Any]) -> None:
    """What every worker of a slot runs: take a trial, train it, post the result, until the board closes."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device
    from safetensors.torch import save

    from bench import trial as trials

    torch.set_num_threads(1)  # a slot a core beats threads, and results do not depend on the machine's size
    board, first, world = config["board"], get_context().get_world_rank() == 0, get_context().get_world_size()
    device = get_device()

    def take() -> Any:
        return ray.get(board.take.remote(config["slot"])) if first else None

    while (task := _share(take())) != "close":
        if task == "wait":
            continue
        # What is here now, modules and caches, stays: a trial's own garbage is then found in no time.
        gc.freeze()
        ticket, trial = task
        start = time.perf_counter()

        def report(metrics: Mapping[str, float], ticket: int = ticket) -> None:
            if _share(ray.get(board.report.remote(ticket, dict(metrics))) if first else None):
                raise trials.TrialStopped

        weights: list[Any] = []

        def keep(tensors: Mapping[str, Any], weights: list[Any] = weights) -> None:
            weights.append(ray.put(save(dict(tensors))))

        try:
            record = trials.run(trial, report, device=device, keep=keep if trial.phase == "confirm" else None)
        except Exception as error:
            ray.get(board.finish.remote(ticket, records.failed(trial, error)))
            if world > 1:  # the other ranks may be waiting in a collective: only a new worker group is safe
                raise
            continue
        if first:
            ray.get(board.finish.remote(ticket, record, weights, time.perf_counter() - start))


def _share(value: Any) -> Any:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
