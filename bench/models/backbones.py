"""Backbones: what their features are, and the untouched one that all trials are compared with."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.models.weights import create
from bench.spec import Backbone

if TYPE_CHECKING:
    from bench.vit import Vit


def features(vit: Vit, images: Tensor) -> Tensor:
    """The CLS token after the final norm, ``[n, d]``, of normalised images ``[n, 3, h, w]``.

    Models that average the patches for their head (BEiT, EVA) may have their final norm behind that average, as
    ``fc_norm``; it is applied to the CLS token then. What the head reads stays timm's choice.
    """
    tokens: Tensor = vit.forward_features(images)
    token = tokens[:, 0]
    if isinstance(vit.norm, nn.Identity):
        token = vit.fc_norm(token)
    return token


@functools.lru_cache(maxsize=1)
def untouched(backbone: Backbone, device: torch.device) -> Vit:
    """The backbone without a head, as it was before any training; kept, and not to be changed."""
    with torch.random.fork_rng(devices=[]):  # a random initialisation must not shift the trial's draws
        return create(backbone, num_classes=0).to(device).requires_grad_(False).eval()


def same_features(vit: Vit, other: Vit) -> bool:
    """Whether a model has the blocks and, bit for bit, the weights of an untouched backbone, but for its head."""
    own, weights = vit.state_dict(), other.state_dict()
    # A norm that was put before the head is a part of it; one that the backbone has there itself is compared.
    body = {name for name in own if name in weights or not name.startswith(("head.", "head_dist.", "fc_norm."))}
    return body == set(weights) and all(torch.equal(own[name], value) for name, value in weights.items())
