"""L2-SP: full fine-tuning that is pulled back to where it started (Li et al. 2018, arXiv 1802.01483, equation 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method, Step

if TYPE_CHECKING:
    from torch import Tensor

    from bench.vit import Vit


@dataclass(frozen=True, config=STRICT)
class L2Sp(Method):
    """Every parameter is trained; the squared distance to the pre-trained weights is a part of the loss.

    The loss gains ``alpha / 2 * |w - w0|^2`` over the backbone and ``beta / 2 * |w|^2`` over what is new, the head.
    """

    alpha: Annotated[float, Field(ge=0, le=1e6, description="weight of the distance to the pre-trained weights")] = 0.1
    beta: Annotated[float, Field(ge=0, le=1e6, description="weight of the head's own norm")] = 0.01

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        return vit.requires_grad_(True)

    def loss(self, step: Step) -> Tensor:
        """See :meth:`Method.loss`."""
        import torch

        start = step.untouched.state_dict()
        named = dict(step.vit.named_parameters())
        moved = [(value - start[name]).square().sum() for name, value in named.items() if name in start]
        new = [value.square().sum() for name, value in named.items() if name not in start]
        return self.alpha / 2 * torch.stack(moved).sum() + self.beta / 2 * torch.stack(new).sum()
