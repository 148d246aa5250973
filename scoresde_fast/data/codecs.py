# SPDX-License-Identifier: Apache-2.0
"""8-bit images from and to the bytes of image files: PNG, JPEG and WebP are read, PNG is written."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
DEPTH, COLOUR = 24, 25
"""Offsets of the bits of a value and of the colour type in a PNG (PNG specification, 11.2.2)."""
GRAY, RGB, PALETTE = 0, 2, 3
UP = 2
"""The PNG filter that takes the difference to the row above (PNG specification, 9.2)."""
BROKEN_IMAGE = (OSError, SyntaxError, Image.DecompressionBombError)
"""The errors of Pillow for a damaged image."""


def decode_image(encoded: bytes) -> Pixels:
    """Decode a PNG, JPEG or WebP file -> (H, W, 1 or 3) uint8, as stored: EXIF orientation is ignored.

    Raises:
        ValueError: another format, a damaged file, values of other than 8 bits, an alpha channel, or CMYK colours.
    """
    if encoded.startswith(PNG_SIGNATURE):
        return _decode_png(encoded)
    is_webp = encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
    if not is_webp and not encoded.startswith(JPEG_SIGNATURE):
        raise ValueError("is not a PNG, JPEG or WebP image; convert it to one")
    kind = "WebP" if is_webp else "JPEG"
    try:
        with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except BROKEN_IMAGE as error:
        raise ValueError(f"is a damaged {kind} ({error})") from error
    if mode not in ("L", "RGB"):
        found = "an alpha channel" if mode == "RGBA" else f"{mode} colours"
        raise ValueError(f"has {found}; an 8-bit gray or RGB image is needed, so convert it")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def encode_png(pixels: Pixels) -> bytes:
    """Encode (H, W, 1 or 3) uint8 as a gray or RGB PNG; equal pixels give equal bytes.

    At 32x32 this takes half of Pillow's time, and the time is the sampler's where both share a processor.  Every row
    uses the filter `UP`, which costs 3 to 10 % of size against a choice for each row.

    Raises:
        ValueError: another number of channels.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels cannot be written; PNG takes 1 (gray) or 3 (RGB)")
    rows = np.full((height, 1 + width * channels), UP, np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    rows[1:, 1:] -= pixels[:-1].reshape(height - 1, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, GRAY if channels == 1 else RGB, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.data)), _chunk(b"IEND", b""))
    return b"".join((PNG_SIGNATURE, *chunks))


def decode_intact_png(png: bytes) -> Pixels:
    """Decode a PNG that `encode_png` wrote -> (H, W, 1 or 3) uint8, and check every bit of it.

    Raises:
        ValueError: the file is cut off, a checksum is wrong, or it is not such a PNG.
    """
    place = len(PNG_SIGNATURE)
    kind = b""
    while place < len(png):  # chunks of length, kind, data and checksum (PNG specification, 5.3)
        (length,) = struct.unpack(">I", png[place : place + 4].ljust(4, b"\0"))
        kind, end = png[place + 4 : place + 8], place + 12 + length
        if end > len(png) or zlib.crc32(png[place + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            raise ValueError("is damaged")
        place = end
    if png.startswith(PNG_SIGNATURE) and kind != b"IEND":
        raise ValueError("is cut off")
    return _decode_png(png)


def _decode_png(png: bytes) -> Pixels:
    if not png.startswith(PNG_SIGNATURE) or len(png) <= COLOUR:
        raise ValueError("is not a PNG; convert it to one")
    depth, colour = png[DEPTH], png[COLOUR]
    if colour not in (GRAY, RGB, PALETTE):
        raise ValueError("has an alpha channel; an 8-bit gray or RGB PNG is needed, so remove it")
    # In a palette image the header has the bits of an index; the colours have 8.
    if colour != PALETTE and depth != 8:
        raise ValueError(f"has {depth} bits a value; 8 are needed")
    try:
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB") if colour == PALETTE else image)
    except BROKEN_IMAGE as error:
        raise ValueError(f"is a damaged PNG ({error})") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk (PNG specification, 5.3)."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))
