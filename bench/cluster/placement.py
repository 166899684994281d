"""Room that is reserved for worker groups nobody holds any more."""

from __future__ import annotations

from typing import Any

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_orphans() -> None:
    """Remove the placement groups of this launch whose creator, a controller of Ray Train, has died.

    Ray removes a placement group when its creator *and* the driver have gone. Ray Train leaves it to an actor of its
    own that asks Ray's dashboard who lives, and a launch starts none.
    """
    job = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        if orphaned(group, job):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def orphaned(group: Any, job: str) -> bool:
    """Whether a placement group, as Ray's store holds it, is still there though an actor of a job made it and died."""
    gone = group.state == PlacementGroupTableData.REMOVED or group.is_detached
    return group.creator_job_id.hex() == job and group.creator_actor_dead and not gone
