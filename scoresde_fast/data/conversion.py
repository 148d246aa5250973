# SPDX-License-Identifier: Apache-2.0
"""The conversion of a source's images that its suffix requests: ``@32``, ``@rgb`` or ``@32,rgb``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from scoresde_fast.data.codecs import Pixels, on_white
from scoresde_fast.data.limits import require_pixels

_SUFFIX = re.compile(r"(.+)@(?:(\d+)(,rgb)?|(rgb)(?:,(\d+))?)", re.ASCII)


class Conversion(NamedTuple):
    """The conversion of each image.

    Attributes:
        size: crop to the central square and resize it to ``size`` x ``size``; None leaves the size.
        rgb: convert to 8-bit RGB; False leaves gray and RGB as they are, and other images are refused.
    """

    size: int | None = None
    rgb: bool = False

    def __call__(self, pixels: Pixels) -> Pixels:
        """Convert an image (H, W, C) uint8.

        Raises:
            ValueError: the image has a number of channels that cannot be converted.
        """
        if self.rgb:
            pixels = _as_rgb(pixels)
        return pixels if self.size is None else _crop_and_resize(pixels, self.size)

    def to_rgb(self, source: str) -> str:
        """Return what the user has to give for ``source`` in RGB."""
        return request(source, self.size, rgb=True)


NO_CONVERSION = Conversion()


def request(source: str, size: int | str | None, *, rgb: bool) -> str:
    """Return ``source`` with the suffix of a conversion."""
    parts = [*([] if size is None else [str(size)]), *(["rgb"] if rgb else [])]
    return f"{source}@{','.join(parts)}" if parts else source


def parse_conversion(source: str) -> tuple[str, Conversion]:
    """Split ``name@64,rgb`` into the name and the conversion; an existing path is kept as it is.

    Raises:
        ValueError: the suffix is unknown, or the size is 0 or too large.
    """
    if Path(source).exists():
        return source, NO_CONVERSION
    if (match := _SUFFIX.fullmatch(source)) is None:
        name, at, suffix = source.rpartition("@")
        if at and name and Path(name).exists():
            raise ValueError(f"{source} requests the conversion '@{suffix}'; it may be @SIZE, @rgb or @SIZE,rgb")
        return source, NO_CONVERSION
    name, first, with_rgb, rgb, last = match.groups()
    if first is None and last is None:
        return name, Conversion(rgb=True)
    size = int(first or last)
    if not size:
        raise ValueError(f"{source} requests images of 0x0; give the size in pixels, for instance @64")
    try:
        require_pixels(size, size)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return name, Conversion(size, rgb=bool(with_rgb or rgb))


def _as_rgb(pixels: Pixels) -> Pixels:
    """Return gray (H, W, 1), RGB or RGBA (H, W, 4) as RGB; transparent pixels become white."""
    channels = pixels.shape[2]
    if channels == 3:
        return pixels
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 4:
        return np.asarray(on_white(Image.fromarray(np.ascontiguousarray(pixels), "RGBA")))
    raise ValueError(f"images with {channels} channels cannot be converted to RGB; 1, 3 or 4 can")


def _crop_and_resize(pixels: Pixels, size: int) -> Pixels:
    """Resize the central square of (H, W, 1 or 3) to ``size`` x ``size`` with Pillow's antialiased Lanczos filter."""
    height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"images with {channels} channels cannot be resized; only 1 (gray) and 3 (RGB) are supported")
    if height == width == size:
        return pixels
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    image = Image.fromarray(square[..., 0] if channels == 1 else square)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)
