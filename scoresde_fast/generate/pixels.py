# SPDX-License-Identifier: Apache-2.0
"""From images in [0, 1] to 8 bits, and from 8 bits to PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from torch import Tensor

from scoresde_fast.data.png import GRAY, RGB, SIGNATURE, Pixels, decode_png

COLOURS = {1: GRAY, 3: RGB}
"""Kinds of colour by the number of channels."""
UP = 2
"""The filter that takes the difference to the row above (PNG specification, 9.2)."""
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"floor": Tensor.floor, "round": Tensor.round}
"""How 255 x becomes an integer: ``floor`` truncates as the original programs do, ``round`` takes the nearest."""


def to_levels(images: Tensor, rounding: str) -> Tensor:
    """(B, C, H, W) float in [0, 1] -> (B, H, W, C) uint8 on the same device: ``clip(rounding(255 x), 0, 255)``."""
    levels = ROUNDINGS[rounding](images.detach().float() * 255).clamp(0, 255).byte()
    return levels.permute(0, 2, 3, 1).contiguous()


def to_pixels(images: Tensor, rounding: str) -> Pixels:
    """The same as an array."""
    pixels: Pixels = to_levels(images, rounding).cpu().numpy()
    return pixels


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 1 or 3) uint8 -> the bytes of a gray or RGB PNG, the same for the same pixels.

    Written here, since at 32x32 it takes a third of Pillow's time, which a sampler on the same machine pays for.  Every
    row is the difference to the one above it, which costs 3 to 10 % of size against a filter chosen row by row.

    Raises:
        ValueError: another number of channels.
    """
    height, width, channels = pixels.shape
    if channels not in COLOURS:
        raise ValueError(f"images with {channels} channels cannot be written; PNG takes 1 (gray) or 3 (RGB)")
    rows = np.full((height, 1 + width * channels), UP, np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    rows[1:, 1:] -= pixels[:-1].reshape(height - 1, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows.data)), _chunk(b"IEND", b""))
    return b"".join((SIGNATURE, *chunks))


def _chunk(kind: bytes, data: bytes) -> bytes:
    """PNG specification, 5.3."""
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))))


def decode_own_png(png: bytes) -> Pixels:
    """What `encode_png` wrote -> (H, W, 1 or 3) uint8.

    Raises:
        ValueError: it is no PNG, or not every bit of it is as it was written.
    """
    place = len(SIGNATURE)
    kind = b""
    while place < len(png):  # chunks of length, kind, data and checksum (PNG specification, 5.3)
        (length,) = struct.unpack(">I", png[place : place + 4].ljust(4, b"\0"))
        kind, end = png[place + 4 : place + 8], place + 12 + length
        if end > len(png) or zlib.crc32(png[place + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            raise ValueError("is damaged")
        place = end
    if png.startswith(SIGNATURE) and kind != b"IEND":
        raise ValueError("is cut off")
    return decode_png(png)
