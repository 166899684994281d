"""The nodes of a cluster: those that are there, and those that its autoscaler may bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from bench.resources import Plan, Units, plan_of, room
from bench.spec import LaunchOptions, SpecError

HEAD = "node:__internal_head__"
"""Ray gives the head this resource."""


@dataclass(frozen=True)
class NodeType:
    """Nodes that are alike."""

    name: str
    cores: float
    gpus: float
    most: int
    """So many of them there can be."""

    def workers(self, *, gpu: bool) -> int:
        """Workers that a node has room for, with a GPU each or without."""
        return room(cores=self.cores, gpus=self.gpus)[gpu]


@dataclass(frozen=True)
class Nodes:
    """What a cluster can have.

    ``always`` holds the nodes that are there and no autoscaler's; of those of the types in ``growing`` there can be
    ``most`` in all.
    """

    always: Sequence[NodeType]
    growing: Sequence[NodeType] = ()
    most: int = 0

    def workers(self, *, gpu: bool) -> int:
        """So many workers find room at the same time, when all nodes have come."""
        left, room = self.most, sum(node.workers(gpu=gpu) * node.most for node in self.always)
        for node in sorted(self.growing, key=lambda node: -node.workers(gpu=gpu)):
            count = min(left, node.most)
            left, room = left - count, room + count * node.workers(gpu=gpu)
        return room

    def describe(self) -> str:
        """The nodes in words: ``1 x head (8 cores), up to 8 x gpu_worker (4 cores, 1 GPU)``."""
        words = [f"{node.most} x {_described(node)}" for node in self.always]
        return ", ".join(
            [*words, *(f"up to {min(node.most, self.most)} x {_described(node)}" for node in self.growing)]
        )


def _described(node: NodeType) -> str:
    gpus = f", {node.gpus:g} GPU{'s' * (node.gpus != 1)}" if node.gpus else ""
    return f"{node.name} ({node.cores:g} core{'s' * (node.cores != 1)}{gpus})"


def plan_of_cluster(options: LaunchOptions, most: int) -> Plan:
    """The plan for the cluster that Ray has joined, on what it can have.

    Args:
        most: so many trials there are at once.

    Raises:
        SpecError: that is less than what is asked for.
    """
    can = nodes()
    with_gpus = can.workers(gpu=True) if options.gpus is None else options.gpus
    told = options.gpus if with_gpus else options.cpus
    count = with_gpus or options.cpus or can.workers(gpu=False)
    if not count:
        raise SpecError(
            f"the cluster has room for no worker ({can.describe()}): say with --gpus or --cpus what it can have"
        )
    where = "as told" if told is not None else can.describe()
    units = Units(count, gpu=with_gpus > 0, cluster=where)
    return plan_of(units, workers=options.workers, slots=options.slots, most=most)


def nodes() -> Nodes:
    """What the cluster that Ray has joined can have: by the node types of its autoscaler, or else what it has."""
    there = [
        NodeType(
            name="head" if HEAD in node["Resources"] else "node",
            cores=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            most=1,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    config = autoscaling()
    if config is None:
        return Nodes(there)
    can = of_autoscaler(config, head=[node for node in there if node.name == "head"])
    # Resources may be said nowhere: Ray looks them up at the cloud's, or, on own hosts, on the hosts when they join.
    said = can.growing and all(node.cores or node.gpus for node in can.growing)
    return can if said else Nodes(there)


def of_autoscaler(config: Mapping[str, Any], *, head: Sequence[NodeType]) -> Nodes:
    """What a cluster's file promises.

    Args:
        config: the file, as ``ray up`` has completed it.
        head: the head as it is.
    """
    growing = [
        NodeType(
            name=name,
            cores=kind.get("resources", {}).get("CPU", 0),
            gpus=kind.get("resources", {}).get("GPU", 0),
            most=kind.get("max_workers", 0 if name == config["head_node_type"] else config["max_workers"]),
        )
        for name, kind in config["available_node_types"].items()
    ]
    return Nodes(head, [node for node in growing if node.most > 0], config["max_workers"])


def autoscaling() -> dict[str, Any] | None:
    """The file that the cluster's autoscaler goes by, if it runs on this machine: it does on the head."""
    address = ray.get_runtime_context().gcs_address
    for arguments in _commands():
        flags = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
        if flags.get("--gcs-address") == address and "--autoscaling-config" in flags:
            file = Path(flags["--autoscaling-config"]).expanduser()
            config: dict[str, Any] = yaml.safe_load(file.read_text())
            return config
    return None


def _commands() -> Iterator[Sequence[str]]:
    """The command lines of this machine's processes."""
    for process in psutil.process_iter():
        try:
            yield process.cmdline()
        except psutil.Error:  # it has ended, or is somebody else's
            continue
