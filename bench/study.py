"""A study from its specification to its leaderboard: search, confirmation over seeds, table and picture."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from rich.console import Console

from bench import leaderboard, tracking
from bench.progress import StudyProgress, settings
from bench.records import Record, write_atomically
from bench.resources import Plan, plan
from bench.spec import OBJECTIVES, Benchmark, SpecError, Study, Suite, Trial, make_trial
from bench.workers import Event, Pool, start_ray

log = logging.getLogger(__name__)
PROJECT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Options:
    """How and where a launch runs; what it computes is in the suite and the benchmark."""

    results: Path
    tracking_uri: str
    workers: int
    slots: int | None
    address: str | None
    cores: int
    gpus: int


def folder_of(results: Path, suite: Suite, benchmark: Benchmark) -> Path:
    """Where a launch writes."""
    return results / suite.name / benchmark.name


def run(suite: Suite, benchmark: Benchmark, options: Options) -> int:
    """Run every study of the suite and write the leaderboard.

    Returns:
        The exit code: 0, or 1 if no trial of the launch succeeded.
    """
    folder = folder_of(options.results, suite, benchmark)
    with only_launch_in(folder), ended_by_sigterm():
        put_aside(folder)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        logfile = folder / "logs" / f"{datetime.now():%Y%m%d-%H%M%S}.log"
        with quiet(logfile) as console:
            console.print(f"Log of Ray, Optuna and MLflow: {logfile}", highlight=False, soft_wrap=True)
            try:
                return _run(suite, benchmark, options, folder, console)
            finally:
                ray.shutdown()


def _run(suite: Suite, benchmark: Benchmark, options: Options, folder: Path, console: Console) -> int:
    """The worker groups start first, and everything else is made ready while they do."""
    start_ray(options.address, folder=PROJECT, cores=options.cores)
    # After Ray's processes have been started, but before the pool's threads: Ray's packages import each other in
    # circles, which two threads must not do at once.
    importlib.import_module("bench.search")
    planned = plan_resources(options)
    console.print(f"Plan: {planned.describe()}", highlight=False)
    with ended_by_sigterm():  # ray.init has its own way
        pool = Pool(planned, storage=folder / "ray")
        tracker = _open_tracker(suite, benchmark, options)
        try:
            records = _trials(suite, benchmark, folder, console, tracker, pool)
            return _conclude(records, folder, console, tracker)
        finally:
            tracker.close()
            if tracker.problem:
                console.print(f"[yellow]MLflow is incomplete:[/yellow] {tracker.problem}; the records are not.")


@contextmanager
def only_launch_in(folder: Path) -> Iterator[None]:
    """Keep every other launch out of a results folder.

    Raises:
        SpecError: there is one in it already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SpecError(
            f"another launch is writing to {folder}: wait until it has ended, or choose another --results"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the launch in good order, as Ctrl-C does, with the exit code that a shell gives it."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt  # of all exceptions the one that comes through Ray unchanged

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        if received:
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interruptible(pool: Pool) -> Iterator[None]:
    """Abandon the pool if the launch is ended early; with its board the listener ends, too."""
    try:
        yield
    except BaseException:
        pool.abandon()
        raise


def _open_tracker(suite: Suite, benchmark: Benchmark, options: Options) -> tracking.Tracker:
    parameters: dict[str, Any] = {"benchmark": benchmark.model_dump(mode="json")}
    for study in suite.studies:
        parameters[study.name] = study.model_dump(mode="json", exclude={"name"})
    return tracking.open_tracker(
        options.tracking_uri,
        experiment=suite.name,
        run_name=f"{suite.name} on {benchmark.name}, {datetime.now():%Y-%m-%d %H:%M}",
        parameters=parameters,
        tags={"benchmark": benchmark.name, "study": suite.name},
    )


def _trials(
    suite: Suite, benchmark: Benchmark, folder: Path, console: Console, tracker: tracking.Tracker, pool: Pool
) -> list[Record]:
    """Run all trials of the launch; returns their records in the order in which they ended."""
    from bench.search import search

    total = sum(study.trials + study.confirmations for study in suite.studies)
    with StudyProgress(console, total=total) as progress:
        listener = Listener(pool, progress, tracker, folder)
        with interruptible(pool):
            expected = 0
            for study in suite.studies:
                search(study, benchmark, pool, launch=suite.name, storage=folder / "ray")
                expected += study.trials + _confirm(study, benchmark, pool, listener, suite.name, progress)
            listener.wait_for(expected, lambda record: True)
            listener.closing = True
            pool.close()
            listener.join()
    return listener.records


def plan_resources(options: Options) -> Plan:
    """The launch's resource plan, on this machine or, when Ray has joined a cluster, on what that has now."""
    cores, gpus = options.cores, options.gpus
    if options.address is not None:
        found = ray.cluster_resources()
        cores, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
    return plan(cores=cores, gpus=gpus, workers=options.workers, slots=options.slots)


class Listener:
    """Follows the pool's events in a thread: screen, MLflow and records all hear the same."""

    def __init__(self, pool: Pool, progress: StudyProgress, tracker: tracking.Tracker, folder: Path) -> None:
        self.records: list[Record] = []
        self.closing = False  # set when all is over: the thread ends as soon as there is no more news
        self._pool, self._progress, self._tracker, self._folder = pool, progress, tracker, folder
        self._news = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="listener", daemon=True)
        self._thread.start()

    def wait_for(self, count: int, wanted: Callable[[Record], bool]) -> list[Record]:
        """Block until that many of the wanted trials have ended; returns their records by trial name."""

        def found() -> list[Record]:
            return [record for record in self.records if wanted(record)]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= count or self._error is not None)
            if self._error is not None:
                raise self._error
            return sorted(found(), key=lambda record: record.trial)

    def join(self) -> None:
        """Wait for the thread's end; the pool is closed, or abandoned, by now."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _follow(self) -> None:
        try:
            while (events := self._pool.events()) or not self.closing:
                for event in events:
                    self._handle(event)
        except BaseException as error:  # handed to the main thread, which raises it
            with self._news:
                self._error = error
                self._news.notify_all()

    def _handle(self, event: Event) -> None:
        if event.kind == "started":
            self._progress.started(event.trial)
            self._tracker.trial_started(event.trial.id, parameters(event.trial), tags(event.trial))
        elif event.kind == "report":
            assert event.metrics is not None
            self._progress.reported(event.trial, event.metrics)
            values = {name: value for name, value in event.metrics.items() if name not in ("step", "steps")}
            self._tracker.trial_reported(event.trial.id, values, int(event.metrics["step"]))
        else:
            assert event.record is not None
            event.record.write(self._folder / "records")
            checkpoint = self._folder / "checkpoints" / f"{event.record.trial}.safetensors"
            for reference in event.weights:
                write_atomically(checkpoint, ray.get(reference))
            self._progress.finished(event.record)
            self._tracker.trial_finished(event.record, checkpoint if event.weights else None)
            with self._news:
                self.records.append(event.record)
                self._news.notify_all()


def parameters(trial: Trial) -> dict[str, Any]:
    """A trial's parameters as MLflow shows them, nested; tracking flattens them."""
    return {
        "method": trial.method,
        **trial.hyperparameters,
        "train": trial.train.model_dump(),
        "seed": trial.seed,
        "phase": trial.phase,
    }


