"""A slot: what every worker of a group runs. Its processes, imports, weights, data and process group outlive trials."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

import ray

from bench import records
from bench.readings import Point


def serve(config: Mapping[str, Any]) -> None:
    """What every worker of a slot runs: take a trial, train it, post the result, until the board closes."""
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device
    from safetensors.torch import save

    from bench import trial as trials

    torch.set_num_threads(1)  # a slot a core beats threads, and results do not depend on the machine's size
    board, slot = config["board"], config["slot"]
    first, world = get_context().get_world_rank() == 0, get_context().get_world_size()
    device = get_device()

    def take() -> Any:
        return ray.get(board.take.remote(slot)) if first else None

    while (task := _share(take())) != "close":
        if task == "wait":
            continue
        # What is here now, modules and caches, stays: a trial's own garbage is then found in no time.
        gc.freeze()
        ticket, trial = task
        start = time.perf_counter()

        def report(point: Point, ticket: int = ticket) -> None:
            if _share(ray.get(board.report.remote(slot, ticket, point)) if first else None):
                raise trials.TrialStopped

        weights: list[Any] = []

        def keep(tensors: Mapping[str, Any], weights: list[Any] = weights) -> None:
            weights.append(ray.put(save(dict(tensors))))

        try:
            record = trials.run(trial, report, device=device, keep=keep if trial.phase == "confirm" else None)
        except Exception as error:
            ray.get(board.finish.remote(slot, ticket, records.failed(trial, error)))
            if world > 1:  # the other ranks may be waiting in a collective: only a new worker group is safe
                raise
            continue
        if first:
            ray.get(board.finish.remote(slot, ticket, record, weights, time.perf_counter() - start))


def _share(value: Any) -> Any:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
