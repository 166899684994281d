"""The precision of what a model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Products are computed in these types under these precisions."""


def precision_on(device: torch.device, precision: str) -> str:
    """What ``auto`` means on a device: bf16 on CUDA, fp32 elsewhere; any other precision is itself."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


@contextmanager
def tensor_cores(device: torch.device, *, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 for fp32 products and convolutions on a CUDA device; what was set before comes back."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
