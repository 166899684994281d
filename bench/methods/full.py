"""Full fine-tuning."""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass

from bench.methods import STRICT, Method


@dataclass(frozen=True, config=STRICT)
class Full(Method):
    """Every parameter is trained."""

    def apply(self, vit: Any) -> Any:
        """See :meth:`Method.apply`."""
        return vit.requires_grad_(True)
