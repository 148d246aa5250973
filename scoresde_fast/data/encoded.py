# SPDX-License-Identifier: Apache-2.0
"""8-bit images out of PNG, JPEG and WebP files, and their resizing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from scoresde_fast.data.png import SIGNATURE, Pixels, decode_png

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
JPEG_SIGNATURE = b"\xff\xd8\xff"


def decode_image(encoded: bytes) -> Pixels:
    """The bytes of a PNG, JPEG or WebP file -> (H, W, 1 or 3) uint8, as stored: a camera's note on turning is not read.

    Raises:
        ValueError: it is none of these, is damaged, has other than 8 bits a value, an alpha channel, or CMYK colours.
    """
    if encoded.startswith(SIGNATURE):
        return decode_png(encoded)
    is_webp = encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
    if not is_webp and not encoded.startswith(JPEG_SIGNATURE):
        raise ValueError("is no PNG, JPEG or WebP; convert it to one")
    kind = "WebP" if is_webp else "JPEG"
    try:
        with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"is a damaged {kind} ({error})") from error
    if mode not in ("L", "RGB"):
        found = "an alpha channel" if mode == "RGBA" else f"{mode} colours"
        raise ValueError(f"has {found}; an 8-bit gray or RGB image is needed, so convert it")
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resized(pixels: Pixels, size: int) -> Pixels:
    """The central square of (H, W, 1 or 3) uint8 -> (``size``, ``size``, C), by Pillow's antialiased Lanczos filter.

    Raises ValueError for another number of channels.
    """
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"images of {channels} channels cannot be resized; those of 1 (gray) or 3 (RGB) can")
    side = min(height, width)
    if height == width == size:
        return pixels
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    image = Image.fromarray(square[..., 0] if channels == 1 else square)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)
