# SPDX-License-Identifier: Apache-2.0
"""Decoding of image files to 8-bit gray or RGB, and a fast PNG encoder."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from scoresde_fast.data.limits import require_pixels

Pixels = npt.NDArray[np.uint8]

FORMATS: dict[str, type[ImageFile]] = {
    "BMP": BmpImagePlugin.BmpImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
"""The formats that are read. `Image.open` would also warn of large images before they are refused."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIGNATURES = {
    PNG_SIGNATURE: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
}
"""The first bytes of a file of each format but WebP, whose first bytes are those of any RIFF."""
DEPTH_OFFSET = 24
"""Byte offset of the bit depth in a PNG (PNG specification, 11.2.2)."""
TILE_WIDTH, TILE_LENGTH, BITS_PER_SAMPLE, PHOTOMETRIC, MIN_IS_WHITE = 322, 323, 258, 262, 0
"""Tags of a TIFF, and a value of one (TIFF 6.0)."""
GRAY, RGB = 0, 2
"""Colour types of a PNG that `encode_png` writes."""
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks of a PNG that decide its pixels."""
UP = 2
"""PNG filter type Up: difference from the row above (PNG specification, 9.2)."""
DEPTHS = (1, 2, 4, 8, 16)
"""Bits per channel that are scaled to 8."""
PLAIN_MODES = ("L", "RGB", "P")
"""Modes of images that need no conversion. The colours of a palette have 8 bits."""


class ModeError(ValueError):
    """An image is not 8-bit gray or RGB, but can be converted."""


def decode_image(encoded: bytes, *, rgb: bool = False) -> Pixels:
    """Return the pixels (H, W, 1 or 3) uint8 of an image file, upright by its EXIF orientation.

    Of an animation or a file with several pages, the first image is read. Colour profiles are ignored.

    Args:
        encoded: content of a PNG, JPEG, WebP, BMP or TIFF.
        rgb: convert to RGB: of 16 bits the higher 8, CMYK by Pillow's formula, and transparent pixels on white.

    Raises:
        ModeError: without ``rgb``, the image has an alpha channel, or is not 8-bit gray or RGB.
        ValueError: another format, a corrupt file, too many pixels, or values that cannot be converted.
    """
    kind = image_format(encoded)
    image = open_image(encoded, kind)
    with corrupt_errors(kind):
        depth, inverted = _bit_depth(image, encoded), _tag(image, PHOTOMETRIC) == MIN_IS_WHITE
    is_ambiguous = depth == 16 and (inverted or "transparency" in image.info)
    if depth not in DEPTHS or image.mode in ("I", "F") or is_ambiguous:
        raise ValueError(
            f"the image has {depth} bits per channel (mode {image.mode}) in a form that is not read; save it with 8"
        )
    if not rgb and (fault := _fault(image, depth)):
        raise ModeError(f"the image {fault}, but 8-bit gray or RGB is required")
    upright = load_image(image, kind)
    if rgb:
        pixels = np.asarray(_to_rgb(upright))
    else:
        pixels = np.asarray(upright.convert("RGB") if upright.mode == "P" else upright)
    return pixels[..., None] if pixels.ndim == 2 else pixels


@contextmanager
def corrupt_errors(kind: str) -> Iterator[None]:
    """Re-raise the errors of Pillow as a ValueError that says that the file is corrupt."""
    try:
        yield
    except Exception as error:  # Pillow raises many classes for corrupt files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the {kind} is corrupt ({reason})") from error


def image_format(encoded: bytes) -> str:
    """Return the key of `FORMATS` that the first bytes show; raise ValueError for another format."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "WebP"
    for signature, kind in SIGNATURES.items():
        if encoded.startswith(signature):
            return kind
    fault = "is not a PNG, JPEG, WebP, BMP or TIFF; convert it to one" if encoded else "file is empty; remove it"
    raise ValueError(f"the image {fault}")


def open_image(encoded: bytes, kind: str) -> ImageFile:
    """Read the header of an image; raise ValueError if it is corrupt or declares too many pixels."""
    if kind == "PNG":
        _require_checksums(encoded, PIXEL_CHUNKS)  # Pillow does not verify that of the pixels
    with corrupt_errors(kind):
        image = FORMATS[kind](io.BytesIO(encoded))
        tile = _tag(image, TILE_LENGTH) or 1, _tag(image, TILE_WIDTH) or 1
    require_pixels(image.height, image.width)
    require_pixels(*tile)  # libtiff takes memory for a whole tile
    return image


