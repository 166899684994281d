"""Fine-tuning methods, one file each: the folder is the registry.

A method is a frozen dataclass whose fields are its hyper-parameters. It turns a timm vision transformer that has its
fresh head into one that is ready to train (:meth:`Method.apply`), and a trained one into plain timm modules again
(:meth:`Method.merge`). A new method is one new file in this folder; it shows up everywhere, and the contract tests run
over it. Where a method needs more than that, it overrides another part of :class:`Method`: a term of the loss, learning
rates by group, models that follow from the trained one. Importing this package brings in no torch, timm or peft.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from bench.methods._base import STRICT, Group, Method, Step, has_loss, has_variants, trainable, trainable_parameters
from bench.methods._layers import train_only
from bench.spec import SpecError, unknown

__all__ = [
    "STRICT",
    "FieldDoc",
    "Group",
    "Method",
    "Step",
    "fields",
    "get",
    "has_loss",
    "has_variants",
    "load",
    "names",
    "summary",
    "train_only",
    "trainable",
    "trainable_parameters",
]


@dataclass(frozen=True)
class FieldDoc:
    """A hyper-parameter as ``--list`` shows it."""

    type: Any
    default: Any
    doc: str


def names() -> list[str]:
    """Names of all methods."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@functools.cache
def get(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in names():
        raise unknown("method", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise TypeError(f"{module.__name__} must define one subclass of Method, not {len(own)}")
    return own[0]


def load(name: str, **values: Any) -> Method:
    """A method with its hyper-parameters.

    Raises:
        SpecError: the method or a field does not exist, or a value has the wrong type or range.
    """
    method, known = get(name), fields(name)
    for field in values:
        if field not in known:
            raise unknown(f"field of {name}", field, known)
    try:
        return method(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SpecError(f"{name}: {message}") from None
        field = str(first["loc"][0])
        if first["type"] == "missing":
            raise SpecError(f"{name} needs a value for {field!r} ({known[field].doc})") from None
        message = (message[0].lower() + message[1:]).replace("a valid tuple", "a list")
        raise SpecError(f"{name}: {field} = {values.get(field)!r}: {message}") from None


def fields(name: str) -> Mapping[str, FieldDoc]:
    """The hyper-parameters of a method, in order."""
    method = get(name)
    infos: Mapping[str, FieldInfo] = getattr(method, "__pydantic_fields__")  # noqa: B009 - pydantic adds it
    return {
        field.name: FieldDoc(
            infos[field.name].annotation, infos[field.name].get_default(), infos[field.name].description or ""
        )
        for field in dataclasses.fields(method)  # type: ignore[arg-type]
    }


def summary(name: str) -> str:
    """The first line of a method's docstring."""
    return (get(name).__doc__ or "").strip().splitlines()[0]
