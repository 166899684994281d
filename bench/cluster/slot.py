"""A slot: what every worker of a group runs. Its processes, imports, weights, data and process group outlive trials."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from bench import records, resources
from bench.cluster import watchdog
from bench.cluster.board import POST_SECONDS, End, Group, Life, Task
from bench.readings import Point
from bench.records import Record

SOON = 0.2
"""The first ones are held for at most so long: a trial that goes on tells all at once how far it had come, and if its
worker dies then, that must be known."""

ALIVE_SECONDS = 20.0
"""A rank that lives answers within so many seconds, whatever its training does."""


def serve(config: Mapping[str, Any]) -> None:
    """What every worker of a slot runs: take a trial, train it, post the result, until the board closes."""
    import torch
    from ray.train import get_context

    from bench import parallel, training

    training.share_memory(min(config["processes"], _room(gpu=config["gpu"])))
    torch.set_num_threads(1)  # a slot a core beats threads, and results do not depend on the machine's size
    board, life = config["board"], config["life"]
    first = get_context().get_world_rank() == 0
    group = _group()
    ranks = handles(group)
    if first:
        ray.get(board.enrol.remote(life, group))
    answer: Any = board.take.remote(life) if first else None
    while (task := parallel.of_first(ray.get(answer) if first else None)) != "close":
        if task == "wait":
            answer = board.take.remote(life) if first else None
            continue
        # What is here now, modules and caches, stays: a trial's own garbage is then found in no time.
        gc.freeze()
        end, weights = _end(board, life, task, ranks)
        answer = hand_in(board, life, task.ticket, end, weights) if first else None


def _end(board: Any, life: Life, task: Task, ranks: Sequence[Any]) -> tuple[End, Sequence[Any]]:
    """How a trial has ended, with its trained tensors if they are kept."""
    weights: list[Any] = []
    try:
        return _run(board, life, task, weights), weights
    except (Exception, SystemExit) as error:
        if not _all_alive(ranks):  # what the death of another rank does to this one is not the trial's doing
            raise
        end = End(records.failed(task.trial, error))
        if len(ranks) > 1:  # the other ranks may be waiting in a collective: only a new worker group is safe
            ray.get(board.finish.remote(life, task.ticket, end))
            raise
        return end, ()  # of a trial that has failed after its end nothing is kept


def hand_in(board: Any, life: Life, ticket: int, end: End, weights: Sequence[Any]) -> Any:
    """Post the end of a trial; returns what Ray gives for the board's answer, which is the next task."""
    if not weights:
        return board.finish_and_take.remote(life, ticket, end)
    # Each an argument of its own, which Ray brings to the board's node before the board hears of the end.
    ray.get(board.finish.remote(life, ticket, end, *weights))
    return board.take.remote(life)


def _room(*, gpu: bool) -> int:
    """For how many workers this machine has room."""
    by_core, by_gpu = resources.room(cores=resources.cores(), gpus=resources.gpus_of_node())
    return max(1, by_gpu if gpu else by_core)


def _run(board: Any, life: Life, task: Task, weights: list[Any]) -> End:
    """A trial's end; its trained tensors, as the bytes of a safetensors file, are added to ``weights`` on rank 0."""
    from ray.train import get_context
    from ray.train.torch import get_device
    from safetensors.torch import save

    from bench import parallel
    from bench import trial as trials

    start = time.perf_counter()
    rank, ranks = get_context().get_world_rank(), get_context().get_world_size()
    ticket, trial, minutes, snapshots, seconds = task

    posts = Posts(lambda points: bool(ray.get(board.report.remote(life, ticket, *points))), seconds)

    def report(point: Point) -> None:
        if parallel.of_first(posts.add(point) if rank == 0 else None):
            raise trials.TrialStopped

    def saved(step: int) -> None:
        ray.get(board.saved.remote(life, ticket, step))

    def keep(tensors: Mapping[str, Any]) -> None:
        weights.append(np.frombuffer(save(dict(tensors)), dtype=np.uint8))

    def stand(stack: str) -> bool:
        ended: bool = ray.get(board.hung.remote(life, ticket, {rank: stack}, ranks))
        return ended

    folder = None if snapshots is None else watchdog.here(snapshots)
    words = None if folder is None else folder / f"slot-{life.slot}-rank-{rank}-life-{life.number}.txt"
    with watchdog.noting(words, stand, None if minutes is None else 60 * minutes):
        kept = keep if trial.phase == "confirm" else None
        try:
            record = trials.run(trial, report, device=get_device(), keep=kept, unfinished=folder, saved=saved)
        except BaseException:
            posts.flush()
            raise
    return End(_with_size(record, weights), time.perf_counter() - start, posts.rest())


