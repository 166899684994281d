"""The pool: the worker groups of one launch, each held open by a thread."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from bench.cluster import runtime
from bench.cluster.board import START_SECONDS, Board, Event
from bench.cluster.slot import serve
from bench.records import Record
from bench.resources import Plan
from bench.spec import Trial

log = logging.getLogger(__name__)

CPUS_PER_WORKER = 0.9
"""A worker takes so much of the core that it is planned on: the rest is left for the search's own tiny actors
(see :mod:`bench.cluster.search`)."""

CLOSE_SECONDS = 60.0
"""The end of the slots is waited for at most so long, when their work is done."""

ABANDON_SECONDS = 6.0
"""The same when the launch is interrupted; then the workers are killed, and have as long again."""


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

    def know(self, records: Mapping[str, Record]) -> None:
        """See :meth:`bench.cluster.board.Board.know`."""
        ray.get(self.board.know.remote(dict(records)))

    def submit(self, trial: Trial) -> int:
        """Queue a trial; returns its ticket."""
        ticket: int = ray.get(self.board.submit.remote(trial))
        return ticket

    def fetch(self, reference: Any) -> bytes:
        """The trained tensors that an event refers to, as the bytes of a safetensors file."""
        tensors: bytes = ray.get(reference)
        return tensors

    def events(self) -> list[Event]:
        """What has happened since the last call; waits up to some seconds for something to happen."""
        events: list[Event] = ray.get(self.board.events.remote())
        return events

    def wake(self) -> None:
        """Let who waits for events return, even if there are none."""
        ray.get(self.board.wake.remote())

    def close(self) -> None:
        """End the slots. Nothing must be queued or running: what is waited for is their shutdown only."""
        ray.get(self.board.close.remote())
        self._join(CLOSE_SECONDS)

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.warning("%s did not end within %.0f s", thread.name, seconds)

    def abandon(self) -> None:
        """The launch is interrupted: end the board, and with it every slot, at its trial's next report.

        The slots are waited for, because a thread that still waits for Ray when Ray is shut down ends the process on
        the spot, and leaves Ray's behind.
        """
        if self._abandoned:
            return
        self._abandoned = True
        if not runtime.lost():
            ray.kill(self.board)
            self._join(ABANDON_SECONDS)
        if any(thread.is_alive() for thread in self._threads):  # their trials have had nothing to report
            runtime.end_workers()
            self._join(ABANDON_SECONDS)

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
            torch_config=runtime.torch_config(),
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
