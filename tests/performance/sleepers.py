"""Slots that only sleep: what they say to the board is what real ones say, and they import no torch."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from bench import records
from bench.cluster.board import End, Group, Life, Task
from bench.cluster.pool import Pool
from bench.cluster.slot import Posts, hand_in
from bench.readings import HEAD, KNN, Answers, Point, Reading, knn_numbers
from bench.records import Record
from bench.spec import Trial

POINTS = 15
"""A trial of the default recipe reports its loss so often."""

QUERIES, BANK = 300, 1000
KS = (10, 20, 100, 200)
WEIGHTS = 200_000
"""Bytes of trained tensors that a confirmation hands over."""

SLOTS_PER_PROCESS = 16


class Sleepers:
    """Some slots of a launch, each in a thread of this process."""

    def __init__(self, seconds: float) -> None:
        """Let every trial take so long."""
        self._seconds = seconds

    def ready(self) -> bool:
        """Whether it has started."""
        return True

    def serve(self, board: Any, life: Life) -> None:
        """What :func:`bench.cluster.slot.serve` does, with a trial that sleeps."""
        ray.get(board.enrol.remote(life, Group((), frozenset())))
        task = ray.get(board.take.remote(life))
        while task != "close":
            task = ray.get(board.take.remote(life) if task == "wait" else self._sleep(board, life, task))

    def _sleep(self, board: Any, life: Life, task: Task) -> Any:
        """Sleep through a trial; returns what Ray gives for the next task."""
        start, trial = time.perf_counter(), task.trial
        posts = Posts(functools.partial(_report, board, life, task.ticket), task.post_seconds)
        for step in _steps(trial):
            time.sleep(self._seconds / POINTS)
            posts.add(Point(step, trial.train.steps, {"train_loss": 1 / step, "lr": trial.train.lr}))
        seconds = time.perf_counter() - start
        weights = [np.zeros(WEIGHTS, np.uint8)] if trial.phase == "confirm" else []
        return hand_in(board, life, task.ticket, End(slept(trial, seconds), seconds, posts.rest()), weights)


def _report(board: Any, life: Life, ticket: int, points: Any) -> Any:
    return ray.get(board.report.remote(life, ticket, *points))


def _steps(trial: Trial) -> Iterator[int]:
    assert trial.train.steps is not None
    for index in range(1, POINTS + 1):
        yield max(1, trial.train.steps * index // POINTS)


def slept(trial: Trial, seconds: float) -> Record:
    """The record of a trial that has slept, as large as a real one; its details say when it ended."""
    steps = trial.train.steps
    assert steps is not None
    return records.of(
        trial,
        status="ok",
        steps=steps,
        readings=_readings(trial, steps),
        trainable_parameters=650,
        train_seconds=seconds,
        eval_seconds=0.0,
        images_per_second=64 * steps / seconds,
        details={"precision": "fp32", "ended": time.time(), "images": _images(trial)},
    )


def _images(trial: Trial) -> dict[str, Any]:
    """What it has seen, as MLflow is told of it."""
    split = "test" if trial.phase == "confirm" else "val"
    names = ("target_train", f"target_{split}", "source_bank", "source_queries")
    return {**dict.fromkeys(names, QUERIES), "identity": {name: name for name in names}}


def _readings(trial: Trial, steps: int) -> list[Reading]:
    """Of a backbone that forgets the more the higher the learning rate is, which gives the search something to do."""
    target = max(10.0, 90 - 10 * abs(np.log10(trial.train.lr / 0.03)))
    return [
        _reading(trial, 0, "source", 90.0),
        _reading(trial, steps, "target", float(target)),
        _reading(trial, steps, "source", 90 - 10 * min(1.0, trial.train.lr)),
    ]


def _reading(trial: Trial, step: int, domain: Any, accuracy: float) -> Reading:
    right = np.arange(QUERIES) < round(accuracy / 100 * QUERIES)
    top1 = 100 * float(right.mean())
    source, judged = domain == "source", trial.phase == "confirm"
    return Reading(
        step=step,
        split="test" if judged else "val",
        domain=domain,
        probe=KNN if source else HEAD,
        n=QUERIES,
        settings={"bank": BANK, "k": 20} if source else {},
        numbers=knn_numbers(dict.fromkeys(KS, (top1, 100.0))) if source else {"top1": top1, "top5": 100.0},
        answers=Answers.of(domain, right) if judged else None,
    )


class SleepingPool(Pool):
    """A pool whose slots sleep, some of them in one process."""

    def __init__(self, *args: Any, seconds: float, **more: Any) -> None:
        """Start the slots."""
        plan = args[0]
        actor: Any = ray.remote(num_cpus=0)(Sleepers)
        count = -(-plan.slots // SLOTS_PER_PROCESS)
        self.sleepers = [actor.options(max_concurrency=SLOTS_PER_PROCESS + 1).remote(seconds) for _ in range(count)]
        super().__init__(*args, **more)

    def trainer(self, slot: int) -> Any:
        """One life of a slot."""
        return _Life(self.sleepers[slot % len(self.sleepers)], self.board, ray.get(self.board.begin.remote(slot)))


class _Life:
    def __init__(self, sleepers: Any, board: Any, life: Life) -> None:
        self._sleepers, self._board, self._life = sleepers, board, life

    def fit(self) -> None:
        """Sleep through trials until the board closes."""
        ray.get(self._sleepers.serve.remote(self._board, self._life))
