"""The listener: what fails in it ends the launch at once, with its reason, and loses no record."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bench.cluster.board import Event
from bench.cluster.pool import Pool
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting.listener import Listener, ListenerError
from bench.reporting.mlflow_tracker import Tracker
from bench.reporting.progress import StudyProgress

Make = Callable[..., Record]


class Events:
    """A pool that only has events, until it is closed."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[list[Event]] = queue.Queue()
        self.absent: set[int] = set()
        self.refusals: list[str] = []

    def events(self) -> list[Event]:
        return self.waiting.get(timeout=10)

    def wake(self) -> None:
        self.waiting.put([])

    def finish(self, *records: Record) -> None:
        self.waiting.put([Event("finished", 0, cast(Any, None), record=record) for record in records])


class Told:
    """A screen and an MLflow that hear of finished trials; the screen may break."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.tracked: list[str] = []

    def finished(self, record: Record) -> None:
        if self.broken:
            raise RuntimeError("the screen\n[/x] broke")

    known = finished

    def trial_finished(self, record: Record, checkpoint: Path | None) -> None:
        self.tracked.append(record.trial)

    trial_known = trial_finished


def listener(pool: Events, told: Told, folder: Path) -> Listener:
    return Listener(cast(Pool, pool), cast(StudyProgress, told), cast(Tracker, told), LaunchFolder(folder))


def test_finished_trials_are_waited_for(tmp_path: Path, record: Make) -> None:
    pool, told = Events(), Told()
    heard = listener(pool, told, tmp_path)
    with heard.ending():
        pool.finish(record(trial="b"), record(trial="a"))
        assert [one.trial for one in heard.wait_for(2, lambda one: True)] == ["a", "b"]
    heard.close()
    assert told.tracked == ["b", "a"]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_failure_ends_what_the_main_thread_does_and_keeps_what_finishes(
    tmp_path: Path, record: Make, ignored: bool
) -> None:
    pool, told = Events(), Told(broken=True)
    heard = listener(pool, told, tmp_path)
    began = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with pytest.raises(ListenerError, match=r"^RuntimeError: the screen\\n\[/x\] broke$"), heard.ending():
            pool.finish(record(trial="a"), record(trial="b"))
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 5
    pool.finish(record(trial="c"))
    with pytest.raises(ListenerError):
        heard.close()
    assert [one.trial for one in LaunchFolder(tmp_path).read_records()] == ["a", "b", "c"]
    assert told.tracked == ["a", "b", "c"]


def test_a_record_that_cannot_be_written_is_the_reason(tmp_path: Path, record: Make) -> None:
    (tmp_path / "records").write_text("in the way")
    pool = Events()
    heard = listener(pool, Told(), tmp_path)
    pool.finish(record())
    with pytest.raises(ListenerError, match=f"^FileExistsError: {tmp_path / 'records'}: File exists$"):
        heard.wait_for(1, lambda one: True)
    pool.wake()
    with pytest.raises(ListenerError):
        heard.close()


SNAPSHOTS: dict[str, tuple[dict[str, Any], bool]] = {
    "ok": ({}, False),
    "stopped": ({"status": "stopped", "steps": 40}, False),
    "diverged": ({"status": "failed", "error": "the loss is nan", "readings": ()}, False),
    "raised": ({"status": "failed", "error": "x", "readings": (), "details": {"traceback": "..."}}, True),
}
"""How a trial ends, and whether its snapshot stays: one that raised is tried again."""


@pytest.mark.parametrize("kind", ["finished", "known"])
@pytest.mark.parametrize("end", SNAPSHOTS)
def test_a_snapshot_goes_once_the_record_is_on_disk(end: str, kind: str, tmp_path: Path, record: Make) -> None:
    changes, stays = SNAPSHOTS[end]
    pool, folder = Events(), LaunchFolder(tmp_path)
    folder.unfinished.mkdir()
    for name in ("a", "other"):
        folder.snapshot(name).write_bytes(b"state")
    heard = listener(pool, Told(), tmp_path)
    made = record(trial="a", **changes)
    pool.waiting.put([Event(cast(Any, kind), 0, cast(Any, None), record=made)])
    heard.wait_for(1, lambda one: True)
    heard.close()
    assert folder.snapshot("a").exists() is stays
    assert folder.snapshot("other").exists()


def test_a_snapshot_stays_if_the_record_cannot_be_written(tmp_path: Path, record: Make) -> None:
    folder = LaunchFolder(tmp_path)
    folder.records.write_text("in the way")
    folder.unfinished.mkdir()
    folder.snapshot("a").write_bytes(b"state")
    pool = Events()
    heard = listener(pool, Told(), tmp_path)
    pool.finish(record(trial="a"))
    pool.wake()
    with pytest.raises(ListenerError):
        heard.close()
    assert folder.snapshot("a").exists()


def test_an_interruption_stays_one(tmp_path: Path) -> None:
    pool = Events()
    heard = listener(pool, Told(), tmp_path)
    with pytest.raises(KeyboardInterrupt), heard.ending():
        raise KeyboardInterrupt
    heard.close()


def test_why_a_slot_is_refused_is_said_once(tmp_path: Path) -> None:
    pool, told = Events(), Told()
    said: queue.Queue[str] = queue.Queue()
    told.said = lambda sentence, style: said.put(sentence)  # type: ignore[attr-defined]
    follows = listener(pool, told, tmp_path)
    for reason in ("host a cannot train: no GPU", "host b cannot train: timm is missing"):
        pool.refusals.append(reason)
        pool.wake()
        assert said.get(timeout=10) == f"a slot is refused: {reason}"
    pool.wake()
    follows.close()
    assert said.empty()
