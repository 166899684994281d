"""What a search looks for: one score, one score under constraints, or several scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, model_serializer, model_validator

from bench.spec.parsing import Frozen, readable, shown

Quantity = Literal["mean", "target_accuracy", "source_accuracy", "forgetting"]
"""A search looks at one of a trial's scores, in percent."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

LESS_IS_BETTER = frozenset({"forgetting"})

Mode = Literal["max", "min"]

EXAMPLE = "{maximise: target_accuracy, subject_to: {forgetting: {max: 2}}}"


NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"


class Constraint(Frozen):
    """A limit that a score must keep: at most (``max``) or at least (``min``) ``bound``, in percent."""

    quantity: Quantity
    side: Mode
    bound: float

    def __str__(self) -> str:
        return f"{self.quantity} {'<=' if self.side == 'max' else '>='} {readable(self.bound, 15)}"

    def excess(self, score: float) -> float:
        """By how many points a score is beyond the limit; 0 or below where it keeps it."""
        return score - self.bound if self.side == "max" else self.bound - score


class Objective(Frozen):
    """What a search looks for in a trial's scores.

    In YAML and JSON it is the name of a score (``mean``), a list of several, all of which are to be good at once, or
    one under constraints: ``{maximise: target_accuracy, subject_to: {forgetting: {max: 2}}}`` (``minimise`` for a score
    of which less is better). Scores are those of the trial's own phase: a search sees validation data only.
    """

    quantity: Quantity
    others: tuple[Quantity, ...] = Field(default=(), strict=False)
    """Further scores that are to be good; then the answer is a front, and no single trial is the best."""
    subject_to: tuple[Constraint, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"quantity": _known(value)}
        if isinstance(value, list | tuple):
            return _several(value)
        if isinstance(value, Mapping) and not set(value) & set(cls.model_fields) - {"subject_to"}:
            return _constrained(value)
        return value

    @model_serializer
    def _as_written(self) -> str | list[str] | dict[str, Any]:
        if self.others:
            return list(self.quantities)
        if not self.subject_to:
            return self.quantity
        limits: dict[str, dict[str, float]] = {}
        for one in self.subject_to:
            limits.setdefault(one.quantity, {})[one.side] = one.bound
        return {f"{self.mode}imise": self.quantity, "subject_to": limits}

    def __str__(self) -> str:
        several = " and ".join(self.quantities)
        return f"{several} subject to {' and '.join(map(str, self.subject_to))}" if self.subject_to else several

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The scores that are to be good, one or several."""
        return (self.quantity, *self.others)

    @property
    def mode(self) -> Mode:
        """Which direction of the (first) quantity is the better one."""
        return _mode(self.quantity)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Which direction of every quantity is the better one."""
        return tuple(map(_mode, self.quantities))

    def value(self, scores: Mapping[str, float | None]) -> float | None:
        """The first quantity as it is maximised: larger is better; None where the trial has no such score.

        Args:
            scores: a trial's scores by quantity, in percent (see :attr:`bench.records.Record.scores`).
        """
        return _maximised(self.quantity, scores)

    def values(self, scores: Mapping[str, float | None]) -> tuple[float, ...] | None:
        """All quantities as they are maximised: larger is better; None where the trial lacks one of them.

        Args:
            scores: see :meth:`value`.
        """
        values = [value for name in self.quantities if (value := _maximised(name, scores)) is not None]
        return tuple(values) if len(values) == len(self.quantities) else None

    def excesses(self, scores: Mapping[str, float | None]) -> tuple[float, ...] | None:
        """By how many points each constraint is exceeded (kept: 0 or below); None where the trial lacks a score of one.

        Args:
            scores: see :meth:`value`.
        """
        found = [one.excess(score) for one in self.subject_to if (score := scores.get(one.quantity)) is not None]
        return tuple(found) if len(found) == len(self.subject_to) else None

    def merit(self, scores: Mapping[str, float | None]) -> tuple[float, float] | None:
        """What orders trials by the first quantity: larger is better; None where a score is missing.

        Whatever keeps all constraints comes before what does not, and that in the order of the sum of its excesses.

        Args:
            scores: see :meth:`value`.
        """
        value, excesses = self.value(scores), self.excesses(scores)
        if value is None or excesses is None:
            return None
        return -sum(max(0.0, excess) for excess in excesses), value


def bound_in(objective: str, quantity: Quantity, side: Mode) -> float | None:
    """The limit on a score, in percent, in an objective as records hold it (its ``str``); None if it has none."""
    limits = objective.partition(" subject to ")[2].split(" and ")
    sign = "<=" if side == "max" else ">="
    found = [match for limit in limits if (match := re.fullmatch(rf"{quantity} {sign} ({NUMBER})", limit))]
    return float(found[0][1]) if found else None


def _mode(quantity: Quantity) -> Mode:
    return "min" if quantity in LESS_IS_BETTER else "max"


def _maximised(quantity: Quantity, scores: Mapping[str, float | None]) -> float | None:
    score = scores.get(quantity)
    if score is None:
        return None
    return -score if _mode(quantity) == "min" else score


def _known(name: Any) -> Any:
    if name not in QUANTITIES:
        raise ValueError(f"must be one of {', '.join(QUANTITIES)}, a list of several of them, or {EXAMPLE}")
    return name


def _several(names: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    known = [_known(name) for name in names]
    if len(known) < 2 or len(set(known)) < len(known):
        raise ValueError("a list must name at least two scores, each once; a single one is written without brackets")
    return {"quantity": known[0], "others": known[1:]}


def _constrained(value: Mapping[Any, Any]) -> dict[str, Any]:
    """What ``maximise`` or ``minimise`` and ``subject_to`` say."""
    goals = [name for name in ("maximise", "minimise") if name in value]
    if len(goals) != 1 or set(value) != {goals[0], "subject_to"}:
        raise ValueError(f"write a score, a list of scores, or a score under constraints such as {EXAMPLE}")
    if not isinstance(value[goals[0]], str):
        raise ValueError(f"{goals[0]} names one score: several cannot be searched under constraints")
    quantity = _known(value[goals[0]])
    if goals[0] != f"{_mode(quantity)}imise":
        raise ValueError(f"write {_mode(quantity)}imise: {quantity}, as that is the better direction")
    limits = value["subject_to"]
    if not isinstance(limits, Mapping) or not limits:
        raise ValueError("subject_to must say which scores have which limits, such as {forgetting: {max: 2}}")
    return {"quantity": quantity, "subject_to": [one for name in limits for one in _limits(name, limits[name])]}


def _limits(name: Any, given: Any) -> list[dict[str, Any]]:
    """The constraints on one score; whoever writes a limit that every trial keeps, or none, has mistaken it."""
    if name not in QUANTITIES:
        raise ValueError(f"subject_to.{name}: must be one of {', '.join(QUANTITIES)}")
    if not isinstance(given, Mapping) or not given or not set(given) <= {"min", "max"}:
        raise ValueError(f"subject_to.{name} must have min, max, or both, such as {{max: 2}}, not {shown(given)}")
    lowest, highest = (-100 if name in LESS_IS_BETTER else 0), 100
    for side, bound in given.items():
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not number or not math.isfinite(bound) or not lowest <= bound <= highest:
            raise ValueError(
                f"subject_to.{name}.{side} = {shown(bound)}: must be a number from {lowest} to {highest}, in percent"
            )
    if given.get("min", lowest) > given.get("max", highest):
        raise ValueError(f"subject_to.{name}: min = {given['min']} is above max = {given['max']}")
    return [{"quantity": name, "side": side, "bound": float(bound)} for side, bound in given.items()]
