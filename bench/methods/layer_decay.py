"""Layer-wise learning-rate decay (Clark et al. 2020, arXiv 2003.10555; for ViTs Bao et al. 2021, arXiv 2106.08254)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Group, Method

if TYPE_CHECKING:
    from bench.vit import Vit


AFTER_BLOCKS = ("cls_attn_blocks", "blocks_token_only", "norm", "fc_norm", "attn_pool", "head", "head_dist")
"""These parts of timm's vision transformers come after the blocks; all others come before them."""


@dataclass(frozen=True, config=STRICT)
class LayerDecay(Method):
    """Every parameter is trained, the lower ones more slowly.

    Of L blocks the i-th from below (from 1) learns at ``lr * decay ** (L + 1 - i)``, the embeddings as a block below
    the first one, and what comes after the blocks at ``lr``.
    """

    decay: Annotated[float, Field(gt=0, le=1, description="learning rate of a layer over that of the next")] = 0.65

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        return vit.requires_grad_(True)

    def groups(self, vit: Vit) -> Sequence[Group]:
        """See :meth:`Method.groups`."""
        above = len(vit.blocks) + 1
        layers: dict[int, list[str]] = {}
        named = dict(vit.named_parameters())
        for name in named:
            layers.setdefault(_layer(name, above), []).append(name)
        return [
            Group([named[name] for name in names], self.decay ** (above - layer))
            for layer, names in sorted(layers.items())
        ]


def _layer(name: str, above: int) -> int:
    """Which layer a parameter belongs to: 0 for the embeddings, then the blocks from 1, then what comes after them."""
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0]) + 1
    return above if part in AFTER_BLOCKS else 0
