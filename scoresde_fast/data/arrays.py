# SPDX-License-Identifier: Apache-2.0
"""Images as users have them in Python: tensors, NumPy arrays, and images of Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ArrayLike = Tensor | npt.NDArray[Any] | Sequence[Any] | Any
"""A tensor, an array, an image of Pillow, or a list of images."""


def as_tensor(images: ArrayLike) -> Tensor:
    """Return an array as a tensor, images of Pillow as uint8: one as (C, H, W), a list of them as (N, C, H, W).

    Raises:
        ValueError: the images of a list differ in size or mode.
        TypeError: ``images`` is a path.
    """
    if hasattr(images, "getbands"):
        return _pixels(images)
    if isinstance(images, list | tuple) and images and all(hasattr(image, "getbands") for image in images):
        pixels = [_pixels(image) for image in images]
        if len({each.shape for each in pixels}) > 1:
            raise ValueError(
                f"the images have shapes {sorted({tuple(each.shape) for each in pixels})}; give images of one size and "
                "mode"
            )
        return torch.stack(pixels)
    if isinstance(images, str | PathLike):
        raise TypeError(f"{str(images)!r} is a path; open it first, for example with PIL.Image.open")
    return images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images), device="cpu")


def as_unit_images(images: ArrayLike) -> Tensor:
    """Return images as a tensor; 8-bit values are scaled to [0, 1]."""
    tensor = as_tensor(images)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor


def _pixels(image: Any) -> Tensor:
    """Return the pixels (C, H, W) uint8 of an image of Pillow; a palette and 1-bit values become colours or gray."""
    if image.mode in ("P", "1"):
        image = image.convert("RGB" if image.mode == "P" else "L")
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
