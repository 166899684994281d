"""Fine-tuning of the last blocks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method
from bench.methods._layers import train_only
from bench.vit import Vit, heads


@dataclass(frozen=True, config=STRICT)
class TopK(Method):
    """The last k blocks and the head are trained; the final norm stays frozen, as in the paper's counts."""

    k: Annotated[int, Field(ge=1, description="blocks to train, counted from the top")] = 3

    def check(self, depth: int) -> None:
        """See :meth:`Method.check`."""
        if self.k > depth:
            raise ValueError(f"top_k: k = {self.k} is more than the backbone's {depth} blocks")

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        self.check(len(vit.blocks))
        return train_only(vit, *vit.blocks[-self.k :], *heads(vit))
