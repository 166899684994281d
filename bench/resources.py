"""What this machine has, and who gets what of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench.spec import LaunchOptions, SpecError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """NVIDIA GPUs that this process may use, found without loading CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return gpus_of_node()


def gpus_of_node() -> int:
    """NVIDIA GPUs of the machine, whoever may use them."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""A container's limit of memory is in one of these files."""


def memory() -> int:
    """Bytes of memory that this machine has, or that its container may use of them."""
    import psutil

    limits = [Path(limit).read_text().strip() for limit in LIMITS if Path(limit).is_file()]
    return min([int(psutil.virtual_memory().total), *(int(limit) for limit in limits if limit.isdigit())])


CPUS_PER_WORKER = 0.9
"""A worker takes so much of the core that it is planned on: Ray's own actors of a slot must fit beside it."""


def room(*, cores: float, gpus: float) -> tuple[int, int]:
    """For how many workers a machine has room: those that take a core each, and those that take a GPU and a core."""
    return int(cores), min(int(gpus), int(cores / CPUS_PER_WORKER))


@dataclass(frozen=True)
class Plan:
    """Who gets what of the machine: ``slots`` trials at once, ``workers`` processes each."""

    slots: int
    workers: int
    gpu: bool
    units: int
    """GPUs, or cores where there is none."""
    cluster: str = ""
    """The nodes that this is planned on, in words, where it is not this machine."""

    def describe(self) -> str:
        """One line for the screen."""
        unit = "GPU" if self.gpu else "CPU core"
        return (
            f"{self.slots} slot{'s' * (self.slots > 1)} x {self.workers} worker{'s' * (self.workers > 1)}, "
            f"one {unit} each, of {self.units}" + (f" ({self.cluster})" if self.cluster else "")
        )


def plan_of_machine(options: LaunchOptions, most: int) -> Plan:
    """The plan for this machine, or for so much of it as is asked for.

    Args:
        most: so many trials there are at once.

    Raises:
        SpecError: that is more than there is.
    """
    has = {"cpus": cores(), "gpus": gpus()}
    for name, there in has.items():
        asked = getattr(options, name)
        if asked is not None and asked > there:
            raise SpecError(f"--{name} {asked} is more than this machine has: {there}")
    use = {name: there if (asked := getattr(options, name)) is None else asked for name, there in has.items()}
    return plan(cores=use["cpus"], gpus=use["gpus"], workers=options.workers, slots=options.slots, most=most)


def plan(*, cores: int, gpus: int, workers: int, slots: int | None, most: int | None = None) -> Plan:
    """Plan a machine's resources so that every slot fits beside the others and nothing can wait for ever.

    Args:
        workers: processes a trial.
        slots: trials at once; as many as fit if None.
        most: by itself it plans no more slots: so many trials there are at once.

    Raises:
        SpecError: that is more than there is.
    """
    by_core, by_gpu = room(cores=cores, gpus=gpus)
    units = Units(by_gpu or by_core, gpu=by_gpu > 0, cores_lack=by_gpu < gpus)
    return plan_of(units, workers=workers, slots=slots, most=most)


@dataclass(frozen=True)
class Units:
    """So many workers have room, each with a GPU (``gpu``) or a core of its own."""

    count: int
    gpu: bool
    cluster: str = ""
    """Where, in words, if it is not this machine."""
    cores_lack: bool = False
    """There are more GPUs, but no cores for them."""


def plan_of(units: Units, *, workers: int, slots: int | None, most: int | None = None) -> Plan:
    """Plan slots on the room that there is, see :func:`plan`."""
    count, unit = units.count, "GPU" if units.gpu else "CPU core"
    there_are = "that there are cores for" if units.cores_lack else "that there are"
    those = f"that the cluster can have, {units.cluster}" if units.cluster else there_are
    if workers > count:
        raise SpecError(f"--num-workers {workers} asks for more than the {count} {unit}{'s' * (count != 1)} {those}")
    slots = slots or min(count // workers, most or count)
    if slots * workers > count:
        there = f"the cluster can have {count}, {units.cluster}" if units.cluster else f"there {_are(count)} {count}"
        raise SpecError(
            f"--slots {slots} with --num-workers {workers} needs {slots * workers} {unit}s, and {there}: "
            f"use at most --slots {count // workers}"
        )
    return Plan(slots=slots, workers=workers, gpu=units.gpu, units=count, cluster=units.cluster)


def _are(count: int) -> str:
    return "are" if count > 1 else "is"
