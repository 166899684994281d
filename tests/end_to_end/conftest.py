"""Real studies: one the way a user runs it, in a process of its own, and others on one warm pool of this process."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from rich.console import Console

import launch as front_door
from bench import resources
from bench.cluster import runtime
from bench.cluster.inspection import needs
from bench.cluster.pool import Pool
from bench.launching import preflight, study
from bench.launching.request import Request
from bench.reporting import mlflow_store
from bench.reporting.output import Screen

ROOT = Path(__file__).resolve().parents[2]

SLOTS = 2
"""Of the warm pool; Ray is told of more cores, so that there is room for another pool beside it."""

SECONDS = 500
"""Within which every process here ends, on a busy machine."""


@dataclass(frozen=True)
class Run:
    """A finished launch."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Records by trial, as their files say."""
        read = [json.loads(path.read_text()) for path in sorted(self.folder.glob("records/*.json"))]
        return {record["trial"]: record for record in read}


Launch = Callable[..., Run]
Start = Callable[..., subprocess.Popen[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the warm pool, whose tests take longest and stay in one process; what waits for others comes last."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        marker = item.get_closest_marker("xdist_group")
        needed = {"small", "both"} & set(getattr(item, "fixturenames", ()))
        return marker is None or marker.args != ("pool",), bool(needed)

    here = [index for index, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    for index, item in zip(here, sorted([items[index] for index in here], key=order), strict=True):
        items[index] = item


def default_signals() -> None:
    """Hear Ctrl-C, even if whoever started the tests does not: an ignored signal is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a command in a process group of its own, as a terminal does; whatever is left of it ends with the test."""
    begun: list[subprocess.Popen[str]] = []

    def run(command: list[str], *, prepare: Callable[[], None] = default_signals, **more: Any) -> Any:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(
            subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=prepare, **{**pipes, **more})
        )
        return begun[-1]

    yield run
    for process in begun:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it has started, if it still runs."""
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            if member.is_running():
                member.kill()
        process.communicate(timeout=60)


def one_core() -> None:
    """The same on a single core."""
    default_signals()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


SMALL = ["--trials", "4", "--seeds", "0", "1", "--set", "train.steps=12", "--set", "train.val_every=5"]
SMALL += ["--set", "search.p.choices=[1, 2]"]
FEW_QUERIES = [f"source.{name}=10" for name in ("per_class", "queries", "confirm_per_class", "confirm_queries")]
FEW = [word for setting in FEW_QUERIES for word in ("--set", setting)]
SMALL += FEW


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """An MLflow store without runs, of which launches get a copy: to make one takes longer than a small study."""
    place = shared(tmp_path_factory, worker_id)
    with FileLock(place / ".store.lock"):
        if not (place / "mlflow.db").is_file():
            mlflow_store.open_store(mlflow_store.default_uri(place)).search_experiments()
    return place / "mlflow.db"


def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder for all processes that share out the tests."""
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "shared"
    place.mkdir(exist_ok=True)
    return place


def begin_with(store: Path, results: Path) -> None:
    """Let a results folder have its MLflow store already."""
    results.mkdir(parents=True, exist_ok=True)
    if not (results / "mlflow.db").exists():
        shutil.copy(store, results / "mlflow.db")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Run:
    """A small block-expansion study from the command line, on one core: 4 search trials, 2 rows x 2 seeds.

    It runs once for all processes that share out the tests.
    """
    place = shared(tmp_path_factory, worker_id)
    ended = place / "ended.json"
    with FileLock(place / ".lock"):
        if not ended.is_file():
            ended.write_text(json.dumps(_small(place / "results")))
    return Run(*json.loads(ended.read_text()), place / "results" / "block_expansion" / "tiny")


def _small(results: Path) -> tuple[int, str, str]:
    command = [sys.executable, "launch.py", "--study", "block_expansion", "--results", str(results), *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, preexec_fn=one_core)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Two warm slots of one worker each, on a Ray of their own, which ends before this process goes on with others."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    runtime.start_ray(None, folder=ROOT, cores=2 * SLOTS)
    plan = resources.plan(cores=SLOTS, gpus=0, workers=1, slots=SLOTS)
    warm = Pool(plan, storage=tmp_path_factory.mktemp("ray"), needs=needs(None, gpu=False))
    yield warm
    warm.close()
    left = [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
    assert not left
    runtime.stop_ray()


@pytest.fixture(scope="package")
def launched(pool: Pool, store: Path) -> Launch:
    """Run a command line of ``launch.py`` on the warm pool: all but the start of Ray and workers."""

    def run(name: str, results: Path, *arguments: str) -> Run:
        begin_with(store, results)
        command = ["--study", name, "--results", str(results), *arguments]
        launch = preflight.prepare(Request.parsed(front_door.arguments().parse_strictly(command)))
        said = io.StringIO("\n".join(preflight.make_ready(launch)))
        said.seek(0, io.SEEK_END)
        screen = Screen(Console(file=said, width=200))
        with launch.folder.locked():
            ended = study.carry_out(launch, pool, screen)
        screen.ended(ended)
        return Run(ended.exit_code or 0, said.getvalue(), "", launch.folder.path)

    return run
