"""Picture files become what one sees when one looks at them, or are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from timm.data import create_transform
from timm.data.config import resolve_model_data_config

from bench import data, models
from bench.data._decoded import decoded
from bench.data._pictures import header, read
from bench.spec import Backbone, Size, SpecError

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))
"""Grey from black on the left to white on the right, ``[48, 64]``."""


def pixels(path: Path) -> Any:
    return np.asarray(read(path)).astype(int)


def is_ramp(path: Path) -> bool:
    found = pixels(path)
    return found.shape == (48, 64, 3) and bool(np.abs(found - RAMP[..., None] * 255).max() <= 1)


def colours() -> Image.Image:
    """A picture without any symmetry."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_photos_are_turned_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[0x112] = orientation
    colours().save(path, exif=exif)
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file).convert("RGB")
    assert np.array_equal(np.asarray(read(path)), np.asarray(upright))
    assert header(path) == (upright.height, upright.width) == ((30, 20) if orientation > 4 else (20, 30))


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    colours().save(path)
    exif = Image.Exif()
    exif[0x112] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] + late + whole[-12:])
    assert header(path) == (30, 20)
    assert np.array_equal(np.asarray(read(path)), np.asarray(colours().transpose(Image.Transpose.ROTATE_270)))


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    colours().save(path, exif=b"Exif\0\0nonsense")
    assert header(path) == read(path).size[::-1] == (20, 30)


def test_photos_that_are_kept_decoded_are_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    exif = Image.Exif()
    exif[0x112] = 6
    colours().save(tmp_path / "photo.png", exif=exif)
    kept = decoded([tmp_path / "photo.png"], "key")
    assert kept.sizes.tolist() == [[30, 20]]
    assert np.array_equal(np.asarray(kept[0]), np.asarray(read(tmp_path / "photo.png")))


def drawing(mode: str) -> Image.Image:
    """A black square in the middle of nothing."""
    own = np.zeros((48, 64, 4), dtype=np.uint8)
    own[16:32, 16:48, 3] = 255
    return Image.fromarray(own).convert(mode)


def test_drawings_lie_on_white(tmp_path: Path) -> None:
    palette = Image.fromarray((np.asarray(drawing("RGBA"))[..., 3] == 0).astype(np.uint8) * 3).convert("P")
    palette.putpalette([0, 0, 0] * 256)
    drawing("RGBA").save(tmp_path / "rgba.png")
    drawing("LA").save(tmp_path / "la.png")
    drawing("RGBA").save(tmp_path / "rgba.webp", lossless=True)
    drawing("RGBA").save(tmp_path / "rgba.tif")
    palette.save(tmp_path / "palette.png", transparency=3)
    palette.save(tmp_path / "palette-alpha.png", transparency=bytes([255, 255, 255, 0]))
    grey = np.where(np.asarray(drawing("RGBA"))[..., 3] > 0, 0, 40000).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    with_transparency(tmp_path / "grey16.png", struct.pack(">H", 40000))
    key = Image.fromarray(np.where(np.asarray(drawing("RGBA"))[..., 3:] > 0, 0, 77).repeat(3, 2).astype(np.uint8))
    key.save(tmp_path / "key.png", transparency=(77, 77, 77))
    expected = np.where(np.asarray(drawing("RGBA"))[..., 3:] > 0, 0, 255).repeat(3, 2)
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(pixels(path), expected), path.name


