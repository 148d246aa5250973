# SPDX-License-Identifier: Apache-2.0
"""From images in [0, 1] to 8 bits, and from 8 bits to PNG."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image
from torch import Tensor

from scoresde_fast.data.png import Pixels

ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"floor": Tensor.floor, "round": Tensor.round}
"""How 255 x becomes an integer: ``floor`` truncates as the original programs do, ``round`` takes the nearest."""


def to_pixels(images: Tensor, rounding: str) -> Pixels:
    """(B, C, H, W) float in [0, 1] -> (B, H, W, C) uint8: ``clip(rounding(255 x), 0, 255)``."""
    levels = ROUNDINGS[rounding](images.detach().float() * 255).clamp(0, 255).byte()
    pixels: Pixels = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
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
