"""A study from its launch to its leaderboard: search, confirmation over seeds, table and picture."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bench.cluster.guardian import Farewell
from bench.cluster.inspection import needs
from bench.cluster.nodes import plan_of_cluster
from bench.cluster.pool import Pool
from bench.cluster.runtime import RayLost, ended_with_ray, instead, start_ray, stop_ray
from bench.launching import resume
from bench.launching.launch import Launch, at_once
from bench.launching.preflight import make_ready
from bench.launching.project import CLONE
from bench.launching.screen import second_stdout
from bench.launching.selection import at_edges, choose, names, remark_on
from bench.launching.signals import TOLD, heard, received
from bench.records import Record, commit
from bench.reporting import leaderboard
from bench.reporting.events import Ended, PhaseBegan
from bench.reporting.listener import Listener, ListenerError
from bench.reporting.mlflow_content import source_tags
from bench.reporting.mlflow_tracker import Tracker, open_tracker
from bench.reporting.output import Output, Progress, output
from bench.reporting.progress import settings
from bench.reporting.rows import Leaderboard, build
from bench.resources import cores
from bench.spec import SpecError, Study, make_trial

if TYPE_CHECKING:
    from bench.cluster.search_storage import SearchStorage


def run(launch: Launch) -> int:
    """Run every study of the suite and write the leaderboard.

    Returns:
        The exit code: 0, or 1 if no trial of the launch succeeded or its results could not be written.

    Raises:
        SpecError: what can only be checked with data and weights at hand does not hold, or the folder is in use.
    """
    with redirect_stdout(sys.stderr):  # what libraries say of a download is no answer
        remarks = make_ready(launch)
    with launch.folder.locked(), heard():
        logfile = launch.folder.new_log()
        with apart(logfile) as screen:
            out = output(launch.options, screen)
            for remark in (f"Log of Ray, Optuna and MLflow: {logfile}", *launch.said, *remarks):
                out.say(remark)
            try:
                ended = _ended(launch, out, screen.fileno())
            except KeyboardInterrupt as interrupt:
                code = 128 + (received() or signal.SIGINT)
                out.ended(Ended(status="interrupted", exit_code=code, text=again(launch)))
                interrupt.add_note(TOLD)
                raise
            finally:
                stop_ray()
            out.ended(ended)
            return ended.exit_code or 0


def _ended(launch: Launch, out: Output, screen: int) -> Ended:
    """Run a launch; returns how it has ended."""
    try:
        return _run(launch, out, screen)
    except (BrokenPipeError, SpecError):
        raise
    except OSError as error:  # as Ray Tune's when the disk is full, which does not say which
        why = f"{error.filename or launch.folder.path}: {error.strerror}"
    except (ListenerError, RayLost) as error:
        why = reason(error)
    except Exception as error:
        out.ended(_early(launch, f"{type(error).__name__}: {reason(error)}"))
        raise
    return _early(launch, why)


def _early(launch: Launch, why: str) -> Ended:
    return Ended(status="failed", exit_code=1, text=f"the launch has ended early ({why}): {again(launch)}")


def again(launch: Launch) -> str:
    """How to go on with a launch that has ended early."""
    command = "the same command without --fresh" if launch.options.fresh else "the same command"
    return f"records of finished trials are kept in {launch.folder.records}, and {command} goes on from them"


def farewell(launch: Launch, out: Output) -> Farewell:
    """What is done for a launch whose process has been killed."""
    mark = (sys.executable, "-m", "bench.launching.killed", str(launch.folder.path))
    sentence = out.farewell(f"the process of the launch has been ended: {again(launch)}")
    return Farewell(sentence, mark, launch.tracking_uri)


def complete(launch: Launch) -> str:
    """What is said of a launch whose process has been killed when all but its end was done."""
    results = launch.folder.path
    return (
        f"the process of the launch has been ended; its results are complete: {results} (if MLflow lacks some, "
        f"python -m bench sync {results} brings them)"
    )


def reason(error: Exception) -> str:
    """The first line of an error's message, without the full stop."""
    return str(error).split("\\n")[0].splitlines()[0].rstrip(".:")


def _run(launch: Launch, out: Output, screen: int) -> Ended:
    """The worker groups start first, and everything else is made ready while they do."""
    address = launch.options.address
    # Ray Train's trainer needs torch, and Ray's processes take seconds to start.
    threading.Thread(target=importlib.import_module, args=("torch",), name="torch", daemon=True).start()
    for remark in start_ray(address, folder=CLONE, cores=cores(), farewell=farewell(launch, out), screen=screen):
        out.say(remark)
    # After Ray's processes have been started, but before the pool's threads: Ray's packages import each other in
    # circles, which two threads must not do at once.
    importlib.import_module("bench.cluster.search")
    plan = launch.plan or plan_of_cluster(launch.options, at_once(launch.suite))
    out.planned(launch.announced(plan), f"Plan: {plan.describe()}{launch.idle(plan)}")
    with ended_with_ray(unless=lambda: received() is not None):
        patience = None if address is None else 60 * launch.options.wait_minutes
        # On its own machine the launch has looked at data and weights itself.
        wanted = needs(None if address is None else launch.benchmark, gpu=plan.gpu)
        pool = Pool(plan, storage=launch.folder.ray, patience=patience, needs=wanted)
        with interruptible(pool):
            ended = carry_out(launch, pool, out)
            pool.close()
    return ended


