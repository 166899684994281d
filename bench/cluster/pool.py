"""The pool: the worker groups of one launch, each held open by a thread."""

from __future__ import annotations

import importlib
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench.cluster import placement, runtime, watchdog
from bench.cluster.board import MARK, START_SECONDS, Board, Event, NoSlotsError, Snapshots
from bench.cluster.slot import serve
from bench.folder import SNAPSHOT
from bench.records import Record, write_atomically
from bench.resources import CPUS_PER_WORKER, Plan
from bench.spec import Trial

log = logging.getLogger(__name__)

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
        own_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # With the driver, whatever other nodes come and go.
        self.board = actor.options(max_concurrency=1000, scheduling_strategy=own_node).remote(plan.slots, start_seconds)
        importlib.import_module("ray.train.torch")  # once, not in every thread at the same time
        self._storage = storage
        self._unfinished: Path | None = None
        self._abandoned = False
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._hold, args=(slot,), name=f"slot-{slot}", daemon=True)
            for slot in range(plan.slots)
        ]
        for thread in self._threads:
            thread.start()

    def know(self, records: Mapping[str, Record]) -> None:
        """See :meth:`bench.cluster.board.Board.know`."""
        ray.get(self.board.know.remote(dict(records)))

    def keep_snapshots(self, folder: Path) -> None:
        """Let trials keep in a folder what they need to go on, as far as their machines see it."""
        self._unfinished = folder.absolute()
        self._unfinished.mkdir(parents=True, exist_ok=True)
        self._tidy()
        mark = uuid.uuid4().hex
        write_atomically(self._unfinished / MARK, mark)
        ray.get(self.board.keep_snapshots.remote(Snapshots(str(self._unfinished), mark)))

    def submit(self, trial: Trial, minutes: float | None = None) -> int:
        """Queue a trial, which may take so many minutes; returns its ticket."""
        ticket: int = ray.get(self.board.submit.remote(trial, minutes=minutes))
        return ticket

    def fetch(self, reference: Any) -> bytes:
        """The trained tensors that an event refers to, as the bytes of a safetensors file."""
        tensors: bytes = ray.get(reference)
        return tensors

    def events(self) -> list[Event]:
        """What has happened since the last call; waits up to some seconds for something to happen.

        Raises:
            NoSlotsError: there is no slot any more.
        """
        try:
            events: list[Event] = ray.get(self.board.events.remote())
        except NoSlotsError as error:  # with Ray's traceback of another process around it
            raise NoSlotsError(str(getattr(error, "cause", error))) from None
        return events

    def wake(self) -> None:
        """Let who waits for events return, even if there are none."""
        ray.get(self.board.wake.remote())

    def close(self) -> None:
        """End the slots. Nothing must be queued or running: what is waited for is their shutdown only."""
        ray.get(self.board.close.remote())
        self._ending.set()
        self._join(CLOSE_SECONDS)
        if self._unfinished is not None and self._unfinished.is_dir():
            self._tidy()
            if not any(self._unfinished.iterdir()):  # what failed without an end of its own may go on later
                self._unfinished.rmdir()

    def _tidy(self) -> None:
        """Leave nothing but the snapshots of what has not ended: no half-written file, no words of dead processes."""
        assert self._unfinished is not None
        for path in self._unfinished.iterdir():
            if path.suffix != SNAPSHOT:
                path.unlink(missing_ok=True)

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
        self._ending.set()
        if not runtime.lost():
            ray.kill(self.board)
            self._join(ABANDON_SECONDS)
        if any(thread.is_alive() for thread in self._threads):  # their trials have had nothing to report
            runtime.end_workers()
            self._join(ABANDON_SECONDS)

    def _hold(self, slot: int) -> None:
        """Keep one slot open; runs in its own thread for as long as the slot lives."""
        while True:
            try:
                self._trainer(slot).fit()
                return
            except Exception as error:
                if self._abandoned:
                    return
                log.exception("slot %d ended", slot)
                words = self._last_words(slot)
                reason = _first_reason(error, words)
                wait = ray.get(self.board.slot_failed.remote(slot, reason, "\n".join(words)))
                if wait is None or self._ending.wait(wait):
                    return
                placement.free_orphans()

    def _last_words(self, slot: int) -> list[str]:
        """What the processes of a slot have noted before they died, by rank; it is read once."""
        if self._unfinished is None:
            return []
        found = []
        for path in watchdog.words_of(self._unfinished, slot):
            text = path.read_text(encoding="utf-8", errors="replace")
            path.unlink(missing_ok=True)
            if text:
                found.append(f"{path.stem}: {text}")
        return found

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


def _first_reason(error: BaseException, words: Sequence[str] = ()) -> str:
    """What went wrong in a worker group, in one line: of Ray's errors that of the first process that died, or raised.

    Args:
        words: what its processes have noted, see :mod:`bench.cluster.watchdog`.
    """
    from ray.train import ControllerError, WorkerGroupError

    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        dead = [rank for rank, failure in error.worker_failures.items() if _is_death(failure)]
        cause = error.worker_failures[min(dead or error.worker_failures)]
        if dead and "memory" not in type(_death(cause)).__name__.lower():
            return f"the process of rank {min(dead)} {_how_it_died(str(_death(cause)), words)}"
        cause = _death(cause) if dead else cause
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else 'no message'}"


def _death(failure: BaseException) -> BaseException:
    """What Ray says of a process, without Ray Train's words around it."""
    found: BaseException = getattr(failure, "health_check_failure", failure)
    return found


def _is_death(failure: BaseException) -> bool:
    return isinstance(_death(failure), ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError)


def _how_it_died(said: str, words: Sequence[str]) -> str:
    """The end of a process in words: its own last ones, Ray's if they name a signal, or what is left."""
    if words:
        first = words[0].split(": ", 1)[1].splitlines()[0]
        return f"died: {first.removeprefix('Fatal Python error: ').rstrip(':')}"
    if "SIGTERM" in said:
        return "was ended by SIGTERM (signal 15)"
    if "exited unexpectedly" in said or "unexpectedly exits" in said:
        return "was killed by SIGKILL (signal 9), as the system does when memory runs short, or ended itself unseen"
    return f"died: {said.splitlines()[-1].strip() if said else 'no message'}"