def _with_size(record: Record, weights: Sequence[Any]) -> Record:
    """The record with the size of the file that its trained tensors become, if they are kept."""
    if not weights:
        return record
    return record.model_copy(update={"details": {**record.details, "checkpoint_bytes": weights[0].nbytes}})


class Posts:
    """Posts the points of a trial's curves, several of them in one call to the board, each of which costs milliseconds.

    Points with readings, on which others wait, and the first one are posted at once; the others together, by a thread
    if no further one comes in time. The last ones may go with the trial's end.
    """

    def __init__(
        self,
        post: Callable[[Sequence[Point]], bool],
        seconds: float = POST_SECONDS,
        later: Callable[..., threading.Timer] = threading.Timer,
    ) -> None:
        """Post by a function that returns whether the trial is to stop.

        Args:
            seconds: for so long points are held.
            later: calls another function after a while.
        """
        self._post, self._later = post, later
        self._held: list[Point] = []
        self._turn = threading.Lock()
        self._timer: threading.Timer | None = None
        self._seconds = itertools.chain([SOON], itertools.repeat(seconds))
        self._stop, self._begun = False, False
        self._error: Exception | None = None

    def add(self, point: Point) -> bool:
        """Take a point; returns whether the trial is to stop, as far as that is known.

        Raises:
            Exception: an earlier point could not be posted.
        """
        self._held.append(point)
        urgent = bool(point.readings) or not self._begun
        self._begun = True
        if urgent:
            return self.flush()
        if self._timer is None:
            self._timer = self._later(next(self._seconds), self._flush_later)
            self._timer.daemon = True
            self._timer.start()
        return self._told()

    def flush(self) -> bool:
        """Post what is held; returns whether the trial is to stop."""
        self._wait_no_longer()
        with self._turn:
            self._send()
        return self._told()

    def rest(self) -> Sequence[Point]:
        """What is held, and will not be posted any more.

        Raises:
            Exception: an earlier point could not be posted.
        """
        self._wait_no_longer()
        with self._turn:
            held, self._held = self._held, []
        self._told()
        return held

    def _wait_no_longer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush_later(self) -> None:
        self._timer = None
        with self._turn:
            try:
                self._send()
            except Exception as error:  # which the trial's own thread raises
                self._error = error

    def _send(self) -> None:
        held, self._held = self._held, []
        if held:
            self._stop = self._post(held)

    def _told(self) -> bool:
        if self._error is not None:
            raise self._error
        return self._stop


def _group() -> Group:
    """The workers of this slot, this one included."""
    from ray import cloudpickle

    from bench import parallel

    here = ray.get_runtime_context()
    ranks = parallel.of_all((cloudpickle.dumps(here.current_actor), here.get_node_id()))
    return Group(tuple(actor for actor, _ in ranks), frozenset(node for _, node in ranks))


def handles(group: Group) -> list[Any]:
    """The actors of a group; whoever unpickles them imports what they are made of, which the board need not."""
    from ray import cloudpickle

    return [cloudpickle.loads(actor) for actor in group.actors]


def _all_alive(ranks: Sequence[Any]) -> bool:
    """Whether no process of the group has died."""
    if len(ranks) == 1:
        return True
    try:
        ray.get([actor.__ray_ready__.remote() for actor in ranks], timeout=ALIVE_SECONDS)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return False
    return True
