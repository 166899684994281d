"""What a cluster can have is planned on, not what happens to be there when a launch begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cluster import nodes
from bench.cluster.nodes import Nodes, NodeType, of_autoscaler, plan_of_cluster
from bench.spec import LaunchOptions, SpecError

HEAD = NodeType("head", cores=8, gpus=0, most=1)
CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


def grown(*types: dict[str, Any], most: int = 8) -> Nodes:
    """A cluster whose workers are of such types."""
    kinds = {f"type{number}": kind for number, kind in enumerate(types)}
    config = {"max_workers": most, "head_node_type": "head", "available_node_types": {"head": {}, **kinds}}
    return of_autoscaler(config, head=[HEAD])


ONE, FOUR = {"resources": {"CPU": 4, "GPU": 1}}, {"resources": {"CPU": 16, "GPU": 4}, "max_workers": 1}


@pytest.mark.parametrize(
    ("can", "gpus", "cores"),
    [
        (Nodes([HEAD]), 0, 8),
        (Nodes([HEAD, NodeType("node", 16, 2, 1)]), 2, 24),
        (grown(ONE), 8, 40),
        (grown(ONE, FOUR), 4 + 7, 8 + 16 + 7 * 4),  # the largest first, as many nodes as the cluster may have
        (grown({**ONE, "max_workers": 3}, FOUR), 4 + 3, 8 + 16 + 12),
        (grown({**ONE, "max_workers": 0}), 0, 8),
        (grown({"resources": {"CPU": 2, "GPU": 8}}, most=2), 4, 12),  # a worker needs a core, too
    ],
)
def test_room_is_counted_over_what_may_come(can: Nodes, gpus: int, cores: int) -> None:
    assert (can.workers(gpu=True), can.workers(gpu=False)) == (gpus, cores)


def planned(monkeypatch: pytest.MonkeyPatch, can: Nodes, most: int = 100, **options: Any) -> Any:
    monkeypatch.setattr(nodes, "nodes", lambda: can)
    return plan_of_cluster(LaunchOptions(**options), most)


def test_gpus_that_are_not_there_yet_are_planned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(monkeypatch, grown(ONE))
    assert (plan.slots, plan.gpu, plan.units) == (8, True, 8)
    assert plan.describe() == (
        "8 slots x 1 worker, one GPU each, of 8 (1 x head (8 cores), up to 8 x type0 (4 cores, 1 GPU))"
    )
    assert planned(monkeypatch, grown(ONE), most=3).slots == 3
    assert planned(monkeypatch, grown(ONE), workers=2).slots == 4


def test_what_can_never_be_had_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"--slots 9 .* the cluster can have 8, 1 x head .*: use at most --slots 8"):
        planned(monkeypatch, grown(ONE), slots=9)
    with pytest.raises(SpecError, match=r"--num-workers 9 asks for more than the 8 GPUs that the cluster can have"):
        planned(monkeypatch, grown(ONE), workers=9)
    with pytest.raises(SpecError, match="room for no worker"):
        planned(monkeypatch, Nodes([]))


def test_what_is_said_counts_where_the_autoscaler_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Nodes([HEAD])
    assert planned(monkeypatch, bare, gpus=4).describe() == "4 slots x 1 worker, one GPU each, of 4 (as told)"
    assert planned(monkeypatch, bare, cpus=3).describe() == "3 slots x 1 worker, one CPU core each, of 3 (as told)"
    on_cores = planned(monkeypatch, grown(ONE), gpus=0)
    assert (on_cores.gpu, on_cores.units) == (False, 40)


def test_the_shipped_cluster_gives_its_gpus() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    can = of_autoscaler(config, head=[HEAD])
    assert can.workers(gpu=True) >= 8


def test_the_autoscaler_of_another_cluster_is_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its monitor is a process of this machine, and says on its command line which cluster it serves."""
    file = tmp_path / "cluster.yaml"
    file.write_text("max_workers: 3\n")

    class Context:
        gcs_address = "10.0.0.1:6379"

    monkeypatch.setattr(nodes.ray, "get_runtime_context", Context)
    command = ["python", "monitor.py", f"--autoscaling-config={file}", "--gcs-address=10.0.0.1:6380"]
    monkeypatch.setattr(nodes, "_commands", lambda: [[], ["ray"], command])
    assert nodes.autoscaling() is None
    monkeypatch.setattr(nodes, "_commands", lambda: [[], ["ray"], [*command[:-1], "--gcs-address=10.0.0.1:6379"]])
    assert nodes.autoscaling() == {"max_workers": 3}


def test_own_hosts_count_as_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their file knows one type of node, the head's too, and nothing of what the hosts have."""
    from ray.autoscaler._private.local.config import prepare_local

    config, _ = prepare_local(yaml.safe_load((CLUSTER.parent / "deploy" / "on-premise.yaml").read_text()))
    monkeypatch.setattr(nodes, "autoscaling", lambda: config)
    hosts = [{nodes.HEAD: 1.0, "CPU": 1.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [{"Alive": True, "Resources": one} for one in hosts])
    plan = plan_of_cluster(LaunchOptions(), 100)
    assert (plan.slots, plan.gpu) == (8, True)


def test_workers_may_be_of_the_heads_type() -> None:
    kinds = {"any": {"resources": {"CPU": 4}, "max_workers": 3}}
    can = of_autoscaler({"max_workers": 3, "head_node_type": "any", "available_node_types": kinds}, head=[HEAD])
    assert can.workers(gpu=False) == 8 + 3 * 4
