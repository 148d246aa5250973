# SPDX-License-Identifier: Apache-2.0
"""Pictures that a user wants something done to: images by any name, a single file's too, and the masks of them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoresde_fast.data.encoded import SUFFIXES, decode_image
from scoresde_fast.data.images import NamedData, in_memory
from scoresde_fast.data.items import Images, Item, size_text
from scoresde_fast.data.sources import check_exists, open_images, sized

BLACK, WHITE = 0, 255
NAMED = 5
"""Values that a sentence names, of many."""


def read_pictures(source: str, shapes: Sequence[Sequence[int]]) -> NamedData:
    """The images that ``source`` names, uint8 (N, C, H, W), with their names.

    Args:
        source: one PNG, JPEG or WebP file, or images as `open_images` takes them.
        shapes: (C, H, W) that the images may have, of one height and width.

    Raises:
        ValueError, FileNotFoundError: as `scoresde_fast.data.images.read_data`.
    """
    images = _open(source)
    if tuple(images.shape) not in map(tuple, shapes):
        _, height, width = shapes[0]
        needed = " or ".join(map(size_text, shapes))
        other_size = images.shape[1:] != (height, width)
        hint = f": {sized(source)[0]}@{height} crops and resizes them" if other_size and height == width else ""
        raise ValueError(f"the images of {source} are {size_text(images.shape)}; {needed} is needed{hint}")
    return in_memory(images)


def read_masks(source: Path, names: Sequence[str], size: Sequence[int]) -> Tensor:
    """Where pixels are known, bool: (1, H, W) of a PNG for all images, or (N, H, W) of a folder with one for each.

    White is known and black unknown.

    Args:
        source: a PNG, or a folder where each image's mask has its name, and ends in .png.
        names: those of the images.
        size: (H, W) of the images.

    Raises:
        ValueError: a mask is damaged, of another size, or has other values than black and white.
        FileNotFoundError: a mask is not there.
    """
    if not source.is_dir():
        return read_mask(source, size)[None]
    paths = [source / f"{stem(name)}.png" for name in names]
    if lacking := [(name, path) for name, path in zip(names, paths, strict=True) if not path.is_file()]:
        name, path = lacking[0]
        raise FileNotFoundError(f"there is no mask {path} for the image {name}; make one for each image")
    return torch.stack([read_mask(path, size) for path in paths])


def read_mask(path: Path, size: Sequence[int]) -> Tensor:
    """Where pixels are known, (H, W) bool, of one PNG; its errors are those of `read_masks`.

    Unlike an image, a mask may have one bit a pixel, or an alpha channel that hides nothing.
    """
    check_exists(path, str(path))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            deep = image.mode.startswith("I")
            pixels = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no PNG, or a damaged one ({error}); a mask is a PNG of black and white") from error
    if pixels.shape[:2] != tuple(size):
        found, needed = (f"{height}x{width}" for height, width in (pixels.shape[:2], size))
        raise ValueError(
            f"the mask {path} is {found} pixels, and the images are {needed}: resize it without smoothing "
            "(nearest neighbour)"
        )
    if deep or (pixels[..., 3] != WHITE).any():
        found = "16 bits a value" if deep else "transparent pixels"
        raise ValueError(f"the mask {path} has {found}; save it as a PNG of black and white alone, of 8 bits")
    _require_black_and_white(path, pixels[..., :3])
    return torch.from_numpy(pixels[..., 0] == WHITE)


def stem(name: str) -> str:
    """The name of an image without its suffix, with the folders that it is in."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def _open(source: str) -> Images:
    name, size = sized(source)
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return open_images(source)
    check_exists(path, name)

    def items() -> Generator[Item, None, None]:
        try:
            yield Item(path.name, decode_image(path.read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path} {error}") from error

    return Images(source, 1, items, size)


def _require_black_and_white(path: Path, pixels: np.ndarray) -> None:
    others = np.unique(pixels[(pixels != BLACK) & (pixels != WHITE)]).tolist()
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        found = f"the values {', '.join(map(str, others[:NAMED]))}{more}"
    elif (pixels != pixels[..., :1]).any():
        found = "colours"
    else:
        return
    raise ValueError(
        f"the mask {path} has {found}; it must be of black (0, unknown) and white (255, known) alone: save it without "
        "smooth edges, or make values of at least 128 white and the others black"
    )
