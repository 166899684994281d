"""A batch norm without parameters before the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import parallel
from bench.spec import SpecError
from bench.vit import Vit, heads


class HeadNorm(nn.Module):
    """A batch norm without parameters before the head, as in MAE's linear probe (He et al. 2021, appendix A.1).

    Mean and variance are taken over the global batch: over all ranks, through autograd, so that training is the same
    on any number of workers (torch's own SyncBatchNorm needs a GPU). In evaluation mode the running statistics make it
    a fixed linear map, which :func:`fold_head_norm` folds into the head.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, d]`` to ``[n, d]``."""
        if not self.training:
            return (x - self.mean) / (self.var + self.eps).sqrt()
        mean = parallel.mean_with_gradient(x.mean(0))
        var = parallel.mean_with_gradient((x - mean).square().mean(0))
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var, self.momentum)
        return (x - mean) / (var + self.eps).sqrt()


def add_head_norm(vit: Vit) -> Vit:
    """Put a :class:`HeadNorm` before the head; returns the model.

    Raises:
        SpecError: the architecture has a norm of its own there.
    """
    if len(heads(vit)) > 1 or not hasattr(vit, "fc_norm"):
        raise SpecError(f"a {type(vit).__name__} has no single place before its head for a norm: use head_norm: false")
    if not isinstance(vit.fc_norm, nn.Identity):
        raise SpecError(
            f"this backbone has a {type(vit.fc_norm).__name__} before its head already: use head_norm: false"
        )
    vit.fc_norm = HeadNorm(vit.head.in_features).to(vit.head.weight.device)
    return vit


def fold_head_norm(vit: Vit) -> Vit:
    """Fold a trained :class:`HeadNorm` into the head; what is left is plain timm and computes the same function."""
    norm = getattr(vit, "fc_norm", None)  # not all architectures have a place for one
    if isinstance(norm, HeadNorm):
        with torch.no_grad():
            vit.head.weight.div_((norm.var + norm.eps).sqrt())
            vit.head.bias.sub_(vit.head.weight @ norm.mean)
        vit.fc_norm = nn.Identity()
    return vit
