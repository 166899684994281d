"""A study from its launch to its leaderboard: search, confirmation over seeds, table and picture."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.cluster.guardian import Farewell
from bench.cluster.nodes import plan_of_cluster
from bench.cluster.pool import Pool
from bench.cluster.runtime import RayLost, ended_with_ray, start_ray, stop_ray
from bench.launching import resume
from bench.launching.launch import Launch, at_once
from bench.launching.preflight import make_ready
from bench.launching.screen import second_stdout
from bench.launching.selection import at_edges, choose, names, remark_on
from bench.launching.signals import heard, received
from bench.records import Record
from bench.reporting import leaderboard
from bench.reporting.listener import Listener, ListenerError
from bench.reporting.mlflow_tracker import Tracker, open_tracker
from bench.reporting.progress import StudyProgress, settings
from bench.reporting.rows import build
from bench.reporting.screen import plain, say
from bench.resources import cores
from bench.spec import Study, make_trial

if TYPE_CHECKING:
    from bench.cluster.search_storage import SearchStorage

PROJECT = Path(__file__).parent.parent.parent


def run(launch: Launch) -> int:
    """Run every study of the suite and write the leaderboard.

    Returns:
        The exit code: 0, or 1 if no trial of the launch succeeded or its results could not be written.

    Raises:
        SpecError: what can only be checked with data and weights at hand does not hold, or the folder is in use.
    """
    make_ready(launch)
    with launch.folder.locked(), heard():
        logfile = launch.folder.new_log()
        with quiet(logfile) as console:
            say(console, f"Log of Ray, Optuna and MLflow: {logfile}")
            for remark in launch.said:
                say(console, remark)
            try:
                return _run(launch, console)
            except BrokenPipeError:
                raise
            except OSError as error:  # as Ray Tune's when the disk is full, which does not say which
                where = error.filename or launch.folder.path
                say(
                    console,
                    plain("error: the launch has ended early", "red"),
                    f" ({where}: {error.strerror}): {again(launch)}",
                )
                return 1
            except (ListenerError, RayLost) as error:
                say(console, plain("error: the launch has ended early", "red"), f" ({reason(error)}): {again(launch)}")
                return 1
            finally:
                stop_ray()


def again(launch: Launch) -> str:
    """How to go on with a launch that has ended early."""
    command = "the same command without --fresh" if launch.options.fresh else "the same command"
    return f"records of finished trials are kept in {launch.folder.records}, and {command} goes on from them"


def farewell(launch: Launch) -> Farewell:
    """What is done for a launch whose process has been killed."""
    mark = (sys.executable, "-m", "bench.launching.killed", str(launch.folder.path))
    return Farewell(f"error: the process of the launch has been ended: {again(launch)}", mark, launch.tracking_uri)


def reason(error: Exception) -> str:
    """The first line of an error's message, without the full stop."""
    return str(error).split("\\n")[0].splitlines()[0].rstrip(".:")


def _run(launch: Launch, console: Console) -> int:
    """The worker groups start first, and everything else is made ready while they do."""
    address, screen = launch.options.address, console.file.fileno()
    for remark in start_ray(address, folder=PROJECT, cores=cores(), farewell=farewell(launch), screen=screen):
        say(console, remark)
    # After Ray's processes have been started, but before the pool's threads: Ray's packages import each other in
    # circles, which two threads must not do at once.
    importlib.import_module("bench.cluster.search")
    plan = launch.plan or plan_of_cluster(launch.options, at_once(launch.suite))
    console.print(f"Plan: {plan.describe()}{launch.idle(plan)}", highlight=False)
    with ended_with_ray(unless=lambda: received() is not None):
        patience = None if address is None else 60 * launch.options.wait_minutes
        pool = Pool(plan, storage=launch.folder.ray, patience=patience)
        with interruptible(pool):
            code = carry_out(launch, pool, console)
            pool.close()
    return code


def carry_out(launch: Launch, pool: Pool, console: Console) -> int:
    """Run a launch on a pool of worker groups, which stays open: search, confirm, conclude.

    An unfinished launch in the folder is gone on with, see :mod:`bench.launching.resume`.

    Returns:
        The exit code, see :func:`run`.
    """
    begun = resume.begin(launch, pool.plan)
    if begun.said:
        say(console, begun.said)
    pool.know(begun.known)
    pool.keep_snapshots(launch.folder.unfinished)
    tracker, storage = _open_tracker(launch, begun), _storage(launch, begun)
    try:
        records = _trials(launch, console, tracker, pool, storage)
        launch.folder.keep_only({record.trial for record in records})
        code = _conclude(launch, records, console, tracker)
        if not any(record.is_tried_again for record in records):
            resume.end(launch, begun)
        return code
    finally:
        storage.close()
        if storage.problem:
            say(console, plain("Optuna's storage is incomplete:", "yellow"), f" {storage.problem}")
        tracker.close()
        if tracker.problem:
            say(console, plain("MLflow is incomplete:", "yellow"), f" {tracker.problem}")


