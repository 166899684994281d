"""Which modules are in training mode: what is trained, and nothing else; and what is compiled for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bench import parallel
from bench.vit import Vit, as_module, heads

BEFORE_HEAD = ("fc_norm", "head_drop")
"""What has these names in a vision transformer is trained with its head, not with what comes before the blocks."""


def training_mode(model: nn.Module) -> None:
    """Put what is trained into training mode, and all that is frozen into evaluation mode.

    A module is trained if any parameter within it is; one that keeps statistics of what it sees (a batch norm) only if
    all of its own parameters are, so that what is frozen computes the same function at every step, and ends bit for bit
    as it began. What has no parameters (drop-out, stochastic depth) goes with the module that it is a part of.
    """
    _set(model, list(model.parameters()))


def _set(module: nn.Module, around: Sequence[nn.Parameter]) -> None:
    """Set the mode of a module and its parts.

    Args:
        around: parameters that decide where it has none.
    """
    within = list(module.parameters()) or around
    if any(True for _ in module.buffers(recurse=False)):
        own = list(module.parameters(recurse=False)) or within
        module.training = all(parameter.requires_grad for parameter in own)
    else:
        module.training = any(parameter.requires_grad for parameter in within)
    for name, part in module.named_children():
        _set(part, _around(module, name) or within)


def _around(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Parameters that a part without any goes with in a vision transformer; none: all that are around it."""
    if not hasattr(module, "forward_features"):
        return []
    if name in BEFORE_HEAD:
        return [parameter for head in heads(module) for parameter in head.parameters()]
    embeddings = list(module.parameters(recurse=False))
    if isinstance(embedding := getattr(module, "patch_embed", None), nn.Module):
        embeddings += embedding.parameters()
    return embeddings


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, without what was compiled for training; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with _uncompiled():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def compile_blocks(vit: Vit, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let ``torch.compile`` have every block, where training calls it.

    Blocks of a transformer are alike, so that one compilation serves them all: ViT-B takes 11 s on an H100, where the
    whole model takes 26 and its steps are no faster (docs/gpu.md). What was compiled for other models is forgotten:
    torch keeps a few versions of a function, and when these are used up it compiles no more, with a warning at most.

    Args:
        backend: as of ``torch.compile``.
    """
    torch.compiler.reset()
    for block in vit.blocks:
        as_module(block).compile(backend=backend)


def _uncompiled() -> AbstractContextManager[object]:
    """Modules are called as they are, whatever was compiled; nothing was before torch's compiler is imported."""
    compiler = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiler else nullcontext()


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that every rank takes of its own images; a head norm's are those of all ranks."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.training]
    return [value for norm in norms for value in norm.buffers(recurse=False) if value.is_floating_point()]


@torch.no_grad()
def average(statistics: Sequence[Tensor]) -> None:
    """Give all ranks the mean of their running statistics, so that the model is the same on every one of them."""
    if not statistics or parallel.world() == 1:
        return
    together = parallel.mean(torch.cat([value.flatten() for value in statistics]))
    for value, mean in zip(statistics, together.split([value.numel() for value in statistics]), strict=True):
        value.copy_(mean.view_as(value))