def tags(trial: Trial) -> dict[str, str]:
    """What MLflow filters trials by."""
    return {
        "method": trial.method,
        "benchmark": trial.benchmark.name,
        "study": trial.study,
        "phase": trial.phase,
    }


def _confirm(
    study: Study,
    benchmark: Benchmark,
    pool: Pool,
    listener: Listener,
    launch: str,
    progress: StudyProgress,
) -> int:
    """Queue the confirmation of a study's winners; the next study's search need not wait for it.

    Returns:
        How many trials were queued.
    """
    found = listener.wait_for(study.trials, lambda r: r.method == study.method and r.phase == "search")
    queued = 0
    winners = best_of_rows(study, found)
    for row, winner in winners.items():
        if winner is None:
            progress.said(f"[red]{study.name} {row}".rstrip() + ": no search trial succeeded, nothing to confirm[/red]")
            continue
        for seed in study.seeds:
            label = "-".join(filter(None, ["confirm", row.replace("=", "").replace(" ", "-"), f"seed{seed}"]))
            values = winner.hyperparameters
            queued += 1
            pool.submit(make_trial(study, benchmark, values, launch=launch, label=label, seed=seed, phase="confirm"))
    return queued


def best_of_rows(study: Study, records: Sequence[Record]) -> Mapping[str, Record | None]:
    """For each leaderboard row of a study its best search record by the objective; of equals the earliest."""
    sign = 1 if OBJECTIVES[study.objective] == "max" else -1
    best: dict[str, Record | None] = {}
    for record in sorted(records, key=lambda record: record.trial):
        row = settings(record.row)
        current = best.setdefault(row, None)
        if record.status != "ok":
            continue
        value = getattr(record, f"val_{study.objective}")
        if current is None or sign * value > sign * getattr(current, f"val_{study.objective}"):
            best[row] = record
    return best


def _conclude(records: Sequence[Record], folder: Path, console: Console, tracker: tracking.Tracker) -> int:
    good = [record for record in records if record.status == "ok"]
    if not any(record.phase == "confirm" for record in good):
        reasons = sorted({record.error for record in records if record.error})
        first = f" The first reason: {reasons[0].splitlines()[0]}" if reasons else ""
        console.print(
            f"[red]No configuration could be confirmed: {len(records) - len(good)} of {len(records)} "
            f"trials failed.[/red]{first}",
            highlight=False,
            soft_wrap=True,
        )
        tracker.finish(folder, None, "FAILED")
        return 1
    board = leaderboard.build(records)
    leaderboard.write(board, folder)
    leaderboard.show(board, console)
    console.print(f"Table, picture and records: {folder}", highlight=False, soft_wrap=True)
    tracker.finish(folder, board, "FINISHED")
    return 0


def put_aside(folder: Path) -> None:
    """Move an earlier launch's records and tables to ``previous/``, so that a leaderboard never mixes two launches."""
    tables = ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "pareto.png")
    old = [folder / name for name in ("records", "checkpoints", "evaluation", *tables)]
    old = [path for path in old if path.exists()]
    if not old:
        return
    stamp = datetime.fromtimestamp(max(path.stat().st_mtime for path in old))
    place = folder / "previous" / f"{stamp:%Y%m%d-%H%M%S-%f}"
    place.mkdir(parents=True)
    for path in old:
        path.rename(place / path.name)


@contextmanager
def quiet(logfile: Path) -> Iterator[Console]:
    """Send everything that is written to stdout and stderr, by subprocesses too, to a file.

    Yields:
        A console on the real stdout.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    screen = os.fdopen(os.dup(1), "w")
    target = os.open(logfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    try:
        yield Console(file=screen)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)
        screen.close()
