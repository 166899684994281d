"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bench.methods import STRICT, Method

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
"""peft's name for the only adapter that a layer has."""

Part = Literal["q", "k", "v", "qkv", "proj", "fc1", "fc2"]


@dataclass(frozen=True, config=STRICT)
class Lora(Method):
    """Low-rank updates of some linear layers are trained with the head; the weights themselves stay frozen.

    timm fuses the query, key and value projections into one layer. Adapting that layer (``targets: [qkv]``) is another
    hypothesis class than adapting q and v apart, as the paper does: it also moves the keys, and the three share the
    low-rank input map. By default the layer is therefore split, and ``merge`` fuses it again.
    """

    rank: Annotated[int, Field(ge=1, description="rank of every update")] = 8
    alpha: Annotated[
        float | None, Field(gt=0, description="an update is scaled by alpha / rank; the rank if empty")
    ] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the input of an update")] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], Field(description="biases that are trained too")] = "none"
    targets: Annotated[
        tuple[Part, ...],
        Field(strict=False, min_length=1, description="layers: q, k, v or qkv; proj, fc1, fc2"),
    ] = ("q", "v")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets names a layer twice: {list(self.targets)}")
        if "qkv" in self.targets and self._split:
            raise ValueError("targets holds qkv, the fused layer, beside q, k or v, its parts: name one or the other")
        return self

    @property
    def _split(self) -> bool:
        return bool({"q", "k", "v"} & set(self.targets))

    def apply(self, vit: Any) -> Any:
        """See :meth:`Method.apply`."""
        from peft import LoraConfig, inject_adapter_in_model

        names = self._layers(vit)
        if self._split:
            for block in vit.blocks:
                block.attn.qkv = _split(block.attn.qkv)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type] # a float works
            lora_dropout=self.dropout,
            bias=self.bias,
            target_modules=names,
        )
        inject_adapter_in_model(config, vit)
        vit.head.requires_grad_(True)
        return vit

    def merge(self, vit: Any) -> Any:
        """See :meth:`Method.merge`."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, module in list(vit.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                parent, _, child = name.rpartition(".")
                setattr(vit.get_submodule(parent), child, module.get_base_layer())
        if self._split:
            for block in vit.blocks:
                block.attn.qkv = _fuse(block.attn.qkv)
        if hasattr(vit, "peft_config"):
            del vit.peft_config
        return vit.requires_grad_(True)

    def _layers(self, vit: Any) -> list[str]:
        """Full names of the layers to adapt, as they are after splitting."""
        where = {
            "q": "attn.qkv.q",
            "k": "attn.qkv.k",
            "v": "attn.qkv.v",
            "qkv": "attn.qkv",
            "proj": "attn.proj",
        }
        names = []
        for index, block in enumerate(vit.blocks):
            for target in self.targets:
                path = where.get(target, f"mlp.{target}")
                needed = "attn.qkv" if path.startswith("attn.qkv") else path
                if needed == "attn.qkv" and getattr(block.attn, "q_bias", None) is not None:
                    raise ValueError(
                        f"lora: the {type(block.attn).__name__} of this backbone reads the weights of its qkv layer "
                        f"past the layer itself, so an update of {target!r} would have no effect; "
                        f"choose proj, fc1 or fc2"
                    )
                if not hasattr(_find(block, needed), "weight"):
                    raise ValueError(
                        f"lora: blocks.{index}, a {type(block).__name__}, has no linear layer {needed!r} for "
                        f"target {target!r}; choose other targets"
                    )
                names.append(f"blocks.{index}.{path}")
        return names


def _find(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def _split(qkv: Any) -> Any:
    """A module that computes what a fused linear layer does, from three linear layers ``q``, ``k`` and ``v``."""
    import torch
    from torch import nn

    class SplitQkv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (_linear(qkv, part) for part in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = (self.q, self.k, self.v)
            if all(map(_is_plain, parts)):
                return _at_once(x, parts)
            return torch.cat([part(x) for part in parts], dim=-1)

    return SplitQkv()


def _is_plain(layer: Any) -> bool:
    """Whether all that a layer does is one product and at most one low-rank update of the very same input."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return True
    dropout = not all(isinstance(module, nn.Identity) for module in layer.lora_dropout.values())
    return not (dropout or layer.merged or layer.disable_adapters) and layer.active_adapters == [ADAPTER]


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
    found: torch.Tensor = updated.unflatten(0, x.shape[:-1])
    return found


def _linear(qkv: Any, part: int) -> Any:
    """A linear layer with one third of a fused layer's outputs."""
    from torch import nn

    width = qkv.out_features // 3
    rows = slice(part * width, (part + 1) * width)
    linear = nn.Linear(qkv.in_features, width, bias=qkv.bias is not None, device="meta")
    linear.weight = nn.Parameter(qkv.weight.detach()[rows].clone(), requires_grad=False)
    if qkv.bias is not None:
        linear.bias = nn.Parameter(qkv.bias.detach()[rows].clone(), requires_grad=False)
    return linear


def _fuse(split: Any) -> Any:
    """The inverse of :func:`_split`."""
    import torch
    from torch import nn

    parts = [split.q, split.k, split.v]
    width = split.q.out_features
    qkv = nn.Linear(split.q.in_features, 3 * width, bias=split.q.bias is not None, device="meta")
    qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
    if split.q.bias is not None:
        qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))
    return qkv
