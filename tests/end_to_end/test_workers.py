"""The pool of warm worker groups on one real Ray: reuse, failures, stops, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from bench import benchmarks, resources, studies, workers
from bench.spec import Trial, make_trial
from bench.workers import Event, Pool

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One slot of one worker."""
    workers.start_ray(None, folder=ROOT)
    found = Pool(resources.plan(cores=1, gpus=0, workers=1, slots=1), storage=tmp_path_factory.mktemp("ray"))
    yield found
    found.close()
    left = [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
    assert not left
    ray.shutdown()


def trial(label: str, *, method: str = "linear", steps: int = 5, **values: Any) -> Trial:
    study = studies.load(method, overrides=[f"train.steps={steps}"]).studies[0]
    benchmark = benchmarks.get("tiny")
    return make_trial(study, benchmark, {"lr": 0.05, **values}, launch="test", label=label, seed=0, phase="search")


def until(pool: Pool, done: Callable[[list[Event]], bool], *, seconds: float = 120) -> list[Event]:
    """Collect the pool's events until there is enough."""
    events: list[Event] = []
    end = time.monotonic() + seconds
    while not done(events):
        assert time.monotonic() < end, [event.kind for event in events]
        events += pool.events()
    return events


def finished(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: sum(event.kind == "finished" for event in events) == count


def pids(events: list[Event]) -> set[int]:
    """Processes that wrote the records among some events."""
    return {event.record.provenance["pid"] for event in events if event.record}


def test_trials_share_one_process(pool: Pool) -> None:
    pool.submit(trial("a"))
    before = pids(until(pool, finished(1)))
    start = time.monotonic()
    for label in ("b", "c"):
        pool.submit(trial(label))
    events = until(pool, finished(2))
    assert [event.record.status for event in events if event.record] == ["ok", "ok"]
    assert pids(events) == before
    assert time.monotonic() - start < 30


def test_a_warm_trial_equals_the_first_one(pool: Pool) -> None:
    pool.submit(trial("first", method="full"))
    pool.submit(trial("other", method="block_expansion", p=2))
    pool.submit(trial("again", method="full"))
    records = [event.record for event in until(pool, finished(3)) if event.record]
    first, again = records[0], records[2]
    assert first.status == "ok"
    assert first.val_source_accuracy == again.val_source_accuracy
    assert first.val_target_accuracy == again.val_target_accuracy
    assert first.details == again.details


def test_a_trial_that_raises_leaves_the_slot_alive(pool: Pool) -> None:
    pool.submit(trial("bad", method="top_k", k=99))  # preflight would have refused it
    pool.submit(trial("good"))
    bad, good = (event.record for event in until(pool, finished(2)) if event.record)
    assert bad.status == "failed"
    assert bad.error is not None
    assert "k = 99 is more than the backbone's 12 blocks" in bad.error
    assert "Traceback" in bad.details["traceback"]
    assert good.status == "ok"


def test_a_stopped_trial_ends_at_its_next_report(pool: Pool) -> None:
    ticket = pool.submit(trial("long", steps=20000))
    until(pool, lambda events: any(event.kind == "report" for event in events))
    ray.get(pool.board.stop.remote(ticket))
    record = next(event.record for event in until(pool, finished(1)) if event.record)
    assert record.status == "stopped"
    assert 0 < record.steps < 20000
    pool.submit(trial("next"))
    assert next(event.record for event in until(pool, finished(1)) if event.record).status == "ok"


def test_a_killed_worker_is_replaced_and_its_trial_counted_once(pool: Pool) -> None:
    pool.submit(trial("before"))
    (victim,) = pids(until(pool, finished(1)))
    pool.submit(trial("killed", steps=300))
    until(pool, lambda events: any(event.kind == "report" for event in events))
    os.kill(victim, signal.SIGKILL)
    events = until(pool, finished(1), seconds=200)
    assert sum(event.kind == "started" for event in events) == 1  # the second start; the first was awaited above
    record = next(event.record for event in events if event.record)
    assert (record.trial, record.status, record.steps) == ("linear-killed", "ok", 300)
    assert record.provenance["pid"] != victim
