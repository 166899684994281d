"""The embedded target: scikit-learn's handwritten digits (1,797 real scans, 8x8, from the UCI repository), at 32x32."""

from __future__ import annotations

import gzip
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data._kinds import Images, Target
from bench.data._splits import stratified
from bench.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

SIZES = {"train": 997, "val": 300, "test": 500}


def target() -> Target:
    """997 training, 300 validation and 500 test images of ten classes; the same split for every trial."""
    import torch

    scans, labels = _scans()
    images = _resize(torch.from_numpy(scans))
    parts = stratified(labels, list(SIZES.values()))
    splits = {
        name: Images(images[part], torch.from_numpy(labels[part])) for name, part in zip(SIZES, parts, strict=True)
    }
    return Target(**splits, num_classes=10, class_names=[str(digit) for digit in range(10)])


def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grey levels 0 .. 16, ``[1797, 8, 8]``, and digits, as ``sklearn.datasets.load_digits`` has them.

    They are read from the file that scikit-learn brings: to import it for them takes seconds of every worker.

    Raises:
        SpecError: scikit-learn is not installed, or without its data sets.
    """
    try:
        files = metadata.files("scikit-learn")
    except metadata.PackageNotFoundError:
        files = None
    packed = next((file for file in files or () if file.parts[-3:] == ("datasets", "data", "digits.csv.gz")), None)
    if packed is None:
        raise SpecError(
            "the digits are a file of scikit-learn, which is not here or lacks it: install scikit-learn again"
        )
    table = np.loadtxt(gzip.decompress(packed.read_binary()).decode().splitlines(), delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _resize(images: Tensor) -> Tensor:
    """8x8 with grey levels 0..16 to uint8 ``[n, 3, 32, 32]``, bilinear."""
    import torch
    import torch.nn.functional as F

    grey = F.interpolate(images[:, None].double(), size=32, mode="bilinear", align_corners=False)
    return (grey * (255 / 16)).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
