"""The embedded target: scikit-learn's handwritten digits (1,797 real scans, 8x8, from the UCI repository), at 32x32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.data._kinds import Images, Target
from bench.data._splits import stratified

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {"train": 997, "val": 300, "test": 500}


def target() -> Target:
    """997 training, 300 validation and 500 test images of ten classes; the same split for every trial."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    images = _resize(torch.from_numpy(digits.images))
    parts = stratified(labels, list(SIZES.values()))
    splits = {
        name: Images(images[part], torch.from_numpy(labels[part])) for name, part in zip(SIZES, parts, strict=True)
    }
    return Target(**splits, num_classes=10, class_names=[str(digit) for digit in range(10)])


def _resize(images: Tensor) -> Tensor:
    """8x8 with grey levels 0..16 to uint8 ``[n, 3, 32, 32]``, bilinear."""
    import torch
    import torch.nn.functional as F

    grey = F.interpolate(images[:, None].double(), size=32, mode="bilinear", align_corners=False)
    return (grey * (255 / 16)).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