def carry_out(launch: Launch, pool: Pool, out: Output) -> Ended:
    """Run a launch on a pool of worker groups, which stays open: search, confirm, conclude.

    An unfinished launch in the folder is gone on with, see :mod:`bench.launching.resume`.

    Returns:
        How it has ended, with the exit code, see :func:`run`.
    """
    begun = resume.begin(launch, pool.plan)
    if begun.said:
        out.say(begun.said)
    pool.know(begun.known)
    pool.keep_snapshots(launch.folder.unfinished)
    tracker, storage = _open_tracker(launch, begun), _storage(launch, begun)
    try:
        records = _trials(launch, out, tracker, pool, storage)
        launch.folder.keep_only({record.trial for record in records})
        board = _conclude(launch, records, out, tracker)
        if _whole(records):
            resume.end(launch, begun)
            instead(Farewell(out.farewell(complete(launch))))
    finally:
        storage.close()
        if storage.problem:
            out.say(f" {storage.problem}", level="warning", title="Optuna's storage is incomplete:")
        tracker.close()
        if tracker.problem:
            out.say(f" {tracker.problem}", level="warning", title="MLflow is incomplete:")
    if board is None:
        return Ended(status="failed", exit_code=1, text=_lost(records))
    out.answer(board, launch.folder.path)
    return Ended(status="done", exit_code=0, text="")


def _whole(records: Sequence[Record]) -> bool:
    """Whether the same command would have nothing to run again."""
    return not any(record.is_tried_again for record in records)


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
    studies = {study.name: study.model_dump(mode="json", exclude={"name"}) for study in suite.studies}
    return open_tracker(
        launch.tracking_uri,
        experiment=suite.name,
        run_name=f"{suite.name} on {benchmark.name}, {datetime.now():%Y-%m-%d %H:%M}",
        parameters={},
        tags={"benchmark": benchmark.name, "study": suite.name, "launch": begun.id, **source_tags(commit())},
        folder=launch.folder,
        asked={"benchmark": benchmark.model_dump(mode="json"), "studies": studies},
    )


def _storage(launch: Launch, begun: resume.Begun) -> SearchStorage:
    from bench.cluster.search_storage import SearchStorage

    place = launch.options.optuna_storage or launch.folder.optuna
    return SearchStorage(place, name=launch.suite.name, launch=begun.id)


def _trials(launch: Launch, out: Output, tracker: Tracker, pool: Pool, storage: SearchStorage) -> list[Record]:
    """Run all trials of the launch; returns their records in the order in which they ended."""
    from bench.cluster.search import search

    with out.progress(launch.trials) as progress:
        listener = Listener(pool, progress, tracker, launch.folder)
        with interruptible(pool), listener.ending():
            expected = 0
            for study in (one for suited in launch.suite.studies for one in suited.searches):
                out.phase(PhaseBegan(phase="search", study=study.name, trials=study.trials))
                ended = functools.partial(storage.add, study)
                search(study, launch.benchmark, pool, launch=launch.suite.name, storage=launch.folder.ray, ended=ended)
                searched = listener.wait_for(study.trials, _searched_by(study))
                queued = _confirm(study, searched, launch, pool, progress)
                out.phase(PhaseBegan(phase="confirm", study=study.name, trials=queued))
                expected += study.trials + queued
            listener.wait_for(expected, lambda record: True)
            listener.close()
    return listener.records


def _searched_by(study: Study) -> Callable[[Record], bool]:
    return lambda record: (
        record.method == study.method and record.phase == "search" and record.search == study.search_context
    )


def _confirm(study: Study, records: Sequence[Record], launch: Launch, pool: Pool, progress: Progress) -> int:
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


def _lost(records: Sequence[Record]) -> str:
    """Why there is no leaderboard."""
    good = [record for record in records if record.status == "ok"]
    reasons = sorted({record.error for record in records if record.error})
    first = f" The first reason: {reasons[0].splitlines()[0]}" if reasons else ""
    return f"No configuration could be confirmed: {len(records) - len(good)} of {len(records)} trials failed.{first}"


def _conclude(launch: Launch, records: Sequence[Record], out: Output, tracker: Tracker) -> Leaderboard | None:
    """Write the leaderboard; None if no confirmation succeeded."""
    if not any(record.phase == "confirm" and record.status == "ok" for record in records):
        tracker.finish(launch.folder, None, "FAILED")
        return None
    out.phase(PhaseBegan(phase="conclude", study=launch.suite.name, trials=0))
    board = build(records, ended=_whole(records))
    leaderboard.write(board, launch.folder, records)
    out.ranked(board, launch.folder.path)
    searched = {study.method: study for study in launch.suite.studies}
    for row in board.rows:
        for values in row.configurations if row.variant is None else ():
            for warning in at_edges(searched[row.method], values):
                out.say(f"{row.label}: {warning}", level="warning")
    tracker.finish(launch.folder, board, "FINISHED")
    return board


@contextmanager
def apart(logfile: Path) -> Iterator[TextIO]:
    """Send everything that is written to stdout and stderr, by subprocesses too, to a file.

    Yields:
        The real stdout.
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
        yield screen
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the log's disk may be full, which must not hide why the launch ends
                stream.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)
        screen.close()