@contextmanager
def interruptible(pool: Pool) -> Iterator[None]:
    """Abandon the pool if the launch is ended early; with its board the listener ends, too."""
    try:
        yield
    except BaseException:
        pool.abandon()
        raise


def _open_tracker(launch: Launch, begun: resume.Begun) -> Tracker:
    suite, benchmark = launch.suite, launch.benchmark
    parameters: dict[str, Any] = {"benchmark": benchmark.model_dump(mode="json")}
    for study in suite.studies:
        parameters[study.name] = study.model_dump(mode="json", exclude={"name"})
    return open_tracker(
        launch.tracking_uri,
        experiment=suite.name,
        run_name=f"{suite.name} on {benchmark.name}, {datetime.now():%Y-%m-%d %H:%M}",
        parameters=parameters,
        tags={"benchmark": benchmark.name, "study": suite.name, "launch": begun.id},
        folder=launch.folder,
    )


def _storage(launch: Launch, begun: resume.Begun) -> SearchStorage:
    from bench.cluster.search_storage import SearchStorage

    place = launch.options.optuna_storage or launch.folder.optuna
    return SearchStorage(place, name=launch.suite.name, launch=begun.id)


def _trials(launch: Launch, console: Console, tracker: Tracker, pool: Pool, storage: SearchStorage) -> list[Record]:
    """Run all trials of the launch; returns their records in the order in which they ended."""
    from bench.cluster.search import search

    with StudyProgress(console, total=launch.trials) as progress:
        listener = Listener(pool, progress, tracker, launch.folder)
        with interruptible(pool), listener.ending():
            expected = 0
            for study in (one for suited in launch.suite.studies for one in suited.searches):
                ended = functools.partial(storage.add, study)
                search(study, launch.benchmark, pool, launch=launch.suite.name, storage=launch.folder.ray, ended=ended)
                searched = listener.wait_for(study.trials, _searched_by(study))
                expected += study.trials + _confirm(study, searched, launch, pool, progress)
            listener.wait_for(expected, lambda record: True)
            listener.close()
    return listener.records


def _searched_by(study: Study) -> Callable[[Record], bool]:
    return lambda record: (
        record.method == study.method and record.phase == "search" and record.search == study.search_context
    )


def _confirm(study: Study, records: Sequence[Record], launch: Launch, pool: Pool, progress: StudyProgress) -> int:
    """Queue the confirmation of a study's winners; the next study's search need not wait for it.

    Returns:
        How many trials were queued.
    """
    choices = choose(study, records)
    queued = 0
    for choice, name in zip(choices, names(choices), strict=True):
        if said := remark_on(study, choice):
            row = f"{study.name} {settings(choice.row)}".rstrip()
            progress.said(f"{row}: {said}", "red" if choice.winner is None else "yellow")
        if choice.winner is None:
            continue
        values = choice.values
        for seed in study.seeds:
            label = study.labelled("-".join(filter(None, ["confirm", name, f"seed{seed}"])))
            suite, benchmark = launch.suite.name, launch.benchmark
            trial = make_trial(study, benchmark, values, launch=suite, label=label, seed=seed, phase="confirm")
            pool.submit(trial, minutes=study.trial_minutes)
            queued += 1
    return queued


def _conclude(launch: Launch, records: Sequence[Record], console: Console, tracker: Tracker) -> int:
    good = [record for record in records if record.status == "ok"]
    if not any(record.phase == "confirm" for record in good):
        reasons = sorted({record.error for record in records if record.error})
        first = f" The first reason: {reasons[0].splitlines()[0]}" if reasons else ""
        lost = f"No configuration could be confirmed: {len(records) - len(good)} of {len(records)} trials failed."
        say(console, plain(lost, "red"), first)
        tracker.finish(launch.folder, None, "FAILED")
        return 1
    board = build(records)
    leaderboard.write(board, launch.folder)
    leaderboard.show(board, console)
    searched = {study.method: study for study in launch.suite.studies}
    for row in board.rows:
        for values in row.configurations if row.variant is None else ():
            for warning in at_edges(searched[row.method], values):
                say(console, plain(f"{row.label}: {warning}", "yellow"))
    say(console, f"Table, picture and records: {launch.folder.path}")
    tracker.finish(launch.folder, board, "FINISHED")
    return 0


@contextmanager
def quiet(logfile: Path) -> Iterator[Console]:
    """Send everything that is written to stdout and stderr, by subprocesses too, to a file.

    Yields:
        A console on the real stdout.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    screen = second_stdout()
    target = os.open(logfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    try:
        yield Console(file=screen)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the log's disk may be full, which must not hide why the launch ends
                stream.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)
        screen.close()
