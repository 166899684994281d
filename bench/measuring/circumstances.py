"""What the features of an image depend on beside the image: model, code, versions and machine."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from torch import Tensor, nn

from bench import cache
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
        yield _bytes(value)


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
        settings = {key: _plain(value) for key, value in sorted(vars(module).items()) if key[0] != "_"}
        settings.pop("training")  # it is evaluated, however it is found
        yield f"{name} {kind.__module__}.{kind.__qualname__} {settings} {module.extra_repr()}"
    for place in sorted(defined):
        file = getattr(sys.modules.get(place), "__file__", None)
        yield Path(file).read_bytes() if file and file.endswith(".py") else place


def _plain(value: Any) -> str:
    """A setting of a module as text, the same in every process; of objects only their class."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_plain(own)}' for key, own in value.items())}}}"
    if isinstance(value, functools.partial):
        return f"{_plain(value.func)}{_plain(value.args)}{_plain(value.keywords)}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _bytes(value: Tensor) -> memoryview:
    data: memoryview = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
