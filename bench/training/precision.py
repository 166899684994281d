"""The precision of a training step."""

from __future__ import annotations

import torch

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Products are computed in these types under these precisions."""


def precision_on(device: torch.device, precision: str) -> str:
    """What ``auto`` means on a device: bf16 on CUDA, fp32 elsewhere; any other precision is itself."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision
