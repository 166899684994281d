"""Process groups: the node of every rank is looked at before torch is, and on one machine the ranks meet in a file.

torch's own meeting place listens on all addresses and trusts everyone.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from bench.cluster.inspection import Needs, Passing, Refused, Seen, look


class _Backend(_TorchBackend):
    """As Ray's, but for what comes before, and for the place where the ranks meet."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Look at the nodes and make the process group, on every rank at once.

        Raises:
            Refused: a node lacks something.
        """
        try:
            if backend_config.needs is not None:
                refuse(worker_group.execute(look, backend_config.needs))
            if backend_config.folder:
                self._meet_in_file(worker_group, backend_config)
            else:
                super().on_start(worker_group, backend_config)
        except Exception:
            worker_group.abort()  # of a group that fails here Ray Train would keep processes and room
            raise

    def _meet_in_file(self, worker_group: Any, backend_config: Any) -> None:
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        meeting = Path(backend_config.folder, f"group-{uuid.uuid4().hex}")
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend="nccl" if gpus else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=meeting.as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )


def refuse(seen: list[Seen]) -> None:
    """Raise if a rank has seen that its node lacks something.

    Raises:
        Refused: with a sentence on each such node.
    """
    lacking = [one for one in seen if one.lacks]
    if lacking:
        sentences = dict.fromkeys(one.sentence for one in lacking)
        may_pass = all(isinstance(fault, Passing) for one in lacking for fault in one.lacks)
        raise Refused("; ".join(sentences), frozenset(one.node for one in lacking), may_pass)


@dataclass
class GroupConfig(TorchConfig):
    """Ray Train's configuration of a process group.

    Without ``needs`` nodes are not looked at; with a ``folder`` the ranks meet in a new file there.
    """

    needs: Needs | None = None
    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What makes the group."""
        return _Backend
