"""Ray Train's TorchTrainer without the processes that a slot has no use for."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""Each starts a process for every worker group: one deals out the sets of Ray Data, of which a slot has none; the other
frees what a dead controller had reserved, which needs Ray's dashboard (:mod:`bench.cluster.placement` does without)."""


class LeanTrainer(TorchTrainer):
    """As Ray's, with fewer processes; should Ray ask another method for its callbacks, it has as many as Ray's."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc] # Ray's types know its first version only
        return [one for one in callbacks if not isinstance(one, UNUSED)]
