"""Nodes are looked at before a slot's first trial: what is not as the driver has it is said, with the host."""

from __future__ import annotations

import dataclasses
import platform
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from ray.train import ControllerError

from bench import records
from bench.cluster import groups, inspection
from bench.cluster.groups import GroupConfig, refuse
from bench.cluster.inspection import Needs, Passing, Refused, Seen, lacking, needs
from bench.cluster.pool import LOOKS, Pool, _but, _refusal, calls_at_once
from bench.launching import benchmarks, preflight
from bench.launching.request import Request
from bench.resources import Plan
from bench.spec import Backbone, Benchmark, SourceData, SpecError, TargetData
from tests.contract.test_folders import classes


@pytest.fixture(scope="module")
def here() -> Needs:
    return needs(None, gpu=False)


def test_the_drivers_own_machine_lacks_nothing(here: Needs) -> None:
    assert lacking(here) == []
    assert here.versions["python"] == ".".join(platform.python_version_tuple()[:2])
    assert {"torch", "timm", "peft", "ray"} <= set(here.versions)


@pytest.mark.parametrize("name", ["python", "torch", "timm", "peft", "ray"])
def test_another_version_is_named(here: Needs, name: str) -> None:
    other = dataclasses.replace(here, versions={**here.versions, name: "0.0.1"})
    assert lacking(other) == [f"{name} is {here.versions[name]} and the launch's 0.0.1"]


def test_what_is_not_installed_is_named(here: Needs) -> None:
    assert lacking(dataclasses.replace(here, versions={"vitbench": "1.0"})) == ["vitbench is missing"]


def test_what_a_wheel_was_built_for_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection.metadata, "version", lambda name: "2.15.0+cu130" if name == "torch" else "1.0")
    assert inspection.versions()["torch"] == "2.15.0"


