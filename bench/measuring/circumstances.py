"""What the features of an image depend on beside the image: model, code, versions and machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

from bench import cache
from bench.models.described import settings, values_of
from bench.vit import Vit, as_module

PACKAGE = Path(__file__).parent.parent
CODE = ("measuring/*.py", "models/*.py", "data/*.py", "parallel.py")
"""These files of this package make features and scores of pictures and weights."""

LIBRARIES = (torch, torchvision, timm, np)
"""These compute features, and resize pictures."""


def circumstances(vit: Vit, device: torch.device) -> Iterator[str | bytes | memoryview]:
    """Parts of a key: another model, other code, other versions or another machine give other parts."""
    yield from (f"{library.__name__} {library.__version__}" for library in LIBRARIES)
    yield from cache.decoders()
    yield from _machine(device)
    for part in CODE:
        for file in sorted(PACKAGE.glob(part)):
            yield file.read_bytes()
    yield from _architecture(as_module(vit))
    for name, value in [*vit.named_parameters(), *vit.named_buffers()]:
        yield f"{name} {value.dtype} {tuple(value.shape)}"
        yield from values_of([value])


def _machine(device: torch.device) -> Iterator[str]:
    yield torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"
    yield torch.__config__.show()  # the processor's capability and the libraries below torch
    yield f"{torch.get_float32_matmul_precision()} {torch.backends.cudnn.allow_tf32}"


def _architecture(model: nn.Module) -> Iterator[str | bytes]:
    """What a model does with its tensors: classes and settings of all modules, and the files that define them."""
    defined: set[str] = set()
    for name, module in model.named_modules():
        kind = type(module)
        defined.update(base.__module__ for base in kind.__mro__)
        yield f"{name} {settings(module)}"
    for place in sorted(defined):
        file = getattr(sys.modules.get(place), "__file__", None)
        yield Path(file).read_bytes() if file and file.endswith(".py") else place
