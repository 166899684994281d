"""The process group around a trial, as far as training and evaluation need it. Without one there is one rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def of_first(value: Any) -> Any:
    """Rank 0's value, which must pickle, on every rank."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def of_all(value: Any) -> list[Any]:
    """The values of all ranks by rank, which must pickle, on every rank."""
    if world() == 1:
        return [value]
    box: list[Any] = [None] * world()
    dist.all_gather_object(box, value)
    return box


def mine(count: int) -> Tensor:
    """Indices of ``0 .. count-1`` that this rank works on, int64; over all ranks each index comes exactly once."""
    return torch.arange(count)[rank() :: world()]


def gather(rows: Tensor, count: int) -> Tensor:
    """Put together what every rank computed for its :func:`mine` indices.

    Args:
        rows: this rank's results ``[len(mine(count)), ...]``.
        count: how many there are over all ranks.

    Returns:
        ``[count, ...]`` in index order, the same on every rank.
    """
    if world() == 1:
        return rows
    share = -(-count // world())  # ranks may differ by one row; the padding is cut off again below
    padded = rows.new_zeros(share, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:count]


def side_by_side(values: Tensor) -> Tensor:
    """The ranks' tensors ``[n, k]`` as one ``[n, k * ranks]``, the same on every rank."""
    if world() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts, dim=1)


def everywhere(flag: bool, device: torch.device) -> bool:
    """Whether something holds on every rank; all of them get the same answer.

    Args:
        device: what the process group communicates from.
    """
    if world() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return bool(value)


def mean(values: Tensor) -> Tensor:
    """Element-wise mean over the ranks."""
    if world() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world()


def mean_with_gradient(values: Tensor) -> Tensor:
    """Like :func:`mean`, for values that gradients flow through; each rank must hold equally many of them."""
    if world() == 1:
        return values
    from torch.distributed.nn.functional import all_reduce

    return torch.as_tensor(all_reduce(values)) / world()
