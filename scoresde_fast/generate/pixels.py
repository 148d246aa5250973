# SPDX-License-Identifier: Apache-2.0
"""From images in [0, 1] to 8 bits, and from 8 bits to PNG."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image
from torch import Tensor

from scoresde_fast.data.png import SIGNATURE, Pixels, decode_png

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

    Raises:
        ValueError: another number of channels.
    """
    if pixels.shape[-1] not in (1, 3):
        raise ValueError(f"images with {pixels.shape[-1]} channels cannot be written; PNG takes 1 (gray) or 3 (RGB)")
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


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
