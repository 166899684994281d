"""What this machine has, and who gets what of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bench.spec import SpecError


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


@dataclass(frozen=True)
class Plan:
    """Who gets what of the machine: ``slots`` trials at once, ``workers`` processes each."""

    slots: int
    workers: int
    gpu: bool
    units: int
    """GPUs, or cores where there is none."""

    def describe(self) -> str:
        """One line for the screen."""
        unit = "GPU" if self.gpu else "CPU core"
        return (
            f"{self.slots} slot{'s' * (self.slots > 1)} x {self.workers} worker{'s' * (self.workers > 1)}, "
            f"one {unit} each, of {self.units}"
        )


def plan(*, cores: int, gpus: int, workers: int, slots: int | None) -> Plan:
    """Plan a machine's resources so that every slot fits beside the others and nothing can wait for ever.

    Args:
        workers: processes a trial.
        slots: trials at once; as many as fit if None.

    Raises:
        SpecError: that is more than there is.
    """
    units, unit = (gpus, "GPU") if gpus else (cores, "CPU core")
    if workers > units:
        raise SpecError(
            f"--num-workers {workers} asks for more than the {units} {unit}{'s' * (units > 1)} that there are"
        )
    slots = slots or units // workers
    if slots * workers > units:
        raise SpecError(
            f"--slots {slots} with --num-workers {workers} needs {slots * workers} {unit}s, and there "
            f"{'are' if units > 1 else 'is'} {units}: use at most --slots {units // workers}"
        )
    return Plan(slots=slots, workers=workers, gpu=gpus > 0, units=units)
