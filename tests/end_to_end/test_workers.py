"""The pool of warm worker groups on one real Ray: reuse, failures, stops, leaks, and a worker that is killed."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from bench import methods, resources
from bench import trial as trials
from bench.cluster.board import Event, NoSlotsError
from bench.cluster.inspection import needs
from bench.cluster.pool import Pool, _first_reason
from bench.cluster.search import search
from bench.launching import benchmarks, studies
from bench.records import Record
from bench.spec import Benchmark, SourceData, TargetData, Trial, make_trial
from tests.contract.test_folders import classes

from .conftest import ROOT, SLOTS, Run

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("pool")]
Make = Callable[..., Trial]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """The embedded backbone on sixty noisy pictures: a trial costs next to nothing."""
    name = f"folder:{classes(tmp_path_factory.mktemp('pictures'))}"
    source, target = SourceData(name=name, per_class=8), TargetData(name=name)
    return benchmarks.get("tiny").model_copy(update={"name": "pictures", "source": source, "target": target})


@pytest.fixture(scope="module")
def make(pictures: Benchmark) -> Make:
    """A factory of trials on the pictures: the first value of every searched field."""

    def trial(label: str, *, method: str = "linear", steps: int = 3, **values: Any) -> Trial:
        study = studies.load(method, overrides=[f"train.steps={steps}", "train.batch_size=8"]).studies[0]
        chosen = {**{name: space.corners[0] for name, space in study.search.items()}, "lr": 0.05, **values}
        return make_trial(study, pictures, chosen, launch="test", label=label, seed=0, phase="search")

    return trial


def until(pool: Pool, done: Callable[[list[Event]], bool], *, seconds: float = 300) -> list[Event]:
    """Collect the pool's events until there is enough."""
    events: list[Event] = []
    end = time.monotonic() + seconds
    while not done(events):
        assert time.monotonic() < end, [event.kind for event in events]
        events += pool.events()
    return events


