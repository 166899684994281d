"""Process groups of one machine that meet in a file: torch's own store listens on all addresses and trusts everyone."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


class _FileBackend(_TorchBackend):
    """As Ray's, but for the place where the ranks meet."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Make the process group, on every rank at once."""
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


@dataclass
class FileConfig(TorchConfig):
    """Ray Train's configuration of a process group that meets in a new file of a folder."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What makes the group."""
        return _FileBackend
