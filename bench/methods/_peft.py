"""What methods that adapt linear layers through peft share: wrapping, finding layers, merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from bench.methods._layers import find, fuse_qkv, split_qkv
from bench.vit import Vit, heads

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
"""peft calls the only adapter that a layer has like this."""

Part = Literal["q", "k", "v", "qkv", "proj", "fc1", "fc2"]
"""A linear layer of a block is adapted: a part of the fused query, key and value projection, or a layer of its own."""

PATHS = {"q": "attn.qkv.q", "k": "attn.qkv.k", "v": "attn.qkv.v", "qkv": "attn.qkv", "proj": "attn.proj"}
"""The parts are here in a block after splitting; the others are in its ``mlp``."""


def check_targets(targets: Sequence[Part]) -> None:
    """Raise a ValueError if a layer is named twice, or as a whole and in part."""
    if len(set(targets)) < len(targets):
        raise ValueError(f"targets names a layer twice: {list(targets)}")
    if "qkv" in targets and splits(targets):
        raise ValueError("targets holds qkv, the fused layer, beside q, k or v, its parts: name one or the other")


def splits(targets: Sequence[Part]) -> bool:
    """Whether the fused projection has to be taken apart for these."""
    return bool({"q", "k", "v"} & set(targets))


def inject(vit: Vit, config: Any, targets: Sequence[Part], *, method: str) -> Vit:
    """Wrap layers of every block by peft; the head is trained in full beside them.

    Args:
        config: peft's, with ``target_modules`` left open.
        method: that asks for it, for messages.

    Raises:
        ValueError: a block has no such layer.
    """
    from peft import inject_adapter_in_model

    config.target_modules = set(_layers(vit, targets, method))
    if splits(targets):
        for block in vit.blocks:
            block.attn.qkv = split_qkv(block.attn.qkv, together)
    inject_adapter_in_model(config, vit)  # type: ignore[arg-type] # any module will do
    for head in heads(vit):
        head.requires_grad_(True)
    return vit


def merge(vit: Vit, targets: Sequence[Part]) -> Vit:
    """Merge all updates into their layers, and fuse again what was split."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(vit.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(vit.get_submodule(parent), child, module.get_base_layer())
    if splits(targets):
        for block in vit.blocks:
            block.attn.qkv = fuse_qkv(block.attn.qkv)
    if hasattr(vit, "peft_config"):
        del vit.peft_config
    return vit.requires_grad_(True)


def _layers(vit: Vit, targets: Sequence[Part], method: str) -> list[str]:
    """Full names of the layers to adapt, as they are after splitting."""
    names = []
    for index, block in enumerate(vit.blocks):
        for target in targets:
            path = PATHS.get(target, f"mlp.{target}")
            needed = "attn.qkv" if path.startswith("attn.qkv") else path
            if needed == "attn.qkv" and getattr(block.attn, "q_bias", None) is not None:
                raise ValueError(
                    f"{method}: the {type(block.attn).__name__} of this backbone reads the weights of its qkv layer "
                    f"past the layer itself, so an update of {target!r} would have no effect; "
                    f"choose proj, fc1 or fc2"
                )
            if not hasattr(find(block, needed), "weight"):
                raise ValueError(
                    f"{method}: blocks.{index}, a {type(block).__name__}, has no linear layer {needed!r} for "
                    f"target {target!r}; choose other targets"
                )
            names.append(f"blocks.{index}.{path}")
    return names


def together(x: torch.Tensor, layers: tuple[Any, ...]) -> torch.Tensor | None:
    """The outputs of layers side by side, if all of them are plain linear or plainly low-rank ones."""
    return _at_once(x, layers) if all(map(_is_plain, layers)) else None


def _is_plain(layer: Any) -> bool:
    """Whether all that a layer does is known: one product, and at most one low-rank update of the very same input."""
    from peft.tuners.lora import Linear
    from torch import nn

    if type(layer) is not Linear:
        return _is_linear(layer)
    if layer.merged or layer.disable_adapters or layer.active_adapters != [ADAPTER] or _is_watched(layer):
        return False
    base, down, up = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return (
        all(map(_is_linear, (base, down, up)))
        and down.bias is None
        and up.bias is None
        and down.weight.dtype == up.weight.dtype == base.weight.dtype
        and type(layer.lora_dropout[ADAPTER]) is nn.Identity
        and ADAPTER not in layer.lora_variant  # DoRA and others compute something else of the same matrices
        and not layer.lora_magnitude_vector
    )


def _is_linear(layer: Any) -> bool:
    """Whether a layer is torch's own linear layer, and nothing else happens when it is called."""
    from torch import nn

    return type(layer) is nn.Linear and not _is_watched(layer)


def _is_watched(layer: Any) -> bool:
    """Whether something is to be told, or to change, what goes through a layer."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _at_once(x: torch.Tensor, layers: Sequence[Any]) -> torch.Tensor:
    """The outputs of plain layers side by side: one product for all weights, two for all updates.

    Layer by layer, as peft does it, it takes three products for each, and the outputs are copied twice.

    Args:
        x: ``[..., d]``.
    """
    import torch
    import torch.nn.functional as F

    bases = [layer.get_base_layer() if hasattr(layer, "lora_A") else layer for layer in layers]
    downs = [layer.lora_A[ADAPTER].weight for layer in layers if hasattr(layer, "lora_A")]
    width, used, ups = sum(len(down) for down in downs), 0, []
    for layer, base in zip(layers, bases, strict=True):
        if not hasattr(layer, "lora_A"):
            ups.append(base.weight.new_zeros(base.out_features, width))
            continue
        up = layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]
        ups.append(F.pad(up, (used, width - used - up.shape[1])))  # only its own part of what comes down
        used += up.shape[1]
    rows = x.flatten(0, -2)
    bias = None if bases[0].bias is None else torch.cat([base.bias for base in bases])
    own = F.linear(rows, torch.cat([base.weight for base in bases]), bias)
    updated = torch.addmm(own, F.linear(rows, torch.cat(downs)), torch.cat(ups).T) if downs else own
    outputs: torch.Tensor = updated.unflatten(0, x.shape[:-1])
    return outputs
