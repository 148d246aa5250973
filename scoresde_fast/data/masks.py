# SPDX-License-Identifier: Apache-2.0
"""Masks of known pixels, read from black and white PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data.codecs import PNG_SIGNATURE, Pixels, load_image, open_image
from scoresde_fast.data.file_names import SUFFIXES
from scoresde_fast.data.limits import read_limited
from scoresde_fast.data.sources import check_exists

BLACK, WHITE = 0, 255
OPAQUE = 255
MAX_LISTED_VALUES = 5
"""Number of invalid values that a message lists."""


def read_masks(source: Path, names: Sequence[str], size: Sequence[int]) -> Tensor:
    """Read masks of known pixels: bool (1, H, W) from one PNG shared by all images, or (N, H, W) from a folder.

    White is known and black unknown.

    Args:
        source: a PNG, or a folder with a mask for each image, named like the image but with the suffix .png.
        names: names of the images.
        size: (H, W) of the images.

    Raises:
        ValueError: a mask is corrupt, has another size, or has other values than black and white.
        FileNotFoundError: a mask is missing.
    """
    if not source.is_dir():
        return read_mask(source, size)[None]
    paths = [source / f"{without_image_suffix(name)}.png" for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"there is no mask {path} for the image {name}; make one for each image")
    return torch.stack([read_mask(path, size) for path in paths])


def read_mask(path: Path, size: Sequence[int]) -> Tensor:
    """Read a mask of known pixels, bool (H, W), from one PNG; raise the errors of `read_masks`.

    Unlike images, masks may be 1-bit or have a fully opaque alpha channel.
    """
    check_exists(path, str(path))
    try:
        encoded = read_limited(path, str(path))
        if not encoded.startswith(PNG_SIGNATURE):
            raise ValueError("another format")
        image = load_image(open_image(encoded, "PNG"), "PNG")
    except ValueError as error:
        raise ValueError(f"{path} is not a PNG or is corrupt ({error}); a mask is a black and white PNG") from error
    is_16_bit = image.mode.startswith("I")
    pixels = np.asarray(image.convert("RGBA"))
    if pixels.shape[:2] != tuple(size):
        mask_size, image_size = (f"{height}x{width}" for height, width in (pixels.shape[:2], size))
        raise ValueError(
            f"the mask {path} is {mask_size}, but the images are {image_size}: resize it with nearest-neighbour "
            "interpolation"
        )
    if is_16_bit or (pixels[..., 3] != OPAQUE).any():
        fault = "is 16-bit" if is_16_bit else "has transparent pixels"
        raise ValueError(f"the mask {path} {fault}; save it as an 8-bit black and white PNG")
    if others := _other_values(pixels[..., :3]):
        raise ValueError(
            f"the mask {path} has {others}, but may contain only black (0, unknown) and white (255, known): disable "
            "antialiasing, or threshold it at 128"
        )
    return torch.from_numpy(pixels[..., 0] == WHITE)


def without_image_suffix(name: str) -> str:
    """Return the name of an image, folders included, without its suffix."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def _other_values(pixels: Pixels) -> str:
    """Describe the values of a mask (H, W, 3) other than black and white, or return ""."""
    values = np.unique(pixels[(pixels != BLACK) & (pixels != WHITE)]).tolist()
    if values:
        more = f" and {len(values) - MAX_LISTED_VALUES} more" if len(values) > MAX_LISTED_VALUES else ""
        return f"the values {', '.join(map(str, values[:MAX_LISTED_VALUES]))}{more}"
    return "colours" if (pixels != pixels[..., :1]).any() else ""
