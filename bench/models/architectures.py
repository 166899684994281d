"""Architectures: timm's vision transformers with a class token, and the embedded one; without weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.spec import Backbone, SpecError, unknown
from bench.spec.aliases import ALIASES

if TYPE_CHECKING:
    from bench.vit import Vit

TINY = Backbone(name="tiny")
TINY_ARCHITECTURE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 12,
    "num_heads": 2,
}

PARTS: dict[str, Any] = {
    "blocks": nn.Sequential | nn.ModuleList,
    "patch_embed": nn.Module,
    "norm": nn.Module,
    "head": nn.Linear | nn.Identity,
}
"""A vision transformer has these; an architecture that calls something else so is none."""

FILLS = frozenset(
    getattr(Tensor, name) for name in ("add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_")
) | {nn.init.constant_, nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_}
"""With these, weights are initialised in place."""


class _Unfilled(TorchFunctionMode):
    """Leaves the values of tensors that have none alone: initialising takes torch longer than all else does there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in FILLS and (filled := args[0] if args else given["tensor"]).is_meta:
            return filled
        return func(*args, **given)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models that are built here have shapes and no values: they take no memory, and little time."""
    with torch.device("meta"), _Unfilled():
        yield


@functools.cache
def depth(backbone: Backbone) -> int:
    """Number of transformer blocks."""
    with shapes_only():
        return len(plain(backbone, num_classes=0).blocks)


def plain(backbone: Backbone, *, num_classes: int, depth: int | None = None) -> Vit:
    """The untrained architecture of a backbone, made deeper if ``depth`` says so.

    Raises:
        SpecError: timm has no such model, or it is no vision transformer.
    """
    import timm

    if backbone.name == "tiny":
        architecture = TINY_ARCHITECTURE | ({"depth": depth} if depth else {})
        tiny = timm.models.vision_transformer.VisionTransformer(**architecture, num_classes=num_classes)
        return cast("Vit", tiny)
    name = timm_name(backbone.name)
    given = options(backbone, depth)
    try:
        vit = cast("Vit", timm.create_model(name, num_classes=num_classes, **given))
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        how = f" with {_arguments(given)}" if given else ""
        silent = f"timm says no more than {type(error).__name__}; another --image-size may do"
        raise SpecError(f"backbone {name!r} cannot be built{how}: {_first_line(error) or silent}") from None
    if not all(isinstance(getattr(vit, part, None), kind) for part, kind in PARTS.items()) or not _prefixed(vit):
        raise SpecError(f"backbone {name!r} is no vision transformer with a class token: choose one with such a token")
    if getattr(vit, "cls_token", None) is None:
        raise SpecError(f"backbone {name!r} has no class token, whose feature is probed: choose one with such a token")
    if isinstance(vit.norm, nn.Identity) and isinstance(getattr(vit, "fc_norm", vit.norm), nn.Identity):
        raise SpecError(f"backbone {name!r} has no norm after its blocks, so its features are not defined here")
    return vit


def _first_line(error: BaseException) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), "")


def _prefixed(vit: Vit) -> bool:
    """Whether tokens of the model's own stand before those of the patches."""
    return bool(getattr(vit, "num_prefix_tokens", 0))


def timm_name(name: str) -> str:
    """timm's name for a backbone, looked up and checked.

    Raises:
        SpecError: timm has none of that name.
    """
    import timm

    name = ALIASES.get(name, name)
    if not timm.is_model(name.split(".")[0]):
        raise unknown("backbone", name, ["tiny", *ALIASES, *timm.list_models("*vit*"), *timm.list_models("beit*")])
    return name


def options(backbone: Backbone, depth: int | None) -> dict[str, Any]:
    sizes = {"img_size": backbone.image_size} if backbone.image_size else {}
    return sizes | ({"depth": depth} if depth else {})


def constructor(backbone: Backbone, *, num_classes: int, depth: int) -> str:
    """A Python expression that builds :func:`plain` with timm alone."""
    if backbone.name == "tiny":
        values = {**TINY_ARCHITECTURE, "depth": depth, "num_classes": num_classes}
        return f"timm.models.vision_transformer.VisionTransformer({_arguments(values)})"
    values = {"num_classes": num_classes, **options(backbone, depth)}
    return f"timm.create_model({timm_name(backbone.name)!r}, {_arguments(values)})"


def _arguments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())
