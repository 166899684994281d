"""What a search looks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import model_serializer, model_validator

from bench.spec.parsing import Frozen

Quantity = Literal["mean", "target_accuracy", "source_accuracy", "forgetting"]
"""A search looks at one of a trial's scores, in percent."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

LESS_IS_BETTER = frozenset({"forgetting"})


class Objective(Frozen):
    """One value that turns a trial's scores into what a search maximises; in YAML and JSON the name of a score.

    Scores are those of the trial's own phase: a search sees validation data only.
    """

    quantity: Quantity = "mean"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in QUANTITIES:
            raise ValueError(f"must be one of {', '.join(QUANTITIES)}")
        return {"quantity": value}

    @model_serializer
    def _name(self) -> str:
        return self.quantity

    def __str__(self) -> str:
        return self.quantity

    @property
    def mode(self) -> Literal["max", "min"]:
        """Which direction of the quantity is the better one."""
        return "min" if self.quantity in LESS_IS_BETTER else "max"

    def value(self, scores: Mapping[str, float | None]) -> float | None:
        """What is maximised: larger is better, whatever the quantity; None where the trial has no such score.

        Args:
            scores: a trial's scores by quantity, in percent (see :attr:`bench.records.Record.scores`).
        """
        score = scores.get(self.quantity)
        if score is None:
            return None
        return -score if self.mode == "min" else score
