# SPDX-License-Identifier: Apache-2.0
"""Photos as people have them: turned upright, and converted to RGB on request."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scoresde_fast.cli import main
from scoresde_fast.data.codecs import PNG_SIGNATURE, decode_image, decode_verified_png, encode_png
from scoresde_fast.data.conversion import Conversion, parse_conversion
from scoresde_fast.data.in_memory import read_data, read_images
from scoresde_fast.data.masks import read_mask
from scoresde_fast.data.sources import open_images
from scoresde_fast.errors import DataWarning

pytestmark = pytest.mark.same_everywhere

RANDOM = np.random.Generator(np.random.PCG64(0))
HEIGHT, WIDTH = 5, 7
COLOURS = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
DEEP = RANDOM.integers(0, 1 << 16, (HEIGHT, WIDTH, 3), np.uint16)
ORIENTATION = 0x0112
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}
"""The upright image by its EXIF orientation (EXIF 2.32, 4.6.4: the place of row 0 and column 0)."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(colour_type: int, depth: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Encode rows of big-endian samples (H, ...) as a PNG without filters."""
    height, width = rows.shape[:2]
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    framed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return PNG_SIGNATURE + b"".join(framed)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., None] / 255
    return colours * opacity + 255 * (1 - opacity)


GRAY = Image.fromarray(COLOURS[..., 0])
CMYK = Image.fromarray(np.dstack([COLOURS, ALPHA]), "CMYK")
RGBA = np.dstack([COLOURS, ALPHA])
PALETTE = Image.fromarray(COLOURS).quantize(8)
BIG = DEEP.astype(">u2")
INK = 255 - RGBA.astype(int)
FOUR_BITS = np.array([[0x0F, 0x5A]], np.uint8)
KEYED = np.where((COLOURS[0, 0] == COLOURS).all(2)[..., None], 255, COLOURS)
FORMS: dict[str, tuple[str, bytes, np.ndarray, float]] = {
    "gray": ("a.png", encoded(GRAY, "PNG"), np.dstack([COLOURS[..., 0]] * 3), 0),
    "gray and alpha": (
        "a.png",
        encoded(Image.fromarray(RGBA[..., 2:], "LA"), "PNG"),
        on_white(np.dstack([COLOURS[..., 2]] * 3), ALPHA),
        1,
    ),
    "alpha": ("a.png", encoded(Image.fromarray(RGBA), "PNG"), on_white(COLOURS, ALPHA), 1),
    "alpha of WebP": (
        "a.webp",
        encoded(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
        on_white(COLOURS, ALPHA),
        1,
    ),
    "CMYK": ("a.tif", encoded(CMYK, "TIFF"), INK[..., :3] * INK[..., 3:] / 255, 1),
    "16-bit gray": ("a.png", png(0, 16, BIG[..., 0]), np.dstack([DEEP[..., 0] >> 8] * 3), 0),
    "16-bit TIFF": ("a.tif", encoded(Image.fromarray(DEEP[..., 0]), "TIFF"), np.dstack([DEEP[..., 0] >> 8] * 3), 0),
    "16-bit colours": ("a.png", png(2, 16, BIG), DEEP >> 8, 0),
    "1-bit": ("a.png", encoded(Image.fromarray(ALPHA > 99), "PNG"), np.dstack([255 * (ALPHA > 99)] * 3), 0),
    "palette": ("a.png", encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "palette and alpha": (
        "a.png",
        encoded(PALETTE, "PNG", transparency=bytes(range(0, 256, 32))),
        on_white(np.asarray(PALETTE.convert("RGB")), np.arange(0, 256, 32)[np.asarray(PALETTE)]),
        1,
    ),
    "transparent colour": (
        "a.png",
        png(2, 8, COLOURS, (b"tRNS", COLOURS[0, 0].astype(">u2").tobytes())),
        KEYED,
        0,
    ),
    "RGB": ("a.bmp", encoded(Image.fromarray(COLOURS), "BMP"), COLOURS, 0),
}
"""For each form of an image its file, its RGB values, and the rounding of Pillow's 8-bit compositing."""
REFUSED = {
    "gray and alpha": r"alpha channel or transparent colours \(mode LA\)",
    "alpha": r"\(mode RGBA\)",
    "alpha of WebP": r"\(mode RGBA\)",
    "CMYK": "CMYK colours",
    "16-bit gray": r"16 bits per channel \(mode I;16\)",
    "16-bit TIFF": r"16 bits per channel \(mode I;16\)",
    "16-bit colours": r"16 bits per channel \(mode RGB\)",
    "1-bit": r"1 bit per channel \(mode 1\)",
    "palette and alpha": r"\(mode P\)",
    "transparent colour": r"\(mode RGB\)",
}


@pytest.mark.parametrize(("name", "content", "expected", "error"), FORMS.values(), ids=FORMS)
def test_every_form_becomes_rgb(tmp_path: Path, name: str, content: bytes, expected: np.ndarray, error: float) -> None:
    """@rgb gives gray three times, the higher 8 of 16 bits, and transparent pixels on white."""
    (tmp_path / name).write_bytes(content)
    source = open_images(f"{tmp_path}@rgb")
    (batch,) = source.batches(2)
    pixels = batch.images[0].permute(1, 2, 0).numpy()
    assert source.shape == (3, *expected.shape[:2])
    assert np.abs(pixels - expected).max() <= error


@pytest.mark.parametrize("form", REFUSED)
def test_other_forms_are_refused_without_rgb(tmp_path: Path, form: str) -> None:
    """One sentence names the file, its mode and the suffix that helps; a size that was given is kept."""
    name, content = FORMS[form][:2]
    (tmp_path / name).write_bytes(content)
    fix = rf"{name} of {tmp_path}: .*{REFUSED[form]}.*, but 8-bit gray or RGB is required; use {tmp_path}@"
    with pytest.raises(ValueError, match=fix + "rgb to convert the images$"):
        open_images(str(tmp_path))
    with pytest.raises(ValueError, match=fix + "4,rgb to"):
        open_images(f"{tmp_path}@4")


def test_mixed_modes(tmp_path: Path) -> None:
    """A set of gray, RGB and RGBA images of two sizes is refused with the suffix that helps, with which it is read."""
    for name, image in (("a.png", Image.fromarray(COLOURS)), ("b.png", GRAY), ("c.png", Image.new("RGBA", (9, 9)))):
        image.save(tmp_path / name)
    with pytest.raises(ValueError, match=rf"b.png is .* \(gray\); .* or use {tmp_path}@rgb to convert them to RGB$"):
        list(open_images(str(tmp_path)).batches(3))
    images = read_data(f"{tmp_path}@4,rgb", (3, 4, 4)).data
    assert (images[2] == 255).all()  # transparent
    assert (images[1] == images[1, :1]).all() and not (images[0] == images[0, :1]).all()


def test_hint_for_the_model(tmp_path: Path) -> None:
    """If a model needs other images, the message gives the conversion that leads there, with what was given."""
    GRAY.save(tmp_path / "a.png")
    for source, shape, hint in (
        (tmp_path, (3, HEIGHT, WIDTH), f"use {tmp_path}@rgb to convert"),
        (tmp_path, (3, 4, 4), f"use {tmp_path}@4,rgb to"),
        (tmp_path, (1, 4, 4), f"use {tmp_path}@4 to"),
        (f"{tmp_path}@rgb", (3, 4, 4), f"use {tmp_path}@4,rgb to"),
    ):
        with pytest.raises(ValueError, match=hint):
            read_data(str(source), shape)
    with pytest.raises(ValueError, match=r"is required; use .*a.png@4,rgb to"):
        read_images(f"{tmp_path}/a.png@4", [(3, 4, 4)])
    assert read_images(f"{tmp_path}/a.png@4,rgb", [(3, 4, 4)]).data.shape == (1, 3, 4, 4)


def test_arrays_become_rgb(tmp_path: Path) -> None:
    """Arrays of one or four channels are converted as files are; two channels are refused."""
    for channels, expected in ((1, np.dstack([RGBA[..., 0]] * 3)), (4, on_white(COLOURS, ALPHA))):
        np.save(tmp_path / "a.npy", RGBA[None, ..., :channels])
        (batch,) = open_images(f"{tmp_path}/a.npy@rgb").batches(2)
        assert np.abs(batch.images[0].permute(1, 2, 0).numpy() - expected).max() <= 1
    np.save(tmp_path / "a.npy", RGBA[None, ..., :2])
    with pytest.raises(ValueError, match=r"0 of .*a.npy: images with 2 channels cannot be converted to RGB"):
        open_images(f"{tmp_path}/a.npy@rgb")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a@32", ("a", Conversion(32))),
        ("a@rgb", ("a", Conversion(rgb=True))),
        ("a@32,rgb", ("a", Conversion(32, rgb=True))),
        ("a@rgb,32", ("a", Conversion(32, rgb=True))),
        ("a@b.zip", ("a@b.zip", Conversion())),
    ],
)
def test_suffixes(source: str, expected: tuple[str, Conversion]) -> None:
    """Size and rgb are given in any order."""
    assert parse_conversion(source) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation(kind: str, orientation: int) -> None:
    """The EXIF orientation is applied in every format that has one, in every direction."""
    square = np.kron(RANDOM.integers(0, 2, (3, 4, 1)), np.full((16, 16, 3), 255)).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}
    pixels = decode_image(encoded(Image.fromarray(square), kind, exif=exif, **options.get(kind, {})))
    expected = UPRIGHT[orientation](square)
    assert pixels.shape == expected.shape
    assert np.array_equal(pixels > 127, expected > 127)


