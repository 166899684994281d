"""Parsing what was asked for: strict types, and one sentence for every mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench.spec.characters import printable

LARGEST = 2**63 - 1
"""Integers up to this fit into 64 bits, as tables, tensors and databases hold them."""

Scalar = bool | int | float | str | None
"""A single value, as it stands in YAML and JSON."""


def _of_64_bits(value: Any) -> Any:
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError("an integer must fit into 64 bits")
    return value


Value = Annotated[Scalar | Annotated[tuple[Scalar, ...], Field(strict=False)], AfterValidator(_of_64_bits)]
"""A hyper-parameter has such a value; a list of YAML or JSON is a tuple here."""

LISTED = 40
"""A message lists at most so many names."""

SHOWN = 120
"""A message shows at most so many characters of a value."""


class SpecError(ValueError):
    """A request that cannot be carried out; the message is one sentence a user can act on."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def unknown(kind: str, name: str, known: Iterable[str]) -> SpecError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    listing = f" (known: {', '.join(known)})" if len(known) <= LISTED else ""
    return SpecError(f"unknown {kind} {shown(name)}{hint}{listing}")


class Frozen(BaseModel):
    """Base of every specification: immutable, strictly typed, and a field it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Spec = TypeVar("Spec", bound=Frozen)


def parse(model: type[Spec], values: Mapping[str, Any], *, where: str) -> Spec:
    """Build a specification from plain values, as they come out of YAML.

    Args:
        model: the specification's class.
        values: its fields.
        where: what is being read, for the message ("search_spaces/lora.yaml").

    Raises:
        SpecError: an unknown field, a wrong type or a value out of range; the first of them is named.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One sentence for the first thing that pydantic found wrong."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _owner(model, path[:-1])
        return str(unknown("field", ".".join(path), [".".join([*path[:-1], name]) for name in owner]))
    if first["type"] == "missing":
        return f"field {shown('.'.join(path))} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if not path:
        return message
    if "bool" in path:  # pydantic names each member of Value that did not fit
        path = path[: path.index("bool")]
        message = "must be a finite number, a text, true, false, empty, or a list of these"
    return f"{'.'.join(path)} = {shown(first['input'])}: {message[0].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """A value that is wrong, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def readable(value: Any, digits: int | None = None) -> str:
    """A hyper-parameter's value for people: lists with commas, floats with so many digits (all of them if None)."""
    if isinstance(value, tuple | list):
        return ",".join(readable(one, digits) for one in value)
    return f"{value:.{digits}g}" if digits is not None and isinstance(value, float) else str(value)


def number_type(annotation: Any) -> type[int] | type[float] | None:
    """Which numbers a field of some type takes: ``float`` if any number does, ``int``, or None if none does."""
    inner = get_args(annotation)
    kinds = {annotation} if not inner else {number_type(one) for one in inner}
    return float if float in kinds else int if int in kinds else None


def _owner(model: type[BaseModel], path: list[str]) -> Iterable[str]:
    """Names of the fields of the specification that ``path`` leads to, as far as it can be followed."""
    for part in path:
        field = model.model_fields.get(part)
        inner = next(filter(_is_model, (field.annotation, *get_args(field.annotation))), None) if field else None
        model = inner or model
    return model.model_fields


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
