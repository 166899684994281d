"""Ray Train: worker groups that stay warm and are fed trials.

A *slot* is one ``TorchTrainer.fit()`` that stays open: its processes, imports, weights, data sets and process group
live across trials. A trial is a message: it is submitted to the *board*, a small actor that all slots take their work
from and post their results to, so that whoever submits a trial needs to know nothing about who runs it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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

MAX_GROUP_FAILURES = 16
"""Restarts of one slot's worker group before the slot is given up."""

CLOSE_SECONDS = 60.0
"""How long the end of a slot whose work is done is waited for."""

POLL_SECONDS = 10.0
"""How long a call to the board may wait for news before it is asked again."""


@dataclass(frozen=True)
class Event:
    """What happened to a trial. ``metrics`` comes with ``report``, ``record`` with ``finished``.

    ``weights`` holds a reference to the trained tensors of a finished trial, as the bytes of a safetensors file; it
    stays in the worker's memory until it is fetched.
    """

    kind: Literal["started", "report", "finished"]
    ticket: int
    trial: Trial
    slot: int | None = None
    metrics: Mapping[str, float] | None = None
    record: Record | None = None
    weights: tuple[Any, ...] = ()


@dataclass
class _Ticket:
    trial: Trial
    attempts: int = 0
    stop: bool = False
    readings: list[Mapping[str, float]] = field(default_factory=list)
    record: Record | None = None


class Board:
    """Where trials are asked for and answered; an asyncio actor, so every method runs without interruption."""

    def __init__(self, slots: int) -> None:
        self._tickets: list[_Ticket] = []
        self._waiting: deque[int] = deque()
        self._running: dict[int, int] = {}
        self._alive = set(range(slots))
        self._events: deque[Event] = deque()
        self._closed = False
        self._changed = asyncio.Condition()

    async def submit(self, trial: Trial) -> int:
        """Queue a trial; returns its ticket."""
        self._tickets.append(_Ticket(trial))
        ticket = len(self._tickets) - 1
        self._waiting.append(ticket)
        if not self._alive:
            self._fail(ticket, RuntimeError("no worker group is left to run it"))
        await self._notify()
        return ticket

    async def take(self, slot: int) -> tuple[int, Trial] | Literal["wait", "close"]:
        """The next trial of a slot; the same one again if its workers died in the middle of it."""
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
        state = self._tickets[ticket]
        if any(name.startswith("val_") for name in metrics):
            state.readings.append(metrics)
        self._events.append(Event("report", ticket, state.trial, metrics=metrics))
        await self._notify()
        return state.stop

    async def finish(self, ticket: int, record: Record, weights: Sequence[Any] = ()) -> None:
        """Post a trial's record; the first one counts.

        Args:
            weights: a reference to its trained tensors, in a sequence so that it is passed on and not fetched.
        """
        self._finish(ticket, record, weights)
        await self._notify()

    async def stop(self, ticket: int) -> None:
        """Ask a trial to end at its next report; one that has not started yet is dropped from the queue."""
        state = self._tickets[ticket]
        state.stop = True
        if ticket in self._waiting:
            self._finish(ticket, records.of(state.trial, status="stopped"))
        await self._notify()

    async def reading(self, ticket: int, index: int) -> tuple[Mapping[str, float] | None, Record | None]:
        """Wait for a trial's validation reading number ``index``, or else for its record."""
        state = self._tickets[ticket]
        await self._wait(lambda: len(state.readings) > index or state.record is not None)
        return (state.readings[index] if len(state.readings) > index else None), state.record

    async def events(self) -> list[Event]:
        """What has happened since the last call; waits for something to happen."""
        await self._wait(lambda: bool(self._events) or self._closed)
        events = list(self._events)
        self._events.clear()
        return events

    async def slot_died(self, slot: int, error: str) -> None:
        """A slot's worker group could not be kept alive: its trial fails, and all others with the last slot."""
        self._alive.discard(slot)
        if slot in self._running:
            self._fail(self._running[slot], RuntimeError(error))
        if not self._alive:
            for ticket in list(self._waiting):
                self._fail(ticket, RuntimeError(error))
        await self._notify()

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

    def _fail(self, ticket: int, error: BaseException) -> None:
        self._finish(ticket, records.failed(self._tickets[ticket].trial, error))

    def _finish(self, ticket: int, record: Record, weights: Sequence[Any] = ()) -> None:
        state = self._tickets[ticket]
        if state.record is not None:
            return
        state.record = record
        self._running = {slot: other for slot, other in self._running.items() if other != ticket}
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._events.append(Event("finished", ticket, state.trial, record=record, weights=tuple(weights)))

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
    """The worker groups of one launch. They start at once and live until :meth:`close`."""

    def __init__(self, plan: Plan, *, storage: Path) -> None:
        """Start the slots.

        Args:
            plan: how many, and of what size.
            storage: folder for Ray Train's own files.
        """
        self.plan = plan
        actor: Any = ray.remote(num_cpus=0)(Board)
        self.board = actor.options(max_concurrency=1000).remote(plan.slots)
        self._storage = storage
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
        for thread in self._threads:
            thread.join(timeout=CLOSE_SECONDS)
            if thread.is_alive():
                log.warning("%s did not end within %.0f s", thread.name, CLOSE_SECONDS)

    def _hold(self, slot: int) -> None:
        """Keep one slot open; runs in its own thread for as long as the slot lives."""
        try:
            self._trainer(slot).fit()
        except Exception as error:
            log.exception("slot %d ended", slot)
            text = f"the worker group of slot {slot} could not be kept alive: {type(error).__name__}: {error}"
            ray.get(self.board.slot_died.remote(slot, text))

    def _trainer(self, slot: int) -> Any:
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
                failure_config=FailureConfig(max_failures=MAX_GROUP_FAILURES),
            ),
        )


def start_ray(address: str | None, *, folder: Path) -> None:
    """Start Ray on this machine, or join the cluster at ``address``.

    Args:
        folder: of the project, from which workers import ``bench``.

    Raises:
        SpecError: there is no cluster at that address.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the launch, not only the search
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # "local" by name: a RAY_ADDRESS in the environment must not take the launch to a cluster nobody asked for.
        ray.init("local", include_dashboard=False, runtime_env={"env_vars": environment}, **quiet)
        return
    try:
        excludes = [".git", ".venv", "results", "**/__pycache__"]
        ray.init(address, runtime_env={"working_dir": str(folder), "excludes": excludes}, **quiet)
    except (ConnectionError, ValueError) as error:
        raise SpecError(f"cannot join a Ray cluster at --address {address}: {error}") from None


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
        ticket, trial = task

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
            ray.get(board.finish.remote(ticket, record, weights))


def _share(value: Any) -> Any:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
