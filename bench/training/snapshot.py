"""Snapshots: all that a training needs to go on where it was cut, bit for bit, in one file of all ranks together."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from bench import parallel
from bench.records import write_atomically

SEAL_BYTES = 65
"""A snapshot begins with the SHA-256 of the rest, in a line."""


class Stateful(Protocol):
    """What can be kept and put back, as torch's optimizers can: tensors, numbers, texts, and what holds them."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Go on from a state."""


@dataclass(frozen=True)
class Snapshot:
    """A state after a step: ``shared`` by all ranks, and this rank's ``own``, by the names of the parts."""

    step: int
    shared: Mapping[str, dict[str, Any]]
    own: Mapping[str, dict[str, Any]]


class Snapshots:
    """Keeps the last snapshot of one trial. Every rank calls every method, at the same steps; rank 0 has the file."""

    def __init__(
        self,
        path: Path | None,
        *,
        key: str,
        minutes: float,
        device: torch.device,
        saved: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Keep nothing yet.

        Args:
            path: of the file; None on a machine that does not see its folder.
            key: everything that the trial's course depends on: the file of another one is not used.
            minutes: between two snapshots, in which steps are counted whole.
            device: of the trial.
            saved: on rank 0 hears the step of every snapshot that is on the disk.
        """
        self._tell = saved
        self._path, self._key, self._seconds = path, key, 60 * minutes
        self._kept: dict[str, Stateful] = {}
        self._own: dict[str, Stateful] = {"random": _Random(device)}
        self._begun = self._saved = time.monotonic()
        self._first = self._look = 0

    def keep(self, **parts: Stateful) -> None:
        """Let parts that are the same on all ranks be in every snapshot."""
        self._kept |= parts

    def keep_own(self, **parts: Stateful) -> None:
        """Let parts that differ between the ranks be in it; random numbers are anyway."""
        self._own |= parts

    def read(self) -> Snapshot | None:
        """The trial's snapshot; None if there is none, or, with a warning, if it is damaged or another trial's."""
        content = parallel.of_first(self._read() if parallel.rank() == 0 else None)
        if content is None:
            return None
        try:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, pickle.UnpicklingError) as error:  # the same on all ranks
            self._unusable(f"cannot be read ({str(error).splitlines()[0]})")
            return None
        if (found["key"], len(found["own"])) != (self._key, parallel.world()):
            self._unusable("belongs to another configuration")
            return None
        return Snapshot(found["step"], found["shared"], found["own"][parallel.rank()])

    def begin(self, snapshot: Snapshot | None) -> None:
        """Put all parts into the state of a snapshot, if there is one, and count time from now on."""
        if snapshot is not None:
            for name, part in self._kept.items():
                part.load_state_dict(snapshot.shared[name])
            for name, part in self._own.items():
                part.load_state_dict(snapshot.own[name])
        self._first = snapshot.step if snapshot else 0
        self._look = self._first + 1
        self._begun = self._saved = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether it is time for a snapshot, by the clock of rank 0, which is looked at where that may be so."""
        if step < self._look:
            return False
        ahead: int = parallel.of_first(self._steps_left(step))
        self._look = step + max(1, ahead)
        return ahead == 0

    def save(self, step: int) -> None:
        """Write a snapshot of the state after a step; where that fails there is a warning, and the last one stays."""
        state = {
            "key": self._key,
            "step": step,
            "shared": {name: part.state_dict() for name, part in self._kept.items()},
            "own": parallel.of_all({name: part.state_dict() for name, part in self._own.items()}),
        }
        if parallel.rank() == 0 and self._path is not None:
            written = io.BytesIO()
            torch.save(state, written)
            content = written.getvalue()
            try:
                write_atomically(self._path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
            except OSError as error:
                _warn(f"{self._path} cannot be written ({error.strerror or error}): a trial that is cut starts anew")
            else:
                self._tell(step)
        self._saved = time.monotonic()

    def _steps_left(self, step: int) -> int:
        """Steps until the next look at the clock, 0 if it is time: not beyond as many as there were."""
        now = time.monotonic()
        left = self._saved + self._seconds - now
        if left <= 0:
            return 0
        done = step - self._first
        return max(1, min(done, int(left * done / max(now - self._begun, 1e-6))))

    def _read(self) -> bytes | None:
        if self._path is None:
            return None
        try:
            sealed = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._unusable(f"cannot be read ({error.strerror or error})")
            return None
        content = sealed[SEAL_BYTES:]
        if sealed[:SEAL_BYTES] != hashlib.sha256(content).hexdigest().encode() + b"\n":
            self._unusable("is damaged")
            return None
        return content

    def _unusable(self, why: str) -> None:
        if parallel.rank() == 0:
            _warn(f"{self._path} {why}: the trial starts from its first step")


class _Random:
    """The generators of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        numpy = dict(np.random.get_state(legacy=False))
        numpy["state"] = {**numpy["state"], "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64))}
        state = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        numpy = state["numpy"]
        np.random.set_state({**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].numpy()}})
        torch.set_rng_state(state["torch"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
