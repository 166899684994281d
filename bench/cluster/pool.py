"""The pool: the worker groups of one launch, each held open by a thread."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench import records
from bench.cluster import placement, runtime, watchdog
from bench.cluster.board import MARK, START_SECONDS, Board, Event, NoSlotsError, Snapshots
from bench.cluster.inspection import Needs, Refused
from bench.cluster.slot import handles, serve
from bench.folder import SNAPSHOT, LaunchFolder
from bench.records import Record, write_atomically
from bench.resources import CPUS_PER_WORKER, Plan
from bench.spec import Trial

log = logging.getLogger(__name__)

ROOM_SECONDS = 1.0
"""Between two looks at whether there is room for a slot, or the launch is about to end."""

LOOKS = 4
"""So often in a row a node may lack what may come yet, such as a GPU that a dying process still holds."""

NODE_DEATHS = ("node was terminated", "node has died", "node is dead", "node died", "preempted")
"""So Ray's messages say that it was the node."""

NODE_SECONDS = 40.0
"""Ray asks a node for a sign of life every 3 s, waits 10 s for it, and takes it for dead after five times without."""

CLOSE_SECONDS = 60.0
"""The end of the slots is waited for at most so long, when their work is done."""

ABANDON_SECONDS = 6.0
"""The same when the launch is interrupted; then the workers are killed, and have as long again."""


