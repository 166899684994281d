"""Full fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method

if TYPE_CHECKING:
    from bench.vit import Vit


@dataclass(frozen=True, config=STRICT)
class Full(Method):
    """Every parameter is trained."""

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        return vit.requires_grad_(True)
