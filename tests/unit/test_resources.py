"""Resources: whatever the machine, no plan asks for more than there is, and a refusal says what would do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bench import resources
from bench.resources import Plan, plan
from bench.spec import SpecError

CORES = (1, 2, 3, 4, 7, 8, 16, 31, 64, 128)
GPUS = (0, 1, 2, 3, 4, 8)
WORKERS = (1, 2, 3, 4, 8)
SLOTS = (None, 1, 2, 3, 8)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("gpus", GPUS)
def test_a_plan_fits_or_is_refused(gpus: int, workers: int, slots: int | None) -> None:
    for cores in CORES:
        units = min(gpus, int(cores / resources.CPUS_PER_WORKER)) or cores  # a GPU without a core would wait for ever
        if workers * (slots or 1) > units:
            with pytest.raises(SpecError):
                plan(cores=cores, gpus=gpus, workers=workers, slots=slots)
            continue
        made = plan(cores=cores, gpus=gpus, workers=workers, slots=slots)
        assert made.slots >= 1
        assert made.slots * made.workers <= made.units == units
        assert made.workers == workers
        assert made.slots == (slots or units // workers)
        assert made.gpu is (gpus > 0)


def test_by_default_there_is_no_room_for_another_slot() -> None:
    for cores in CORES:
        for workers in range(1, cores + 1):
            made = plan(cores=cores, gpus=0, workers=workers, slots=None)
            assert cores - made.slots * workers < workers


@pytest.mark.parametrize(
    ("cores", "gpus", "workers", "slots", "said"),
    [
        (2, 0, 3, None, "--num-workers 3 asks for more than the 2 CPU cores that there are"),
        (1, 0, 2, None, "--num-workers 2 asks for more than the 1 CPU core that there are"),
        (64, 1, 2, None, "--num-workers 2 asks for more than the 1 GPU that there are"),
        (2, 8, 4, None, "--num-workers 4 asks for more than the 2 GPUs that there are cores for"),
        (64, 4, 8, 1, "--num-workers 8 asks for more than the 4 GPUs that there are"),
        (2, 0, 1, 3, "--slots 3 with --num-workers 1 needs 3 CPU cores, and there are 2: use at most --slots 2"),
        (4, 0, 2, 3, "--slots 3 with --num-workers 2 needs 6 CPU cores, and there are 4: use at most --slots 2"),
        (64, 1, 1, 2, "--slots 2 with --num-workers 1 needs 2 GPUs, and there is 1: use at most --slots 1"),
    ],
)
def test_too_much_is_refused_in_a_sentence(cores: int, gpus: int, workers: int, slots: int | None, said: str) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(said)}$"):
        plan(cores=cores, gpus=gpus, workers=workers, slots=slots)


def test_no_slot_is_planned_that_no_trial_would_use() -> None:
    assert plan(cores=64, gpus=0, workers=2, slots=None, most=12).slots == 12
    assert plan(cores=64, gpus=0, workers=2, slots=20, most=12).slots == 20
    assert plan(cores=8, gpus=0, workers=2, slots=None, most=12).slots == 4


def test_the_advice_of_a_refusal_is_accepted() -> None:
    with pytest.raises(SpecError) as caught:
        plan(cores=7, gpus=0, workers=3, slots=5)
    advised = int(str(caught.value).rsplit(" ", 1)[1])
    assert plan(cores=7, gpus=0, workers=3, slots=advised).slots == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Plan(slots=2, workers=1, gpu=False, units=2), "2 slots x 1 worker, one CPU core each, of 2"),
        (Plan(slots=1, workers=2, gpu=True, units=8), "1 slot x 2 workers, one GPU each, of 8"),
    ],
)
def test_a_plan_is_one_line(made: Plan, said: str) -> None:
    assert made.describe() == said


def test_cores_are_those_of_this_process() -> None:
    assert 1 <= resources.cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("visible", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1, 3", 3), ("GPU-8932f937-d72c,MIG-4", 2)]
)
def test_gpus_are_those_that_cuda_may_see(monkeypatch: pytest.MonkeyPatch, visible: str, count: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resources.gpus() == count


def test_memory_is_what_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(resources, "LIMITS", (str(limit), str(tmp_path / "none")))
    whole = resources.memory()
    for text, expected in (("max", whole), (str(2**20), 2**20), (str(2**63), whole)):
        limit.write_text(f"{text}\n")
        assert resources.memory() == expected