def with_transparency(path: Path, colour: bytes) -> None:
    """Name a transparent colour in a PNG."""
    whole = path.read_bytes()
    start = whole.index(b"IDAT") - 4
    chunk = b"tRNS" + colour
    path.write_bytes(
        whole[:start] + struct.pack(">I", len(colour)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[start:]
    )


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    own = np.zeros((4, 4, 4), dtype=np.uint8)
    own[..., 0], own[..., 3] = 255, 128
    Image.fromarray(own).save(tmp_path / "x.png")
    assert pixels(tmp_path / "x.png")[0, 0] == pytest.approx([255, 127, 127], abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB", "RGBX"])
def test_opaque_modes_are_what_pillow_says(mode: str, tmp_path: Path) -> None:
    picture = colours().convert(mode)
    picture.save(tmp_path / "x.tif")
    assert np.abs(pixels(tmp_path / "x.tif") - np.asarray(picture.convert("RGB")).astype(int)).max() <= 1


def test_lab_is_seen_in_its_colours(tmp_path: Path) -> None:
    red = ImageCms.applyTransform(
        Image.new("RGB", (4, 4), (200, 30, 40)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert red is not None
    red.save(tmp_path / "x.tif")
    assert Image.open(tmp_path / "x.tif").mode == "LAB"
    assert pixels(tmp_path / "x.tif")[0, 0] == pytest.approx([200, 30, 40], abs=3)


def test_of_several_frames_the_first_is_seen(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for suffix in ("png", "webp", "tif"):
        frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
        assert pixels(tmp_path / f"x.{suffix}")[0, 0] == pytest.approx([255, 0, 0], abs=3)


def test_sixteen_bits_that_use_their_range_are_a_ramp(tmp_path: Path) -> None:
    deep = (RAMP * 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    Image.fromarray(deep).save(tmp_path / "x.tif")
    Image.fromarray(65535 - deep).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
    twelve = (RAMP * 4095).astype(">u2")
    (tmp_path / "said.pgm").write_bytes(b"P5 64 48 4095\n" + twelve.tobytes())
    for path in tmp_path.iterdir():
        assert is_ramp(path), path.name
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(black)
    assert pixels(black).max() == 0


def write_deep_rgb(path: Path, brightest: int) -> None:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    row = (RAMP[0, :, None].repeat(3, 1) * brightest).astype(">u2").tobytes()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress((b"\0" + row) * 48))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")]))


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    write_deep_rgb(tmp_path / "x.png", 65535)
    assert is_ramp(tmp_path / "x.png")
    write_deep_rgb(tmp_path / "x.png", 4095)
    with pytest.raises(ValueError, match=r"x\.png .*6% of what 16 bits hold.*convert it to 8 bits"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("bits", range(1, 16))
def test_colours_of_fewer_bits_in_sixteen_are_refused(bits: int, tmp_path: Path) -> None:
    write_deep_rgb(tmp_path / "x.png", 2**bits - 1)
    with pytest.raises(ValueError, match=r"x\.png .* of what 16 bits hold.*convert it to 8 bits"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("bits", range(1, 17))
def test_a_said_depth_is_believed(bits: int, tmp_path: Path) -> None:
    white = 2**bits - 1
    steps = np.round(RAMP * white)
    values = steps.astype(">u2" if bits > 8 else "u1").tobytes()
    (tmp_path / "x.pgm").write_bytes(f"P5 64 48 {white}\n".encode() + values)
    assert np.abs(pixels(tmp_path / "x.pgm") - steps[..., None] * 255 / white).max() <= 1


@pytest.mark.parametrize(
    ("grey", "reason"),
    [
        (RAMP.astype(np.float32), "32-bit floats"),
        ((RAMP * 65535).astype(np.float32), "32-bit floats"),
        ((RAMP * 255).astype(np.int32), "32-bit integers"),
        *(((RAMP * (2**bits - 1)).astype(np.uint16), "as if fewer bits were used") for bits in range(1, 16)),
    ],
)
def test_greys_of_unknown_range_are_refused_by_name(grey: Any, reason: str, tmp_path: Path) -> None:
    Image.fromarray(grey).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif cannot be read as a picture: .*{reason}.*convert it to 8 bits"):
        read(tmp_path / "x.tif")


SIZES = ((37, 50), (50, 33), (30, 31), (24, 24), (9, 100), (100, 9), (7, 5), (23, 200), (36, 47))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_files_are_evaluated_as_timm_does_it(
    interpolation: Any, crop_pct: float, crop_mode: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    theirs = create_transform(
        24, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, normalize=False, is_training=False
    )
    for height, width in SIZES:
        path = tmp_path / "x.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        own = data.decode(path, Size(24, crop_pct, interpolation, crop_mode))
        assert torch.equal(own, theirs(Image.open(path))), (height, width)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224.augreg_in21k", "vit_small_patch14_dinov2.lvd142m", "vit_large_patch14_clip_336.openai"],
)
def test_a_backbones_pictures_are_timms(name: str, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (275, 300, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    with models.shapes_only():
        config = resolve_model_data_config(models.plain(Backbone(name=name), num_classes=0))
    theirs = create_transform(**config, is_training=False)(Image.open(tmp_path / "x.png"))
    own = models.preprocess(Backbone(name=name)).of_files([tmp_path / "x.png"])[0]
    assert torch.allclose(own, theirs, atol=1e-4)


def test_dinos_pictures_are_its_authors(tmp_path: Path) -> None:
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    theirs = transforms.Compose(
        [transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224), transforms.PILToTensor()]
    )
    size = models.preprocess(Backbone(name="vit_small_patch16_224.dino")).files
    for height, width in ((275, 300), (300, 201), (257, 256)):
        Image.fromarray(np.full((height, width, 3), 9, np.uint8) + np.arange(width, dtype=np.uint8)[:, None]).save(
            tmp_path / "x.png"
        )
        assert torch.equal(data.decode(tmp_path / "x.png", size), theirs(Image.open(tmp_path / "x.png")))


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(SpecError, match="image_size = 8 is less than one patch of 'vit_tiny_patch16_224', 16 pixels"):
        models.preprocess(Backbone(name="vit_tiny_patch16_224", image_size=8))
    with pytest.raises(SpecError, match="takes 32 pixels a side"):
        models.preprocess(Backbone(name="tiny", image_size=64))


def test_what_patches_leave_over_is_said() -> None:
    said = models.unseen_border(Backbone(name="vit_tiny_patch16_224", image_size=39))
    assert said is not None
    assert "does not see the last 7 pixels" in said
    assert "32 or 48 would fit" in said
    assert models.unseen_border(Backbone(name="vit_tiny_patch16_224", image_size=48)) is None
    assert models.unseen_border(Backbone(name="tiny")) is None


def tiff(path: Path, values: Any, *, photometric: int, signed: bool = False) -> Path:
    """Write an uncompressed TIFF ``[h, w, colours]`` of kinds that Pillow reads and does not write."""
    height, width, colours = values.shape
    bits, pixels = 8 * values.dtype.itemsize, values.tobytes()
    bits_at, formats_at = 8, 8 + 2 * colours
    pixels_at = formats_at + 2 * colours
    inline = colours == 1
    tags = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, colours, bits if inline else bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, pixels_at),
        (277, 3, 1, colours),
        (278, 3, 1, height),
        (279, 4, 1, len(pixels)),
        (339, 3, colours, 1 + signed if inline else formats_at),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    head = struct.pack("<2sHI", b"II", 42, pixels_at + len(pixels))
    body = struct.pack(f"<{colours}H", *[bits] * colours) + struct.pack(f"<{colours}H", *[1 + signed] * colours)
    path.write_bytes(head + body + pixels + directory)
    return path


@pytest.mark.parametrize("bits", [12, 15])
def test_inks_of_fewer_bits_in_sixteen_are_refused(tmp_path: Path, bits: int) -> None:
    """They would come out as nearly white."""
    inks = np.zeros((4, 4, 4), dtype="<u2")
    inks[..., 3] = np.linspace(0, 65535, 16).reshape(4, 4)
    found = pixels(tiff(tmp_path / "full.tif", inks, photometric=5))
    assert (found.max(), found.min()) == (255, 0)
    with pytest.raises(ValueError, match="as if fewer bits were used"):
        read(tiff(tmp_path / "few.tif", inks >> (16 - bits), photometric=5))


def test_signed_pixels_are_refused(tmp_path: Path) -> None:
    values = np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1)
    with pytest.raises(ValueError, match="signed integers"):
        read(tiff(tmp_path / "signed.tif", values, photometric=1, signed=True))
    read(tiff(tmp_path / "plain.tif", values.view(np.uint8), photometric=1))
