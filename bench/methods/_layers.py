"""What methods do to the layers of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.vit import Vit

    AtOnce = Callable[[torch.Tensor, tuple[Any, ...]], torch.Tensor | None]


def train_only(vit: Vit, *parts: nn.Module | Any) -> Vit:
    """Freeze a model except for some of its modules; returns the model."""
    vit.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    return vit


def find(module: Any, path: str) -> Any:
    """The part of a module that a dotted name leads to; None if there is none."""
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def split_qkv(qkv: Any, at_once: AtOnce) -> nn.Module:
    """A module that computes what a fused linear layer does, from three linear layers ``q``, ``k`` and ``v``.

    Args:
        at_once: computes all three outputs side by side where it knows how to, and returns None elsewhere.
    """
    split: nn.Module = _split()(tuple(_linear(qkv, part) for part in range(3)), at_once)
    return split


@functools.cache
def _split() -> type[Any]:
    """One class for all blocks: ``torch.compile`` takes blocks for alike if their classes are the same."""
    import torch
    from torch import nn

    class SplitQkv(nn.Module):
        def __init__(self, layers: tuple[nn.Linear, ...], at_once: AtOnce) -> None:
            super().__init__()
            self.q, self.k, self.v = layers
            self._at_once = at_once

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = (self.q, self.k, self.v)
            together = self._at_once(x, parts)
            return torch.cat([part(x) for part in parts], dim=-1) if together is None else together

    return SplitQkv


def _linear(qkv: Any, part: int) -> nn.Linear:
    """A linear layer with one third of a fused layer's outputs."""
    from torch import nn

    width = qkv.out_features // 3
    rows = slice(part * width, (part + 1) * width)
    linear = nn.Linear(qkv.in_features, width, bias=qkv.bias is not None, device="meta")
    linear.weight = nn.Parameter(qkv.weight.detach()[rows].clone(), requires_grad=False)
    if qkv.bias is not None:
        linear.bias = nn.Parameter(qkv.bias.detach()[rows].clone(), requires_grad=False)
    return linear


def fuse_qkv(split: Any) -> nn.Module:
    """The inverse of :func:`split_qkv`."""
    import torch
    from torch import nn

    parts = [split.q, split.k, split.v]
    width = split.q.out_features
    qkv = nn.Linear(split.q.in_features, 3 * width, bias=split.q.bias is not None, device="meta")
    qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
    if split.q.bias is not None:
        qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))
    return qkv
