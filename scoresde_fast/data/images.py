# SPDX-License-Identifier: Apache-2.0
"""Named data in memory, in the shape that a model or a task needs: images, points, and masks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import prod
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.codecs import BROKEN_IMAGE, SUFFIXES, Pixels, decode_image
from scoresde_fast.data.items import Images, Item, reading, size_text
from scoresde_fast.data.official import SETS
from scoresde_fast.data.sources import check_exists, open_images, split_size

LARGEST = 1 << 31
"""Largest number of bytes of images that are read into memory."""
BATCH = 1024
BLACK, WHITE = 0, 255
NAMED = 5
"""Largest number of values that a message names."""


class NamedData(NamedTuple):
    """Images (N, C, H, W) uint8, or points (N, C, H, W) float32; and a name for each."""

    data: Tensor
    names: list[str]


def read_data(source: str, shape: Sequence[int], *, is_image: bool = True, trust_pickle: bool = False) -> NamedData:
    """Read the images, or points, that ``source`` names, in its order.

    Args:
        source: images as `open_images` takes them. Points are ``position`` (N, C, H, W) of a .npz, as ``scoresde-fast
            sample`` writes them, or a data set.
        shape: (C, H, W) of each, as a model needs it.
        is_image: whether the model is of images, or else of points.
        trust_pickle: as for `open_images`.

    Raises:
        ValueError: an unknown data set or format; data that are empty, damaged or larger than 2 GiB; an image that is
            not 8-bit; a shape that differs within the data or from ``shape``.
        FileNotFoundError: there is no such file.
    """
    if not is_image:
        return _read_points(source, shape)
    return _in_memory(_open_shaped(source, shape, trust_pickle=trust_pickle))


def training_data(source: str, shape: Sequence[int], *, is_image: bool = True) -> Tensor | Images:
    """Return the data of `read_data`; more than 2 GiB of a folder or a .npy stay in their files.

    Raises:
        ValueError, FileNotFoundError: as `read_data`, also for more than 2 GiB of other formats.
    """
    if not is_image:
        return _read_points(source, shape).data
    images = _open_shaped(source, shape)
    if images.by_number and images.count * prod(images.shape) > LARGEST:
        return images
    return _in_memory(images).data


def read_pictures(source: str, shapes: Sequence[Sequence[int]]) -> NamedData:
    """Read the images that ``source`` names, uint8 (N, C, H, W), with their names.

    Args:
        source: one PNG, JPEG or WebP file, or images as `open_images` takes them.
        shapes: allowed (C, H, W), of one height and width.

    Raises:
        ValueError, FileNotFoundError: as `read_data`.
    """
    images = _open_pictures(source)
    if tuple(images.shape) not in map(tuple, shapes):
        _, height, width = shapes[0]
        needed = " or ".join(map(size_text, shapes))
        other_size = images.shape[1:] != (height, width)
        hint = f": {split_size(source)[0]}@{height} crops and resizes them" if other_size and height == width else ""
        raise ValueError(f"the images of {source} are {size_text(images.shape)}; {needed} is needed{hint}")
    return _in_memory(images)


def read_masks(source: Path, names: Sequence[str], size: Sequence[int]) -> Tensor:
    """Read which pixels are known, bool: (1, H, W) of a PNG for all images, or (N, H, W) of a folder.

    White is known and black unknown.

    Args:
        source: a PNG, or a folder with a mask for each image, which has the image's name and ends in .png.
        names: of the images.
        size: (H, W) of the images.

    Raises:
        ValueError: a mask is damaged, of another size, or has other values than black and white.
        FileNotFoundError: a mask is missing.
    """
    if not source.is_dir():
        return read_mask(source, size)[None]
    paths = [source / f"{stem(name)}.png" for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            raise FileNotFoundError(f"there is no mask {path} for the image {name}; make one for each image")
    return torch.stack([read_mask(path, size) for path in paths])


def read_mask(path: Path, size: Sequence[int]) -> Tensor:
    """Read which pixels are known, (H, W) bool, of one PNG; raise the errors of `read_masks`.

    Unlike an image, a mask may have one bit a pixel, or an alpha channel that hides nothing.
    """
    check_exists(path, str(path))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            deep = image.mode.startswith("I")
            pixels = np.asarray(image.convert("RGBA"))
    except BROKEN_IMAGE as error:
        raise ValueError(f"{path} is not a PNG, or is damaged ({error}); a mask is a black and white PNG") from error
    if pixels.shape[:2] != tuple(size):
        found, needed = (f"{height}x{width}" for height, width in (pixels.shape[:2], size))
        raise ValueError(
            f"the mask {path} is {found} pixels, and the images are {needed}: resize it without smoothing "
            "(nearest neighbour)"
        )
    if deep or (pixels[..., 3] != WHITE).any():
        found = "16 bits a value" if deep else "transparent pixels"
        raise ValueError(f"the mask {path} has {found}; save it as a PNG of black and white alone, of 8 bits")
    if found := _other_colours(pixels[..., :3]):
        raise ValueError(
            f"the mask {path} has {found}; it must be of black (0, unknown) and white (255, known) alone: save it "
            "without smooth edges, or make values of at least 128 white and the others black"
        )
    return torch.from_numpy(pixels[..., 0] == WHITE)


def stem(name: str) -> str:
    """Return the name of an image, with its folders but without its suffix."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def _other_colours(pixels: Pixels) -> str:
    """Return what a mask (H, W, 3) has besides black and white; empty if it has nothing else."""
    others = np.unique(pixels[(pixels != BLACK) & (pixels != WHITE)]).tolist()
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        return f"the values {', '.join(map(str, others[:NAMED]))}{more}"
    return "colours" if (pixels != pixels[..., :1]).any() else ""


