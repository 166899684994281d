"""Block expansion (Bafghi et al. 2024, arXiv 2404.17245, section 3; LLaMA Pro, Wu et al. 2024, arXiv 2401.02415)."""

from __future__ import annotations

import copy
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method
from bench.methods._layers import train_only
from bench.vit import Vit, heads

PARTS = ("norm1", "attn", "ls1", "norm2", "mlp", "ls2")
"""A pre-norm block consists of these."""


@dataclass(frozen=True, config=STRICT)
class BlockExpansion(Method):
    """p new blocks that start as the identity are trained with the head; the original blocks stay frozen.

    The L original blocks form p groups of L / p; after each group comes a copy of its last block whose two residual
    branches end in zeros (attention projection and second MLP layer, weights and biases), so that at first it passes
    its input on unchanged.
    """

    p: Annotated[int, Field(ge=1, description="blocks to insert; divides the backbone's depth")] = 3

    def check(self, depth: int) -> None:
        """See :meth:`Method.check`."""
        if depth % self.p:
            good = [p for p in range(1, depth + 1) if depth % p == 0]
            raise ValueError(
                f"block_expansion: p = {self.p} does not divide the backbone's {depth} blocks into equal groups "
                f"(possible: {', '.join(map(str, good))})"
            )

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        from torch import nn

        self.check(len(vit.blocks))
        if getattr(vit, "rope_mixed", False):
            raise ValueError(
                "block_expansion: this backbone has position embeddings of its own for each of its blocks and none for "
                "new ones; this architecture is not supported"
            )
        group = len(vit.blocks) // self.p
        blocks: list[nn.Module] = []
        inserted: list[nn.Module] = []
        for number, block in enumerate(vit.blocks, start=1):
            blocks.append(block)
            if number % group == 0:
                inserted.append(_identity_copy(block))
                blocks.append(inserted[-1])
        vit.blocks = nn.Sequential(*blocks)
        return train_only(vit, *inserted, *heads(vit))


def _identity_copy(block: Any) -> Any:
    """A copy of a pre-norm block whose residual branches give zero."""
    _check_parts(block)
    new = copy.deepcopy(block)
    for layer in (_last_linear(new, "attn", ("proj",)), _last_linear(new, "mlp", ("fc2", "w3"))):
        layer.weight.data.zero_()
        if layer.bias is not None:
            layer.bias.data.zero_()
    return new


def _check_parts(block: Any) -> None:
    """Refuse a block of which zeros in its two branches do not make the identity."""
    parts = [name for name, part in block.named_children() if any(True for _ in part.parameters())]
    why = ""
    if others := [name for name in parts if name not in PARTS]:
        why = f"has a branch {others[0]} besides attention and MLP"
    elif {"attn", "norm1"} <= set(parts) and parts.index("attn") < parts.index("norm1"):
        why = "has its norms behind its branches"
    if why:
        raise ValueError(
            f"block_expansion: a {type(block).__name__} {why}, so its copy would change the model's function; this "
            f"architecture is not supported"
        )


def _last_linear(block: Any, branch: str, candidates: tuple[str, ...]) -> Any:
    """The layer whose output a residual branch adds to the stream."""
    module = getattr(block, branch, None)
    for name in candidates:
        layer = getattr(module, name, None)
        if hasattr(layer, "weight"):
            return layer
    raise ValueError(
        f"block_expansion: a {type(block).__name__} has no {branch}.{' or .'.join(candidates)} to start at zero, so "
        f"its copy would change the model's function; this architecture is not supported"
    )
