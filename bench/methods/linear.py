"""Linear probing."""

from __future__ import annotations

from typing import Any

from pydantic.dataclasses import dataclass

from bench.methods import STRICT, Method, train_only


@dataclass(frozen=True, config=STRICT)
class Linear(Method):
    """The head alone is trained."""

    def apply(self, vit: Any) -> Any:
        """See :meth:`Method.apply`."""
        return train_only(vit, vit.head)
