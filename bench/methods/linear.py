"""Linear probing."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method
from bench.methods._layers import train_only
from bench.vit import Vit, heads


@dataclass(frozen=True, config=STRICT)
class Linear(Method):
    """The head alone is trained."""

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        return train_only(vit, *heads(vit))