def _open_shaped(source: str, shape: Sequence[int], *, trust_pickle: bool = False) -> Images:
    if source.partition(":")[0] in POINT_SETS:
        raise ValueError(f"{source} has points; this model is of images")
    images = open_images(source, trust_pickle=trust_pickle)
    _check_shape(source, "images", images.shape, shape)
    return images


def _open_pictures(source: str) -> Images:
    name, size = split_size(source)
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


def _in_memory(images: Images) -> NamedData:
    """Read every image of a source; raise ValueError where they exceed `LARGEST`."""
    if (length := images.count * prod(images.shape)) > LARGEST:
        raise ValueError(
            f"the images of {images.source} take {length / 2**30:.1f} GiB, and at most {LARGEST >> 30} GiB are read "
            "into memory; give a part of them, or, to train, a folder or a .npy, which stay where they are"
        )
    data = torch.empty(images.count, *images.shape, dtype=torch.uint8)
    names: list[str] = []
    for batch in images.batches(BATCH):
        data[len(names) : len(names) + len(batch.names)] = batch.images
        names += batch.names
    return NamedData(data, names)


def _read_points(source: str, shape: Sequence[int]) -> NamedData:
    name, _, split = source.partition(":")
    if name in POINT_SETS:
        data = load_dataset(name, split or "all")[0]
    elif name in (*DATASETS, *SETS):
        raise ValueError(f"{source} has images; this model is of points")
    elif Path(source).suffix == ".npz":
        data = _read_positions(Path(source))
    else:
        check_exists(Path(source), source)
        raise ValueError(
            f"{source} has no points; name one of {', '.join(sorted(POINT_SETS))}, or a .npz with position"
        )
    if not len(data):
        raise ValueError(f"{source} has no points")
    _check_shape(source, "points", data.shape[1:], shape)
    return NamedData(data, [str(index) for index in range(len(data))])


def _read_positions(path: Path) -> Tensor:
    check_exists(path, str(path))
    with reading(str(path)), np.load(path, allow_pickle=False) as archive:
        if "position" not in archive:
            raise ValueError(f"{path} has {', '.join(archive) or 'nothing'}; points are position (N, C, H, W)")
        array = archive["position"]
    if array.ndim != 4 or array.dtype.kind != "f":
        raise ValueError(f"position of {path} is {array.dtype} {array.shape}; points are (N, C, H, W), of floats")
    return torch.from_numpy(array.astype(np.float32))


def _check_shape(source: str, kind: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(found) != tuple(wanted):
        raise ValueError(f"the {kind} of {source} are {size_text(found)}; this model needs {size_text(wanted)}")
