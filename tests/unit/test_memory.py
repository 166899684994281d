"""Peak memory: of a trial alone, however much an earlier one took; and nothing where the machine does not say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.models import CPU
from bench.training import PeakMemory, memory

MB = 2**20


def peak_of(megabytes: int) -> int:
    """The peak while so much is held for a moment."""
    began = PeakMemory.begin(CPU)
    held = torch.ones(megabytes * MB, dtype=torch.uint8)
    del held
    found = began.so_far()
    assert found is not None
    assert found["of"] == "process"
    return int(found["bytes"])


def test_a_peak_is_the_trials_own() -> None:
    small, large, again = peak_of(1), peak_of(300), peak_of(1)
    assert large - small > 250 * MB
    assert large - again > 250 * MB


def test_no_peak_is_made_up_where_it_cannot_be_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    assert PeakMemory.begin(CPU).so_far() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_peak_is_what_torch_allocates() -> None:
    device = torch.device("cuda")
    began = PeakMemory.begin(device)
    held = torch.ones(64 * MB, dtype=torch.uint8, device=device)
    found = began.so_far()
    assert found == {"bytes": torch.cuda.max_memory_allocated(device), "of": "gpu"}
    assert found["bytes"] >= held.nbytes