def test_orientation_of_masks(tmp_path: Path) -> None:
    """Masks are turned upright as images are."""
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = True
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(mask).save(tmp_path / "mask.png", exif=exif)
    known = read_mask(tmp_path / "mask.png", (6, 4))
    assert known[0, 3] and known.sum() == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_unclear_values() -> None:
    """Values without a defined white are refused, also with ``rgb``; a corrupt EXIF does not stop an image."""
    floats = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    inverted = bytearray(encoded(Image.fromarray(DEEP[..., 0]), "TIFF"))
    photometric = inverted.index(struct.pack("<HHI", 262, 3, 1))
    inverted[photometric + 8] = 0
    for content, mode in (
        (floats, "32 bits per channel .mode F."),
        (bytes(inverted), "16 bits per channel .mode I;16."),
    ):
        with pytest.raises(ValueError, match=f"{mode} in a form that is not read; save it with 8"):
            decode_image(content, rgb=True)
    broken = png(2, 8, COLOURS, (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"))
    assert np.array_equal(decode_image(broken), COLOURS)


def test_every_suffix_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of all suffixes, in any case, are read; others are counted and named in one line, system files never."""
    kinds = {
        **dict.fromkeys(("a.jpg", "b.jfif", "c.jpe", "d.JPEG"), "JPEG"),
        **dict.fromkeys(("e.tif", "f.TIFF"), "TIFF"),
        **{"g.bmp": "BMP", "h.webp": "WEBP", "i.png": "PNG"},
    }
    (tmp_path / "photos/__MACOSX").mkdir(parents=True)
    for name, kind in kinds.items():
        (tmp_path / "photos" / name).write_bytes(encoded(Image.new("RGB", (16, 16)), kind))
    for name in ("y.HEIC", "z.avif", "x.heic", ".DS_Store", "._a.jpg", "Thumbs.db", "__MACOSX/a.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"")
    with pytest.warns(DataWarning) as caught:
        assert open_images(str(tmp_path / "photos")).count == len(kinds)
    (message,) = (str(warning.message) for warning in caught)
    assert f"{tmp_path}/photos: 3 files are passed over (2 .heic, 1 .avif)" in message and ".jfif" in message
    with pytest.warns(DataWarning, match="3 files are passed over"):
        assert main(["inpaint", "digits-vp", str(tmp_path / "photos"), "--mask", f"{tmp_path}/none.png"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_loops_of_folders(tmp_path: Path) -> None:
    """A link to a folder above it is not followed, so that every image is read once; other links are followed."""
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/x.png").write_bytes(encode_png(COLOURS))
    (tmp_path / "set/a/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/b").symlink_to(tmp_path / "set/a")
    (batch,) = open_images(str(tmp_path / "set")).batches(9)
    assert batch.names == ["a/x.png", "b/x.png"]


def test_verified_pngs_are_plain() -> None:
    """What `encode_png` writes is read; a PNG of another form is no image of a set."""
    assert np.array_equal(decode_verified_png(encode_png(COLOURS)), COLOURS)
    with pytest.raises(ValueError, match="16 bits per channel"):
        decode_verified_png(FORMS["16-bit gray"][1])
    with pytest.raises(ValueError, match="the image is not a PNG"):
        decode_verified_png(encoded(GRAY, "JPEG"))
