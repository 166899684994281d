"""Which placement groups are removed, among those that Ray's store tells of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData

from bench.cluster import placement

OWN, OTHER = b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"
CREATOR, DRIVER = b"\x07" * 16, b"\xff" * 16


def group(number: int, **fields: object) -> bytes:
    """A placement group of a controller that has died, as the store gives it."""
    creator = {"creator_job_id": OWN, "creator_actor_id": CREATOR, "creator_actor_dead": True}
    values = {"state": PlacementGroupTableData.CREATED, **creator, **fields}
    return PlacementGroupTableData(placement_group_id=bytes([number] * 18), **values).SerializeToString()


def test_room_that_a_dead_controller_had_reserved_is_freed_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [
        group(1),
        group(2, creator_actor_dead=False),
        group(3, creator_job_id=OTHER),
        group(4, state=PlacementGroupTableData.REMOVED),
        group(5, is_detached=True),
        group(6, state=PlacementGroupTableData.PENDING),
        group(7, creator_actor_id=DRIVER),
    ]
    removed: list[str] = []
    accessor = SimpleNamespace(get_placement_group_table=lambda: there)
    monkeypatch.setattr(placement.state, "_connect_and_get_accessor", lambda: accessor)
    monkeypatch.setattr(placement.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=OWN.hex))
    monkeypatch.setattr(placement, "remove_placement_group", lambda group: removed.append(group.id.hex()))
    placement.free_orphans()
    assert removed == ["01" * 18, "06" * 18]
