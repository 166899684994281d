"""What this package needs of a vision transformer: the parts that timm's models share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor, device, nn


class Vit(Protocol):
    """A timm vision transformer with a class token, as a method finds it and as it leaves it.

    ``blocks`` are its transformer blocks in order; ``norm`` and ``fc_norm`` stand before and after the pooling;
    ``head`` is the linear classifier; a token has ``num_features`` numbers. The rest is what every ``torch.nn.Module``
    has.
    """

    blocks: Any
    patch_embed: Any
    norm: Any
    fc_norm: Any
    head: Any
    num_features: int
    training: bool

    def __call__(self, images: Tensor, /) -> Tensor:
        """Normalised images ``[n, 3, h, w]`` to logits ``[n, classes]``."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised images to tokens ``[n, t, d]`` after the final norm."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """See ``torch.nn.Module``, as for all that follows."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def get_submodule(self, target: str) -> nn.Module: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> Any: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def to(self, device: device) -> Self: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...


def heads(vit: Any) -> list[nn.Module]:
    """The linear classifiers whose mean is a model's logits: one, or two where there is a distillation token."""
    found = (getattr(vit, name, None) for name in ("head", "head_dist"))
    return [head for head in found if head is not None and any(True for _ in head.parameters())]


def as_module(vit: Vit) -> nn.Module:
    """The same object, for what takes any module."""
    from torch import nn

    assert isinstance(vit, nn.Module)
    return vit
