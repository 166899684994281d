"""What a method is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import ConfigDict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.vit import Vit

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Every method's pydantic dataclass is configured like this."""


@dataclass(frozen=True)
class Step:
    """What a method may look at in an optimizer step.

    ``number``: of the step, from 1. ``vit``: the model that is trained. ``untouched``: the backbone without a head, as
    it was before any training, frozen, on the same device. ``inputs``: this rank's part of the batch, as the model gets
    it (images ``[b, 3, h, w]``; with ``train.views`` activations). ``logits``: what the model made of it,
    ``[b, classes]``.
    """

    number: int
    vit: Vit
    untouched: Vit
    inputs: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike: with ``lr_scale`` times the learning rate."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0


class Method:
    """Base of all methods: what is not overridden does nothing."""

    identity_at_start: ClassVar[bool] = True
    """Whether :meth:`apply` leaves the function as it is: features are unchanged before the first step."""

    mergeable: ClassVar[bool] = True
    """Whether :meth:`merge` gives plain timm modules of the same function, so that a model can be exported."""

    def apply(self, vit: Vit) -> Vit:
        """Prepare a model for training: freeze, insert, wrap.

        Args:
            vit: a timm vision transformer with its fresh head; it is changed in place where possible.

        Returns:
            The model to train; what is to be trained has ``requires_grad``, nothing else has.

        Raises:
            ValueError: the method does not fit this model.
        """
        raise NotImplementedError

    def merge(self, vit: Vit) -> Vit:
        """Turn a trained model into plain timm modules that compute the same function."""
        return vit

    def check(self, depth: int) -> None:
        """Raise a ValueError if the method does not fit a vision transformer of ``depth`` blocks."""

    def loss(self, step: Step) -> Tensor | None:
        """A term that is added to the cross-entropy of a part of a batch, a scalar tensor; None: there is none."""
        return None

    def groups(self, vit: Vit) -> Sequence[Group]:
        """All trainable parameters, each in one group."""
        return [Group(trainable(vit))]

    def after(self, vit: Vit, untouched: Vit) -> Iterator[tuple[str, Vit]]:
        """Further models that follow from the trained one without training, by name; each is measured like it.

        Args:
            vit: the trained model, not to be changed.
            untouched: see :class:`Step`.
        """
        yield from ()


def trainable(vit: Vit) -> list[nn.Parameter]:
    """Parameters that training may change, in the model's order."""
    return [parameter for parameter in vit.parameters() if parameter.requires_grad]


def trainable_parameters(vit: Vit) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in trainable(vit))


def has_loss(method: Method) -> bool:
    """Whether a method adds a term to the loss, for which the untouched model is needed."""
    return type(method).loss is not Method.loss


def has_variants(method: Method) -> bool:
    """Whether further models follow from the trained one."""
    return type(method).after is not Method.after
