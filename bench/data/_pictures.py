"""Picture files: from bytes to RGB pixels."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.spec import Size, printable

if TYPE_CHECKING:
    import PIL.Image
    from numpy.typing import NDArray
    from torch import Tensor

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Names of picture files end like this; the list is torchvision's."""

VERSION = 4
"""Of what becomes of a file's bytes here: what is kept of decoded pictures belongs to one version."""

DARK = 1 / 2
"""A picture of 16 bits whose brightest value is below this share of their range may hold 15 bits or fewer: how many,
and so how bright it is, the file does not say."""

DEEP = re.compile(r"\b(I|LA?|RGB[AaX]?|CMYK);16|\b65535\b")
"""Pillow's words for 16 bits a colour in a file; ``BGR;16``, a bitmap of 5, 6 and 5 bits, is not among them."""

SAMPLE_FORMAT, SIGNED = 339, 2
"""A TIFF with this value of this tag holds signed integers."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations in which height and width change places."""

PNG_METADATA = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""A PNG may say its orientation behind its pixels, too; where none of these occurs it says none."""


def decode(path: Path, size: Size | int) -> Tensor:
    """One image file of any mode as uint8 ``[3, pixels, pixels]``.

    Raises:
        ValueError: naming the file, if it is missing, damaged, too large, no picture, or of unknown brightness.
    """
    return centre(read(path), size if isinstance(size, Size) else Size(size))


def whole_picture(path: Path) -> Tensor:
    """An image file of any mode in its own size: uint8 ``[3, h, w]``; errors as for :func:`decode`."""
    return to_tensor(read(path))


def centre(picture: PIL.Image.Image, size: Size) -> Tensor:
    """A picture, resized and cropped by timm's own transform for evaluation: uint8 ``[3, pixels, pixels]``."""
    image: Tensor = _evaluation(size)(picture)
    return image


@functools.cache
def _evaluation(size: Size) -> Callable[[PIL.Image.Image], Any]:
    from timm.data.transforms_factory import transforms_imagenet_eval

    transform: Callable[[PIL.Image.Image], Any] = transforms_imagenet_eval(
        size.pixels,
        crop_pct=size.crop_pct,
        crop_mode=size.crop_mode,
        interpolation=size.interpolation,
        normalize=False,
    )
    return transform


def to_tensor(picture: PIL.Image.Image) -> Tensor:
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def header(path: Path) -> tuple[int, int]:
    """Height and width of a picture, upright as :func:`read` returns it."""
    with _opened(path) as file:
        plain = file.format == "PNG" and not _mentions(path, PNG_METADATA)
        if not plain and _orientation(file) in TURNED:
            return file.width, file.height
        return file.height, file.width


def read(path: Path, *, draft: bool = False) -> PIL.Image.Image:
    """An image file as RGB, upright, on white where it is transparent, the first frame of several.

    Args:
        draft: a JPEG is decoded at an eighth of its size, with every byte of it read.

    Raises:
        ValueError: see :func:`decode`.
    """
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    with _opened(path) as file:
        if draft:
            file.draft("RGB", (file.width // 8, file.height // 8))
        stored = _stored_as(file)
        turn = turns.get(_orientation(file))
        picture = _to_rgb(file, stored)
    return picture if turn is None else picture.transpose(turn)


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """A picture file; whatever goes wrong while it is read is a ValueError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            yield file
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read as a picture: {printable(str(error))}") from None


def _mentions(path: Path, words: tuple[bytes, ...]) -> bool:
    content = path.read_bytes()
    return any(word in content for word in words)


def _orientation(file: PIL.Image.Image) -> int:
    """A picture's EXIF orientation, 1 to 8; 1 if its EXIF data are damaged, and for TIFF, which Pillow turns itself."""
    from PIL import ExifTags

    if file.format == "TIFF":
        return 1
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except (struct.error, KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError):  # as Pillow reads its own
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(file: PIL.Image.Image, stored: str) -> PIL.Image.Image:
    """RGB of any mode whose brightness is known; 16-bit greys are scaled, not clipped."""
    deep = DEEP.search(stored) is not None
    if file.mode == "F" or (file.mode == "I" and file.format not in ("PNG", "PPM")):
        kind = "floats" if file.mode == "F" else "integers"
        raise ValueError(f"its pixels are 32-bit {kind}, and nothing says which is white; convert it to 8 bits")
    if file.mode.startswith("I"):
        return _of_16_bits(file, white=4095 if "I;12" in stored else 65535, check=deep)
    if file.format == "TIFF" and SIGNED in file.tag_v2.get(SAMPLE_FORMAT, ()):  # type: ignore[attr-defined] # it has one
        raise ValueError("its pixels are signed integers, and nothing says which is white; convert it to 8 bits")
    if deep:
        _check_colours(file)
    _mend_transparency(file, stored, deep=deep)
    if file.mode == "La":
        file = file.convert("LA")
    return _on_white(file) if file.has_transparency_data else file.convert("RGB")


def _stored_as(file: PIL.Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words, such as ``RGB;16B``; known until they are loaded."""
    return str([tile[3] for tile in getattr(file, "tile", ())])


def _of_16_bits(file: PIL.Image.Image, *, white: int, check: bool) -> PIL.Image.Image:
    from PIL import Image

    grey: NDArray[np.float64] = np.asarray(file, dtype=np.float64)
    if check:
        _check_range(float(grey.max()), white)
    if file.format == "TIFF" and getattr(file, "tag_v2", {}).get(262) == 0:  # photometric interpretation: white is zero
        grey = white - grey
    if (transparent := file.info.get("transparency")) is not None:
        grey = np.where(grey == transparent, white, grey)
    return Image.fromarray((grey * 255 / white).clip(0, 255).astype(np.uint8)).convert("RGB")


def _check_range(brightest: float, white: float) -> None:
    """Refuse a grey picture of 16 bits that may hold fewer; one that is black is black at any depth."""
    if brightest:
        _refuse_dark(brightest / white)


def _check_colours(file: PIL.Image.Image) -> None:
    """The same for a picture of which Pillow keeps the upper 8 of 16 bits, where 8 bits in 16 leave nothing.

    Black is believed only where opacity, which lies in the same 16 bits, uses their range.
    """
    # Of inks the strongest stands for the brightest light: both come near the end of the range in use.
    brightest = float(np.asarray(file if file.mode == "CMYK" else file.convert("RGB")).max())
    if not brightest:
        last = file.getbands()[-1]
        if last in "Aa" and np.asarray(file.getchannel(last)).max() >= DARK * 255:
            return
    _refuse_dark(brightest / 255)


def _refuse_dark(share: float) -> None:
    if share < DARK:
        raise ValueError(
            f"its brightest value is {share:.0%} of what 16 bits hold, as if fewer bits were used, and nothing says "
            f"which value is white; convert it to 8 bits"
        )


def _mend_transparency(file: PIL.Image.Image, stored: str, *, deep: bool) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that Pillow brings its pixels to."""
    colour = file.info.get("transparency")
    if deep and isinstance(colour, tuple):
        file.info["transparency"] = tuple(value >> 8 for value in colour)
    for bits, factor in (("L;2", 85), ("L;4", 17)):
        if bits in stored and isinstance(colour, int):
            file.info["transparency"] = colour * factor


def _on_white(file: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    own = file.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", own.size, "white"), own).convert("RGB")
