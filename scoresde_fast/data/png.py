# SPDX-License-Identifier: Apache-2.0
"""8-bit images out of PNG files, and no others."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTH, COLOUR = 24, 25
"""Where the header has the bits of a value and the kind of colour (PNG specification, 11.2.2)."""
GRAY, RGB, PALETTE = 0, 2, 3


def decode_png(png: bytes) -> Pixels:
    """The bytes of a PNG file -> (H, W, 1 or 3) uint8.

    Raises:
        ValueError: it is no PNG, is damaged, has other than 8 bits a value, or an alpha channel.
    """
    if not png.startswith(SIGNATURE) or len(png) <= COLOUR:
        raise ValueError("is no PNG; convert it to one")
    depth, colour = png[DEPTH], png[COLOUR]
    if colour not in (GRAY, RGB, PALETTE):
        raise ValueError("has an alpha channel; an 8-bit gray or RGB PNG is needed, so remove it")
    # Of a palette's images the header says the bits of an index; the colours have 8.
    if colour != PALETTE and depth != 8:
        raise ValueError(f"has {depth} bits a value; 8 are needed")
    try:
        with Image.open(io.BytesIO(png)) as image:
            pixels = np.asarray(image.convert("RGB") if colour == PALETTE else image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"is a damaged PNG ({error})") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels
