"""WiSE-FT: weights between the pre-trained and the fine-tuned ones (Wortsman et al. 2021, arXiv 2109.01903)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method

if TYPE_CHECKING:
    from bench.vit import Vit

Share = Annotated[float, Field(ge=0, le=1)]


def _told_apart(alphas: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse models that would have the same name."""
    if len({_name(alpha) for alpha in alphas}) < len(alphas):
        raise ValueError("each share once, and no two that agree in six digits")
    return alphas


def _name(alpha: float) -> str:
    return f"alpha={alpha:g}"


@dataclass(frozen=True, config=STRICT)
class WiseFt(Method):
    """Every parameter is trained; models on the straight line back to the pre-trained backbone are measured as well.

    At ``alpha`` the backbone's weights are ``(1 - alpha) * before + alpha * after`` (their equation 1). The head, of
    which there is none before, is the trained one.
    """

    alphas: Annotated[
        tuple[Share, ...],
        Field(strict=False, min_length=1, description="shares of the fine-tuned weights to measure"),
        AfterValidator(_told_apart),
    ] = (0.25, 0.5, 0.75)

    def apply(self, vit: Vit) -> Vit:
        """See :meth:`Method.apply`."""
        return vit.requires_grad_(True)

    def after(self, vit: Vit, untouched: Vit) -> Iterator[tuple[str, Vit]]:
        """See :meth:`Method.after`."""
        before = untouched.state_dict()
        for alpha in self.alphas:
            between = copy.deepcopy(vit)
            tensors = between.state_dict()
            mixed = {
                name: value.lerp(tensors[name], alpha)
                for name, value in before.items()
                if name in tensors and value.is_floating_point()  # a batch norm counts its steps
            }
            between.load_state_dict(mixed, strict=False)
            yield _name(alpha), between
