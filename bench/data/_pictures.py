"""Picture files: from bytes to RGB pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.spec import Size

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Names of picture files end like this; the list is torchvision's."""


def decode(path: Path, size: Size | int) -> Tensor:
    """One image file of any mode as uint8 ``[3, pixels, pixels]``.

    Raises:
        ValueError: naming the file, if it is missing, damaged, too large or no picture.
    """
    return centre(read(path), size if isinstance(size, Size) else Size(size))


def whole_picture(path: Path) -> Tensor:
    """An image file of any mode in its own size: uint8 ``[3, h, w]``; errors as for :func:`decode`."""
    return to_tensor(read(path))


def centre(picture: PIL.Image.Image, size: Size) -> Tensor:
    """A picture, resized and cropped: uint8 ``[3, pixels, pixels]``."""
    from PIL import Image

    pixels = size.pixels
    scale = max(round(pixels / size.crop_pct), pixels) / min(picture.size)
    width, height = (max(pixels, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling[size.interpolation.upper()])
    left, top = (width - pixels) // 2, (height - pixels) // 2
    picture = picture.crop((left, top, left + pixels, top + pixels))
    return to_tensor(picture)


def to_tensor(picture: PIL.Image.Image) -> Tensor:
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def header(path: Path) -> tuple[int, int]:
    """Height and width of a picture."""
    with _opened(path) as file:
        return file.height, file.width


def read(path: Path, *, draft: bool = False) -> PIL.Image.Image:
    """An image file as RGB; as a draft a JPEG is decoded at an eighth of its size, with every byte of it read."""
    with _opened(path) as file:
        if draft:
            file.draft("RGB", (file.width // 8, file.height // 8))
        return _to_rgb(file)


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """A picture file; whatever goes wrong while it is read is a ValueError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            yield file
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from None


def _to_rgb(file: PIL.Image.Image) -> PIL.Image.Image:
    """RGB of any mode; 16-bit greys are scaled, not clipped."""
    from PIL import Image

    if file.mode.startswith("I"):
        grey = np.asarray(file, dtype=np.float64)
        file = Image.fromarray((grey / 257).clip(0, 255).astype(np.uint8))
    return file.convert("RGB")