def test_other_code_is_refused(here: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "bench"
    shutil.copytree(inspection.PROJECT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(inspection, "PROJECT", copy)
    (copy / ".trial.py.swp").write_text("an editor's")
    assert lacking(here) == []
    with (copy / "trial.py").open("a") as file:
        file.write("# changed\n")
    (fault,) = lacking(here)
    assert fault.startswith("its code of this project is not the launch's (another copy, or changed")


def test_a_commit_that_is_none_is_said_by_launches_and_nodes(here: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> None:
        raise ValueError("BENCH_COMMIT = main: set it")

    monkeypatch.setattr(records, "commit", wrong)
    assert lacking(here) == ["BENCH_COMMIT = main: set it"]
    with pytest.raises(SpecError, match=r"^BENCH_COMMIT = main: set it$"):
        preflight.prepare(Request(study="linear"))


def test_a_gpu_that_torch_does_not_see_is_no_gpu(here: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (fault,) = lacking(dataclasses.replace(here, gpu=True))
    assert fault.startswith("torch sees no GPU (")


def test_a_gpu_that_fails_is_no_gpu(here: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*shape: int, device: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda:0"))
    monkeypatch.setattr(torch, "zeros", broken)
    (fault,) = lacking(dataclasses.replace(here, gpu=True))
    assert fault == "its GPU cannot be used (CUDA error: an illegal memory access was encountered)"
    assert isinstance(fault, Passing)  # the process before it may still be dying


@pytest.fixture
def birds(tmp_path: Path) -> Benchmark:
    name = f"folder:{classes(tmp_path / 'birds')}"
    parts = {"name": "birds", "source": SourceData(name=name, per_class=8), "target": TargetData(name=name)}
    return benchmarks.get("tiny").model_copy(update=parts)


def forget_data() -> None:
    from bench import data

    for kept in (data._build, data.source, data.target):
        kept.cache_clear()


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, "birds"),
        (lambda folder: shutil.rmtree(folder / "cat"), "and the launch's"),
        (lambda folder: (folder / "cat" / "00.png").unlink(), "and the launch's"),
    ],
    ids=["no folder", "no class", "an image less"],
)
def test_data_that_are_not_the_launchs(birds: Benchmark, tmp_path: Path, change: Change, words: str) -> None:
    wanted = needs(birds, gpu=False)
    assert lacking(wanted) == []
    change(tmp_path / "birds")
    forget_data()
    faults = lacking(wanted)
    assert faults
    assert words in faults[0]
    assert "\n" not in faults[0]


@pytest.mark.parametrize(("at_hand", "passes"), [(True, False), (False, True)])
def test_a_download_that_fails_may_work_the_next_time(
    birds: Benchmark, at_hand: bool, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import data

    def fails(name: str) -> None:
        raise SpecError("cannot download birds (HTTP 503)")

    wanted = needs(birds, gpu=False)
    monkeypatch.setattr(data, "fetch", fails)
    monkeypatch.setattr(data, "at_hand", lambda name: at_hand)
    (fault,) = lacking(wanted)
    assert fault == "cannot download birds (HTTP 503)"
    assert isinstance(fault, Passing) is passes


def test_weights_that_are_not_the_launchs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(3)}, file)
    tiny = benchmarks.get("tiny")
    backbone = Backbone(name="tiny", weights=str(file))
    wanted = needs(tiny.model_copy(update={"backbone": backbone}), gpu=False)
    assert lacking(wanted) == []
    save_file({"a": torch.ones(3)}, file)
    assert lacking(wanted) == [f"{file} is not the launch's"]
    file.unlink()
    assert lacking(wanted) == [f"there is no weights file {file}"]


def test_a_refusal_names_hosts_and_things_once() -> None:
    good = Seen("n0", "head", ())
    bad = [Seen("n1", "gpu-1", ("timm is missing", "peft is missing"))] * 2 + [Seen("n2", "gpu-2", ("no GPU",))]
    refuse([good])
    with pytest.raises(Refused) as raised:
        refuse([good, *bad])
    first, second = str(raised.value).split("; ")
    assert first == "host gpu-1 cannot train: timm is missing, peft is missing"
    assert second == "host gpu-2 cannot train: no GPU"
    assert raised.value.nodes == {"n1", "n2"}
    found = _refusal(ControllerError(raised.value))
    assert found is not None
    assert found.nodes == {"n1", "n2"}
    assert _refusal(ControllerError(RuntimeError("another reason"))) is None


class Workers:
    """A worker group of Ray Train on a node that lacks something."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def execute(self, function: Callable[..., Any], *given: Any) -> list[Any]:
        self.did.append(function.__name__)
        return [Seen("n1", "gpu-1", ("timm is missing",))]

    def abort(self) -> None:
        self.did.append("abort")


def test_a_group_that_is_refused_keeps_nothing_and_starts_nothing(here: Needs) -> None:
    workers = Workers()
    config = GroupConfig(needs=here, folder="/nowhere")
    with pytest.raises(Refused, match=r"^host gpu-1 cannot train: timm is missing$"):
        config.backend_cls().on_start(cast(Any, workers), config)
    assert workers.did == ["look", "abort"]


class Ranks:
    """What a worker group is asked to do, by rank, without processes."""

    def __init__(self, count: int, *, fails: bool = False) -> None:
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.aborted, self._count, self._fails = False, count, fails

    def __len__(self) -> int:
        return self._count

    def execute_single(self, rank: int, function: Callable[..., Any]) -> tuple[str, int]:
        assert (rank, function.__name__) == (0, "get_address_and_port")
        return "10.0.0.7", 4242

    def execute_single_async(self, rank: int, function: Callable[..., Any], **given: Any) -> int:
        assert function is groups.meet
        if self._fails:
            raise RuntimeError("a rank has died")
        self.asked.append((rank, given))
        return rank

    def execute_async(self, function: Callable[..., Any], **given: Any) -> list[int]:
        assert function is groups.part
        self.asked.append((-1, given))
        return []

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("count", "folder"), [(1, ""), (3, ""), (3, "/meeting")])
def test_the_ranks_of_a_group_meet_in_one_place_and_part(
    count: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups.ray, "get", lambda asked, timeout=None: asked)
    config, ranks = GroupConfig(folder=folder, backend="nccl"), Ranks(count)
    backend = cast(Any, config.backend_cls())
    backend.on_start(ranks, config)
    assert [(rank, given["world_rank"]) for rank, given in ranks.asked] == [(rank, rank) for rank in range(count)]
    assert {(given["backend"], given["world_size"], given["timeout_s"]) for _, given in ranks.asked} == {
        ("nccl", count, 1800)
    }
    (place,) = {given["init_method"] for _, given in ranks.asked}
    assert place.startswith("file:///meeting/group-") if folder else place == "tcp://10.0.0.7:4242"
    backend.on_shutdown(ranks, config)
    assert ranks.asked[-1] == (-1, {"destroy_process_group": count > 1})
    assert not ranks.aborted


def test_a_group_that_cannot_meet_keeps_nothing() -> None:
    config, ranks = GroupConfig(folder="/meeting", backend="gloo"), Ranks(2, fails=True)
    with pytest.raises(RuntimeError, match="a rank has died"):
        cast(Any, config.backend_cls()).on_start(ranks, config)
    assert ranks.aborted


def test_what_may_pass_is_looked_for_again() -> None:
    """Unless something else is wrong as well, or it does not pass."""
    busy = Seen("n1", "gpu-1", (Passing("its GPU cannot be used (out of memory)"),))
    with pytest.raises(Refused) as raised:
        refuse([busy, Seen("n2", "gpu-2", ())])
    assert raised.value.may_pass
    with pytest.raises(Refused) as other:
        refuse([busy, Seen("n2", "gpu-2", ("timm is missing",))])
    assert not other.value.may_pass
    pool: Any = Pool.__new__(Pool)
    pool._looks, pool._unfit, pool.refusals = Counter(), set(), ["told"]
    told: list[int] = []
    pool.board = SimpleNamespace(refuse=SimpleNamespace(remote=lambda slot, reason: told.append(slot)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.cluster.pool.ray.get", lambda called: called)
        patch.setattr(Pool, "wake", lambda pool: None)
        again = [pool._is_refused(0, ControllerError(raised.value)) for _ in range(LOOKS - 1)]
        assert again == [False] * (LOOKS - 1)
        assert not pool._is_refused(0, ControllerError(RuntimeError("it lived, and ended")))
        assert not pool._is_refused(0, ControllerError(raised.value))  # so counting begins anew
        assert pool._is_refused(1, ControllerError(other.value))
        assert [pool._is_refused(2, ControllerError(raised.value)) for _ in range(LOOKS)][-1]
    assert told == [1, 2]


def test_a_refusal_comes_whole_through_ray() -> None:
    from ray import cloudpickle

    sent = cloudpickle.loads(cloudpickle.dumps(Refused("host a cannot train: no GPU", frozenset({"n1"}), True)))
    assert (str(sent), sent.nodes, sent.may_pass) == ("host a cannot train: no GPU", {"n1"}, True)
    seen = cloudpickle.loads(cloudpickle.dumps(Seen("n1", "a", (Passing("no GPU yet"),))))
    assert isinstance(seen.lacks[0], Passing)


def test_the_board_bears_a_waiting_slot_and_watcher_of_each() -> None:
    plan = Plan(slots=1000, workers=2, gpu=True, units=2000)
    assert calls_at_once(plan) > 2 * plan.slots + 1000
    assert calls_at_once(Plan(slots=1, workers=1, gpu=False, units=1)) == 1000


def test_no_slot_is_sent_to_a_node_that_lacks_something() -> None:
    assert _but(frozenset()) == {}
    assert _but(frozenset({"b2", "a1"})) == {"ray.io/node-id": "!in(a1, b2)"}
