"""Room on the disk that a launch needs is asked for before it starts."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from bench.launching import plans, preflight
from bench.launching.changes import assignment
from bench.launching.request import Request
from bench.spec import SpecError

usage = namedtuple("usage", "total used free")


@pytest.mark.parametrize(
    ("backbone", "free", "needed"),
    [("tiny", 2, "3 MiB"), ("vit_tiny_patch16_224", 20, None), ("vit_base_patch16_224", 300, "657 MiB")],
)
def test_a_disk_with_too_little_room_is_refused(
    backbone: str, free: int, needed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [f"results={tmp_path}", "trials=10", "seeds=[0]", f"backbone.name={backbone}"]
    changes += [] if backbone == "tiny" else ["backbone.weights=random"]
    study = "linear" if needed is None else "full"
    launch = preflight.prepare(Request.of(study, "tiny", map(assignment, changes)))
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(2**40, 2**40, free * 2**20))
    if needed is None:
        preflight.check_room(launch)
        return
    with pytest.raises(SpecError, match=f"^{free} MiB are free in {tmp_path}, and this launch needs {needed} there"):
        preflight.check_room(launch)


def test_tensors_are_counted_for_every_row_and_seed(tmp_path: Path) -> None:
    changes = [f"results={tmp_path}", "seeds=[0, 1, 2]"]
    launch = preflight.prepare(Request.of("linear", "tiny", map(assignment, changes)))
    assert plans.checkpoint_bytes(launch.suite, launch.benchmark) == 3 * 4 * 650