def finished(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: sum(event.kind == "finished" for event in events) == count


def found(events: list[Event]) -> dict[str, Record]:
    """Records among some events, by trial; none is counted twice."""
    all_of_them = [event.record for event in events if event.record]
    assert len({record.trial for record in all_of_them}) == len(all_of_them)
    return {record.trial: record for record in all_of_them}


def pids(pool: Pool, make: Make) -> dict[int, int]:
    """The process of each slot, found by running trials until both have run one."""
    processes: dict[int, int] = {}
    while len(processes) < SLOTS:
        for _ in range(SLOTS):
            pool.submit(make(f"pid{time.monotonic_ns()}"))
        for event in until(pool, finished(SLOTS)):
            if event.record:
                assert event.slot is not None
                processes[event.slot] = event.record.provenance["pid"]
    return processes


def test_trials_share_the_slots_processes(pool: Pool, make: Make) -> None:
    before = set(pids(pool, make).values())
    for label in "abcdef":
        pool.submit(make(label))
    records = found(until(pool, finished(6))).values()
    assert {record.status for record in records} == {"ok"}
    assert {record.provenance["pid"] for record in records} <= before


def test_only_training_imports_torch(pool: Pool, make: Make) -> None:
    """The workers do; Ray Train's controllers, the board, Tune's actors and all of Ray's own processes do not."""
    training = set(pids(pool, make).values())
    others = [process for process in ray_processes() if process.pid not in training]
    assert any("TrainController" in process.name() for process in others)
    assert len(others) > 6
    assert [process.name() for process in others if loads_torch(process)] == []


def test_nothing_listens_beyond_this_machine(pool: Pool, make: Make) -> None:
    """Of Ray, of its workers and of their process groups; there is no exception."""
    pids(pool, make)
    (gcs,) = (process for process in psutil.Process().children() if process.name() == "gcs_server")
    listening = [
        (process.name(), socket.laddr.ip)
        for process in [psutil.Process(), gcs, *ray_processes()]
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 4
    loopback = [one for one in listening if ipaddress.ip_address(one[1].removeprefix("::ffff:")).is_loopback]
    assert set(listening) - set(loopback) == set()


def ray_processes() -> list[psutil.Process]:
    """Of this process's own Ray; whatever else the tests have started is not asked."""
    own = psutil.Process().children(recursive=True)
    (raylet,) = (process for process in own if process.name() == "raylet" and process.ppid() == os.getpid())
    return [raylet, *raylet.children(recursive=True)]


def loads_torch(process: psutil.Process) -> bool:
    try:
        return any("libtorch" in part.path for part in process.memory_maps())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False  # it has ended meanwhile


def test_the_driver_does_not_import_torch_before_its_workers_start(tmp_path: Path) -> None:
    """What a launch on the embedded benchmark imports before the pool starts, beside Ray's own TorchTrainer."""
    code = f"""
import sys, importlib
import launch
from bench.launching import preflight, study
from bench.launching.request import Request
arguments = launch.arguments().parse_strictly(["--study", "lora", "--results", {str(tmp_path)!r}])
preflight.make_ready(preflight.prepare(Request.parsed(arguments)))
importlib.import_module("bench.cluster.search")
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def scores(record: Record) -> dict[str, Any]:
    """What must not depend on the process."""
    volatile = {"train_seconds", "eval_seconds", "images_per_second", "provenance", "trial", "config"}
    return record.model_dump(exclude=volatile)


def test_a_warm_trial_of_a_slot_equals_one_of_this_process(pool: Pool, make: Make) -> None:
    """Every method, after all kinds of others in the same workers: bit for bit."""
    torch.set_num_threads(1)  # as a slot does
    for name in methods.names():
        pool.submit(make("warm", method=name))
    events = until(pool, finished(len(methods.names())))
    records = found(events)
    for name in methods.names():
        losses: list[float] = []
        record = trials.run(make("here", method=name), lambda point: losses.append(point.values["train_loss"]))  # noqa: B023
        warm = [e.point.values["train_loss"] for e in events if e.point and e.trial.id == f"{name}-warm"]
        assert warm == losses, name
        assert scores(records[f"{name}-warm"]) == scores(record), name


@pytest.fixture(scope="module")
def both(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A slot of two workers, on the other pool's Ray."""
    one = Pool(resources.plan(cores=2, gpus=0, workers=2, slots=1), storage=tmp_path_factory.mktemp("ray"))
    yield one
    one.close()


def test_two_workers_a_trial_train_the_same_model(both: Pool, small: Run) -> None:
    """DDP end to end: the same trials with two processes each find the same accuracies, save for ties."""
    names = ("block_expansion-search-00", "block_expansion-confirm-p1-seed0")
    for name in names:
        both.submit(Trial.model_validate_json(json.dumps(small.records[name]["config"])))
    events = until(both, finished(len(names)))
    records = found(events)
    assert {record.provenance["workers"] for record in records.values()} == {2}
    assert [len(event.weights) for event in events if event.record] == [0, 1]
    for name in names:
        one, two = small.records[name], records[name].model_dump()
        split = "val_" if one["phase"] == "search" else ""
        assert two[f"{split}target_accuracy"] == pytest.approx(one[f"{split}target_accuracy"], abs=0.7)
        assert two[f"{split}source_accuracy"] == pytest.approx(one[f"{split}source_accuracy"], abs=1.0)


def test_a_trial_that_takes_too_long_ends_and_says_where_it_stood(both: Pool, make: Make) -> None:
    """The last one of its pool: that others take the place of workers that were killed is another test's."""
    both.submit(make("endless", steps=100_000), minutes=0.05)
    record = found(until(both, finished(1)))["linear-endless"]
    assert record.status == "failed"
    assert record.error is not None
    assert "the trial did not end within trial_minutes = 0.05: rank 0 stood in" in record.error
    assert "bench/trial.py" in record.details["traceback"]


def test_a_trial_that_raises_leaves_the_slot_alive(pool: Pool, make: Make) -> None:
    before = set(pids(pool, make).values())
    for label in "ab":
        pool.submit(make(f"bad{label}", method="top_k", k=99))  # preflight would have refused it
    bad = found(until(pool, finished(2)))["top_k-bada"]
    assert bad.status == "failed"
    assert bad.error is not None
    assert "k = 99 is more than the backbone's 12 blocks" in bad.error
    assert "Traceback" in bad.details["traceback"]
    assert set(pids(pool, make).values()) == before


def test_a_stopped_trial_ends_at_its_next_report_and_frees_its_slot(pool: Pool, make: Make) -> None:
    ticket = pool.submit(make("long", steps=20000))
    until(pool, lambda events: any(event.kind == "report" for event in events))
    ray.get(pool.board.stop.remote(ticket))
    record = found(until(pool, finished(1)))["linear-long"]
    assert record.status == "stopped"
    assert 0 < record.steps < 20000
    assert len(pids(pool, make)) == SLOTS


def test_a_killed_worker_is_replaced_and_no_other_slot_notices(pool: Pool, make: Make) -> None:
    before = pids(pool, make)
    for label in ("a", "b"):
        pool.submit(make(f"kill-{label}", steps=120, share_frozen=False))
    # At once, and with all blocks in every step: else the trials may have ended when this process hears of them.
    events = until(pool, lambda events: len({event.ticket for event in events if event.kind == "started"}) == SLOTS)
    slots = {event.trial.id: event.slot for event in events if event.kind == "started"}
    os.kill(before[slots["linear-kill-a"]], signal.SIGKILL)
    events = until(pool, finished(2))
    assert [event.trial.id for event in events if event.kind == "started"] == ["linear-kill-a"]
    records = found(events)
    killed, other = records["linear-kill-a"], records["linear-kill-b"]
    assert (killed.status, killed.steps, other.status, other.steps) == ("ok", 120, "ok", 120)
    assert killed.provenance["pid"] not in before.values()
    assert other.provenance["pid"] == before[slots["linear-kill-b"]]
    ends = [event.trial.id for event in events if event.kind == "finished"]
    assert ends == ["linear-kill-b", "linear-kill-a"]


def test_the_reason_of_a_group_is_that_of_its_first_worker() -> None:
    from ray.train import WorkerGroupError

    failures: dict[int, Exception] = {1: RuntimeError("peer closed"), 0: ValueError("trace\nimport of x halted\n")}
    assert _first_reason(WorkerGroupError("two workers failed", failures)) == "ValueError: import of x halted"
    assert _first_reason(RuntimeError()) == "RuntimeError: no message"


class Watch:
    """Follows a search's events, and measures all processes when some of its trials have ended."""

    def __init__(self, pool: Pool, at: list[int]) -> None:
        self.pool, self.at = pool, at
        self.used: list[dict[str, float]] = []
        self.gaps: list[float] = []
        self._last: dict[int, float] = {}
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _follow(self) -> None:
        done = 0
        while done < self.at[-1]:
            for event in self.pool.events():
                now = time.monotonic()
                if event.kind == "finished":
                    assert event.slot is not None
                    assert event.seconds is not None
                    if event.slot in self._last:
                        self.gaps.append(now - self._last[event.slot] - event.seconds)
                    self._last[event.slot] = now
                    done += 1
                    if done in self.at:
                        self.used.append(steady())


def steady() -> dict[str, float]:
    """The least of some samples of :func:`usage`: actors come and go, each with connections to this process."""
    samples = []
    for _ in range(5):
        samples.append(usage())
        time.sleep(0.1)
    return {name: min(sample.get(name, 0) for sample in samples) for name in samples[0]}


def usage() -> dict[str, float]:
    """Processes (every actor is one), open files, memory in MB by kind of process, placement groups; of this Ray."""
    used: dict[str, float] = {"processes": 0}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            kind = "driver" if process.pid == os.getpid() else process.name().split(".")[0]
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
        used["processes"] += 1
        if kind in ("ray::RayTrainWorker", "ray::Board", "driver"):
            used[f"files {kind}"] = used.get(f"files {kind}", 0) + process.num_fds()
            used[f"MB {kind}"] = used.get(f"MB {kind}", 0) + process.memory_info().rss / 2**20
    groups = ray.util.placement_group_table().values()
    return {**used, "groups": sum(group["state"] == "CREATED" for group in groups)}


@pytest.mark.slow
def test_nothing_leaks_and_the_harness_costs_next_to_nothing(
    pool: Pool, make: Make, pictures: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixty trials of one step: the last fifty of them leave nothing behind."""
    pids(pool, make)
    overrides = ["train.steps=1", "train.batch_size=8", "trials=61"]
    study = studies.load("linear", overrides=overrides).studies[0]
    watch = Watch(pool, [10, 60, 61])
    search(study, pictures, pool, launch="test", storage=tmp_path)
    watch.join()
    before, after, _ = watch.used
    with capsys.disabled():
        print(f"\nharness: median {statistics.median(watch.gaps):.3f} s, largest {max(watch.gaps):.3f} s a trial")
        print(f"after 10 trials: {before}\nafter 60 trials: {after}")
    # The usual pattern takes half a minute; `make perf` has the figure of a quiet machine.
    assert statistics.median(watch.gaps) <= 5
    for name, value in after.items():  # of fifty trials; a process may be on its way up or down
        limit = 40 if name.startswith("MB") else 4 if name.startswith(("files", "processes")) else 0
        assert value - before[name] <= limit, f"{name}: {before} and {after}"
    assert ray.get(pool.board.remembers.remote()) == 0


def test_a_slot_whose_node_lacks_something_is_refused(pool: Pool, tmp_path: Path) -> None:
    """The pool beside it was looked at as well, and trains."""
    wanted = dataclasses.replace(needs(None, gpu=False), versions={"timm": "0.0.1"})
    refused = Pool(resources.plan(cores=1, gpus=0, workers=1, slots=1), storage=tmp_path / "ray", needs=wanted)
    with pytest.raises(NoSlotsError, match=f"^host {platform.node()} cannot train: timm is .* and the launch's 0.0.1$"):
        until(refused, lambda events: False)
    refused.close()
