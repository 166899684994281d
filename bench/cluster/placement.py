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
    """Whether a placement group, as Ray's store holds it, is still there though the actor of a job that made it died.

    One that a driver has made, as Tune's, has no such actor, which Ray's store calls dead all the same.
    """
    gone = group.state == PlacementGroupTableData.REMOVED or group.is_detached
    died = group.creator_actor_dead and not ray.ActorID(group.creator_actor_id).is_nil()
    return died and group.creator_job_id.hex() == job and not gone
