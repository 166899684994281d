"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), through peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method
from bench.methods._peft import Part, check_targets, inject, merge

if TYPE_CHECKING:
    from bench.vit import Vit


@dataclass(frozen=True, config=STRICT)
class Lora(Method):
    """Low-rank updates of some linear layers are trained with the head; the weights themselves stay frozen.

    timm fuses the query, key and value projections into one layer. Adapting that layer (``targets: [qkv]``) is another
    hypothesis class than adapting q and v apart, as the paper does: it also moves the keys, and the three share the
    low-rank input map. By default the layer is therefore split, and ``merge`` fuses it again.
    """

    rank: Annotated[int, Field(ge=1, le=8192, description="rank of every update")] = 8
    alpha: Annotated[
        float | None, Field(gt=0, le=1e6, description="an update is scaled by alpha / rank; the rank if empty")
    ] = None
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the input of an update")] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], Field(description="biases that are trained too")] = "none"
    targets: Annotated[
        tuple[Part, ...],
        Field(strict=False, min_length=1, description="layers: q, k, v or qkv; proj, fc1, fc2"),
    ] = ("q", "v")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_targets(self.targets)
        return self

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        from peft import LoraConfig

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type] # a float works
            lora_dropout=self.dropout,
            bias=self.bias,
        )
        return inject(vit, config, self.targets, method="lora")

    def merge(self, vit: Vit) -> Vit:
        """See :meth:`Method.merge`."""
        return merge(vit, self.targets)
