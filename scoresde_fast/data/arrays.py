# SPDX-License-Identifier: Apache-2.0
"""Images as users have them in Python: tensors, NumPy arrays, and images of Pillow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ArrayLike = Tensor | npt.NDArray[Any] | Sequence[Any] | Any
"""A tensor, an array, an image of Pillow, or a list of images."""

MODES = {"L": 1, "RGB": 3}
"""The modes of Pillow that images may have, with their numbers of channels."""
ORIENTATION, UPRIGHT = 0x0112, 1
"""The EXIF tag of the orientation, and its value for an image that needs no turn."""


def as_tensor(images: ArrayLike, channels: Collection[int] = (1, 3)) -> Tensor:
    """Return an array as a tensor, images of Pillow as uint8: one as (C, H, W), a list of them as (N, C, H, W).

    Args:
        images: the images.
        channels: the allowed numbers of channels of an image of Pillow; others are not checked.

    Raises:
        ValueError: the images of a list differ in size or mode; an image of Pillow is not 8-bit gray or RGB with an
            allowed number of channels, or has an EXIF orientation that is not applied.
        TypeError: ``images`` is a path.
    """
    if hasattr(images, "getbands"):
        return _pixels(images, channels)
    if isinstance(images, list | tuple) and images and all(hasattr(image, "getbands") for image in images):
        pixels = [_pixels(image, channels) for image in images]
        if len({each.shape for each in pixels}) > 1:
            raise ValueError(
                f"the images have shapes {sorted({tuple(each.shape) for each in pixels})}; give images of one size and "
                "mode"
            )
        return torch.stack(pixels)
    if isinstance(images, str | PathLike):
        raise TypeError(f"{str(images)!r} is a path; open it first, for example with PIL.Image.open")
    return images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images), device="cpu")


def as_unit_images(images: ArrayLike, channels: Collection[int] = (1, 3)) -> Tensor:
    """Return the result of `as_tensor`, 8-bit values scaled to [0, 1]; the errors are the same."""
    tensor = as_tensor(images, channels)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


def _pixels(image: Any, channels: Collection[int]) -> Tensor:
    """Return the pixels (C, H, W) uint8 of an image of Pillow; a palette and 1-bit values become colours or gray."""
    if (orientation := image.getexif().get(ORIENTATION, UPRIGHT)) != UPRIGHT:
        raise ValueError(
            f"the image has the EXIF orientation {orientation}; turn it upright with PIL.ImageOps.exif_transpose(image)"
        )
    mode = image.mode
    if mode in ("P", "1") and not image.has_transparency_data:
        image = image.convert("RGB" if mode == "P" else "L")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"the image has the mode {mode}; scale its values to 8 bits and save it as gray or RGB")
    if MODES.get(image.mode) not in channels:
        wanted = "RGB" if MODES["RGB"] in channels else "L"
        raise ValueError(
            f"the image has the mode {mode}, but {' or '.join(map(str, channels))} 8-bit channels are required; use "
            f'image.convert("{wanted}")'
        )
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