def load_image(image: ImageFile, kind: str) -> Image.Image:
    """Return an opened image with its pixels, upright by its EXIF orientation; raise ValueError if it is corrupt."""
    with corrupt_errors(kind):
        image.load()
    if image.info:  # the orientation is in the EXIF or XMP data; `load` turns a TIFF
        with suppress(Exception):  # corrupt data, for which Pillow raises many classes, have no orientation
            ImageOps.exif_transpose(image, in_place=True)
    return image


def on_white(image: Image.Image) -> Image.Image:
    """Return an image with transparency as RGB, composited on white."""
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")


def encode_png(pixels: Pixels) -> bytes:
    """Encode (H, W, 1 or 3) uint8 as a gray or RGB PNG; equal pixels give equal bytes.

    It is twice as fast as Pillow at 32x32; this matters when encoding shares the CPU with sampling.  All rows use the
    filter `UP`: files are 3 to 10 % larger than with the best filter for each row.

    Raises:
        ValueError: the number of channels is not 1 or 3.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels cannot be saved as PNG; use 1 (gray) or 3 (RGB)")
    rows = np.full((height, 1 + width * channels), UP, np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    rows[1:, 1:] -= pixels[:-1].reshape(height - 1, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY if channels == 1 else RGB, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.data)), _chunk(b"IEND", b""))
    return b"".join((PNG_SIGNATURE, *chunks))


def decode_verified_png(png: bytes) -> Pixels:
    """Return the pixels (H, W, 1 or 3) uint8 of a PNG written by `encode_png`; verify the CRC of every chunk.

    Raises:
        ValueError: the file is truncated, a CRC is wrong, or the file is not an 8-bit gray or RGB PNG.
    """
    if not png.startswith(PNG_SIGNATURE):
        raise ValueError("the image is not a PNG; convert it to one")
    _require_checksums(png, None)
    return decode_image(png)


def _require_checksums(png: bytes, chunks: Collection[bytes] | None) -> None:
    """Raise ValueError if a PNG is truncated, or the CRC of one of ``chunks`` is wrong; None stands for all chunks."""
    offset, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":  # chunks of length, kind, data and CRC (PNG specification, 5.3); what follows is ignored
        (length,) = struct.unpack(">I", png[offset : offset + 4].ljust(4, b"\0"))
        kind, end = png[offset + 4 : offset + 8], offset + 12 + length
        if end > len(png):
            raise ValueError("the PNG is truncated or corrupt")
        is_checked = chunks is None or kind in chunks
        if is_checked and zlib.crc32(png[offset + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            raise ValueError("the PNG is corrupt: a checksum is wrong")
        offset = end
    if chunks is None and offset != len(png):
        raise ValueError("the PNG is corrupt: data follow its end")


def _bit_depth(image: ImageFile, encoded: bytes) -> int:
    """Return the bits per channel. The mode does not tell them: Pillow opens 16-bit colours as 8-bit ones."""
    if image.mode in ("1", "P"):
        return 1 if image.mode == "1" else 8
    if isinstance(image, PngImagePlugin.PngImageFile):
        return encoded[DEPTH_OFFSET]
    return max(_tag(image, BITS_PER_SAMPLE) or (8,))


def _tag(image: ImageFile, tag: int) -> Any:
    """Return the value of a tag of a TIFF; None if it is missing or the image is no TIFF."""
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _fault(image: ImageFile, depth: int) -> str:
    """Say why an image is not 8-bit gray or RGB; return "" if it is."""
    if image.has_transparency_data:
        return f"has an alpha channel or transparent colours (mode {image.mode})"
    if depth != 8:
        return f"has {depth} bit{'s' if depth > 1 else ''} per channel (mode {image.mode})"
    return "" if image.mode in PLAIN_MODES else f"has {image.mode} colours"


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; raise ValueError if Pillow cannot."""
    if image.mode.startswith("I;16"):  # Pillow would clip values above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    try:
        return on_white(image) if image.has_transparency_data else image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"the image has {image.mode} colours, which cannot be converted; save it as RGB") from error


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Encode a chunk (PNG specification, 5.3)."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))
