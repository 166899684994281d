"""Peak memory of a trial: of its GPU, or of its process where it trains on none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch

from bench import parallel

RESET_PEAK = "5"
"""Linux takes a process's peak anew from this on (proc_pid_clear_refs(5))."""

PROCESS = Path("/proc/self")


class PeakMemory:
    """The most memory that is held from :meth:`begin` on: what torch has allocated on a GPU, else the process's."""

    def __init__(self, device: torch.device, known: bool) -> None:
        self._device, self._known = device, known

    @classmethod
    def begin(cls, device: torch.device) -> Self:
        """Count from now on."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return cls(device, True)
        try:
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
        except OSError:  # not Linux, or not allowed: then only the peak of all earlier trials is known
            return cls(device, False)
        return cls(device, True)

    def so_far(self) -> dict[str, Any] | None:
        """``bytes`` of the rank that held most, and of what (``of``); None where the machine does not say."""
        most = [held for held in parallel.of_all(self._own()) if held is not None]
        return {"bytes": max(most), "of": "gpu" if self._device.type == "cuda" else "process"} if most else None

    def _own(self) -> int | None:
        if not self._known:
            return None
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        lines = (PROCESS / "status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