class Pool:
    """The worker groups of one launch. They start at once and live until :meth:`close` or :meth:`abandon`."""

    def __init__(
        self,
        plan: Plan,
        *,
        storage: Path,
        start_seconds: float = START_SECONDS,
        patience: float | None = None,
        needs: Needs | None = None,
    ) -> None:
        """Start the slots.

        Args:
            plan: how many, and of what size.
            storage: folder for Ray Train's own files.
            start_seconds: how long a worker group may take to ask for its first trial; where nodes come and go it may
                take ``patience`` if that is longer, since they also download what they lack.
            patience: on a cluster, whose nodes come and go, for so many seconds a slot waits for a node with room
                before the launch ends, if no other slot works; None: all there is is there.
            needs: what the nodes of a slot must have; they are not looked at if None.
        """
        self.plan = plan
        actor: Any = ray.remote(num_cpus=0)(Board)
        own_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # With the driver, whatever other nodes come and go.
        self.board = actor.options(max_concurrency=calls_at_once(plan), scheduling_strategy=own_node).remote(
            plan.slots, max(start_seconds, patience or 0.0), records.commit()
        )
        get_or_create_autoscaling_coordinator()  # every controller waits for it, and would start it only then
        importlib.import_module("bench.cluster.trainer")  # once, not in every thread at the same time
        self._storage = storage
        self._patience = patience
        self.absent: set[int] = set()
        """Slots that wait for a node with room for them."""
        self.refusals: list[str] = []
        """Why slots were refused: what their nodes lack."""
        self._needs = needs
        self._unfit: set[str] = set()  # ids of nodes that lack something
        self._looks: Counter[int] = Counter()  # refusals of each slot, one after the other
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
            LaunchFolder(self._unfinished.parent).remove_snapshots()  # a worker that was given up may have written one
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
        groups = {}
        if not runtime.lost():
            with contextlib.suppress(ray.exceptions.RayError):  # the board may be what has ended
                groups = ray.get(self.board.groups.remote(), timeout=ABANDON_SECONDS)
            ray.kill(self.board)
            self._join(ABANDON_SECONDS)
        if any(thread.is_alive() for thread in self._threads):  # their trials have had nothing to report
            for group in groups.values():
                for actor in handles(group):
                    ray.kill(actor)
            runtime.end_workers()
            self._join(ABANDON_SECONDS)

    def _hold(self, slot: int) -> None:
        """Keep one slot open; runs in its own thread for as long as the slot lives."""
        try:
            while self._has_room(slot):
                try:
                    self.trainer(slot).fit()
                    return
                except Exception as error:
                    if self._abandoned or self._is_refused(slot, error) or not self._is_worth_another(slot, error):
                        return
        except Exception as error:
            if not self._abandoned:  # with which the board has ended
                log.exception("slot %d is given up", slot)
                ray.get(self.board.stay_away.remote(slot, f"slot {slot}: {_first_reason(error)}"))

    def _is_refused(self, slot: int, error: Exception) -> bool:
        """Whether a slot's nodes lack something: then it is gone, and no other slot is to come to those nodes.

        What may pass is looked for again, as after any failed start.
        """
        refused = _refusal(error)
        self._looks[slot] = 0 if refused is None else self._looks[slot] + 1
        if refused is None:
            return False
        if refused.may_pass and self._looks[slot] < LOOKS:
            return False
        log.error("slot %d is refused: %s", slot, refused)
        self._unfit.update(refused.nodes)
        if str(refused) not in self.refusals:
            self.refusals.append(str(refused))
            self.wake()
        ray.get(self.board.refuse.remote(slot, str(refused)))
        return True

    def _is_worth_another(self, slot: int, error: Exception) -> bool:
        """Whether a slot whose worker group has ended with an error is to have another one; waits until it may."""
        from ray.train import WorkerGroupError

        log.error("slot %d ended", slot, exc_info=error)
        if self._patience is not None and (_names_a_node(error) or self._lost_a_node(slot)):
            ray.get(self.board.leave.remote(slot))  # which is no fault of the trial's
            ray.get(self.board.join.remote(slot))
            return True
        words = self._last_words(slot)
        of_workers = isinstance(error, WorkerGroupError)
        reason, said = _first_reason(error, words), "\n".join(words)
        wait = ray.get(self.board.slot_failed.remote(slot, reason, said, of_workers=of_workers))
        if wait is None or self._ending.wait(wait):
            return False
        placement.free_orphans()
        return True

    def _lost_a_node(self, slot: int) -> bool:
        """Whether a node of a slot's workers is gone; Ray needs a while to know of one that vanishes without a word."""
        group = ray.get(self.board.groups.remote()).get(slot)
        others = set() if group is None else group.nodes - {ray.get_runtime_context().get_node_id()}
        end = time.monotonic() + NODE_SECONDS
        while others and time.monotonic() < end:
            if others - {node["NodeID"] for node in ray.nodes() if node["Alive"]}:
                return True
            if self._ending.wait(ROOM_SECONDS):
                break
        return False

    def _has_room(self, slot: int) -> bool:
        """Wait until the cluster has room for a slot; returns whether it has, and is not about to end.

        A placement group is what an autoscaler starts nodes for; Ray Train would give up on it after a minute, and
        could not be stopped waiting. It is given back as soon as it is there: the worker group takes its place.
        """
        if self._patience is None:
            return True
        if self._finds_room(ROOM_SECONDS):
            return True
        ray.get(self.board.leave.remote(slot))
        self.absent.add(slot)
        self.wake()
        reason = f"no node with room for a slot came within {self._patience / 60:g} minutes (--wait-minutes)"

        def gives_up() -> bool:
            return self._ending.is_set() or ray.get(self.board.deserted.remote(self._patience, reason))

        while not self._finds_room(None, gives_up):
            if gives_up():
                return False
        ray.get(self.board.join.remote(slot))
        self.absent.discard(slot)
        self.wake()
        return True

    def _finds_room(self, seconds: float | None, gives_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for room until there is some, or the time is over, or other nodes than before are unfit."""
        unfit, waited = frozenset(self._unfit), 0.0
        bundles, selector = [_worker(self.plan)] * self.plan.workers, _but(unfit)
        group = ray.util.placement_group(
            bundles, strategy="PACK", bundle_label_selector=[selector] * len(bundles) if selector else None
        )
        try:
            while not group.wait(ROOM_SECONDS):
                waited += ROOM_SECONDS
                if unfit != self._unfit or gives_up() or (seconds is not None and waited >= seconds):
                    return False
            return unfit == self._unfit
        finally:
            ray.util.remove_placement_group(group)

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

    def trainer(self, slot: int) -> Any:
        """One life of a slot, which its ``fit`` holds open; whether it gets another is the board's to say."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from bench.cluster.trainer import LeanTrainer

        return LeanTrainer(
            serve,
            train_loop_config={
                "board": self.board,
                "life": ray.get(self.board.begin.remote(slot)),
                "processes": self.plan.slots * self.plan.workers,
                "gpu": self.plan.gpu,
            },
            torch_config=runtime.torch_config(self._needs),
            scaling_config=ScalingConfig(
                num_workers=self.plan.workers,
                use_gpu=self.plan.gpu,
                resources_per_worker=_worker(self.plan),
                label_selector=_but(frozenset(self._unfit)) or None,  # type: ignore[call-arg] # v2 has it
            ),
            run_config=RunConfig(
                name=f"slot-{slot}",
                storage_path=str(self._storage),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg] # v2 has it
            ),
        )


def calls_at_once(plan: Plan) -> int:
    """How many calls the board bears that wait: were there more, none would be answered before one of them gives up.

    A slot waits for a trial, and one of Tune's actors for a reading; calls of a life that has ended wait as well.
    """
    return max(1000, 8 * plan.slots * plan.workers)


def _worker(plan: Plan) -> dict[str, float]:
    """What a worker is given of its node."""
    return {"CPU": CPUS_PER_WORKER, **({"GPU": 1} if plan.gpu else {})}


def _but(nodes: frozenset[str]) -> dict[str, str]:
    """Ray's label selector of all nodes but some."""
    return {"ray.io/node-id": f"!in({', '.join(sorted(nodes))})"} if nodes else {}


def _refusal(error: BaseException) -> Refused | None:
    """What a node lacks, if that is why a worker group has not come to life."""
    from ray.train import ControllerError

    cause: BaseException | None = error
    while isinstance(cause, ControllerError):
        cause = cause.controller_failure
    return cause if isinstance(cause, Refused) else None


def _names_a_node(error: BaseException) -> bool:
    """Whether Ray says that a worker group has ended because a node of it has."""
    from ray.train import WorkerGroupError

    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else [error]
    said = [str(_death(failure)).lower() for failure in failures]
    return any(sign in words for words in said for sign in NODE_DEATHS)


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
