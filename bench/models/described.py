"""Modules as text: what they do with their tensors, the same in every process."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def described(module: nn.Module, *, recurse: bool = True) -> Iterator[str | memoryview]:
    """A module's parts with their settings, and its tensors: two of which all that is equal compute the same.

    Args:
        recurse: with all parts and tensors; else of the module itself, without its tensors.
    """
    for name, part in module.named_modules() if recurse else [("", module)]:
        yield f"{name} {settings(part)}"
    if recurse:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        yield from (f"{name} {value.dtype} {tuple(value.shape)}" for name, value in tensors)
        yield from values_of(value for _, value in tensors)


def settings(module: nn.Module) -> str:
    """Class and settings of a single module; whether it trains is none of them."""
    kind = type(module)
    own = {key: _plain(value) for key, value in sorted(vars(module).items()) if key[0] != "_" and key != "training"}
    return f"{kind.__module__}.{kind.__qualname__} {own} {module.extra_repr()}"


def values_of(tensors: Iterable[Tensor]) -> Iterator[memoryview]:
    """The bytes of tensors."""
    for value in tensors:
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _plain(value: Any) -> str:
    """A setting of a module as text, the same in every process; of objects only their class."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_plain(own)}' for key, own in value.items())}}}"
    if isinstance(value, functools.partial):
        return f"{_plain(value.func)}{_plain(value.args)}{_plain(value.keywords)}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
