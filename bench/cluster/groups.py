"""Process groups: the node of every rank is looked at before torch is, and on one machine the ranks meet in a file.

torch's own meeting place listens on all addresses and trusts everyone. Ray's configuration of a process group brings
torch into every controller, which only passes it on; this one leaves torch to the workers.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._common.network_utils import build_address  # type: ignore[attr-defined]
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.util import TrainingFramework

from bench.cluster.inspection import Needs, Passing, Refused, Seen, look

log = logging.getLogger(__name__)

PART_SECONDS = 30.0
"""The ranks of a group have so long to part."""


class _Backend(Backend):
    """As Ray's for torch, but for what comes before, for the place where the ranks meet, and for who imports torch."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Look at the nodes and make the process group, on every rank at once.

        Raises:
            Refused: a node lacks something.
        """
        try:
            if backend_config.needs is not None:
                refuse(worker_group.execute(look, backend_config.needs))
            self._meet(worker_group, backend_config)
        except Exception:
            worker_group.abort()  # of a group that fails here Ray Train would keep processes and room
            raise

    def _meet(self, worker_group: Any, backend_config: Any) -> None:
        if backend_config.folder:
            place = Path(backend_config.folder, f"group-{uuid.uuid4().hex}").as_uri()
        else:
            place = f"tcp://{build_address(*worker_group.execute_single(0, get_address_and_port))}"
        given = {
            "backend": backend_config.backend,
            "world_size": len(worker_group),
            "init_method": place,
            "timeout_s": backend_config.timeout_s,
        }
        ranks = range(len(worker_group))
        ray.get([worker_group.execute_single_async(rank, meet, world_rank=rank, **given) for rank in ranks])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let the ranks part."""
        parting = worker_group.execute_async(part, destroy_process_group=len(worker_group) > 1)
        try:
            ray.get(parting, timeout=PART_SECONDS)
        except ray.exceptions.GetTimeoutError:
            log.warning("the ranks of a process group did not part within %.0f s", PART_SECONDS)


def meet(**given: Any) -> None:
    """Join a process group, on a worker; ``given`` is what Ray's own function for that is given."""
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    _set_torch_distributed_env_vars()
    _setup_torch_process_group(**given)


def part(**given: Any) -> None:
    """Leave a process group, on a worker; ``given`` is what Ray's own function for that is given."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(**given)


@contextmanager
def on_own_device() -> Iterator[None]:
    """A worker's own GPU is torch's current one, as with Ray."""
    from ray.train.torch.config import TorchConfigContextManager

    with TorchConfigContextManager():
        yield


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
class GroupConfig(BackendConfig):
    """Ray Train's configuration of a process group for torch.

    Without ``needs`` nodes are not looked at; with a ``folder`` the ranks meet in a new file there. Ray's trainer fills
    in ``backend``; a rank waits for the others for at most ``timeout_s`` seconds.
    """

    needs: Needs | None = None
    folder: str = ""
    backend: str | None = None
    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[Backend]:
        """What makes the group."""
        return _Backend

    @property
    def train_func_context(self) -> Any:
        """In what a worker trains."""
        return on_own_device

    @property
    def framework(self) -> Any:
        """What Ray's records call it."""
        return TrainingFramework.TORCH
