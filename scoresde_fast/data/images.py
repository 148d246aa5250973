# SPDX-License-Identifier: Apache-2.0
"""The data that a user names: a data set, a folder of PNGs, a .zip of them, or a .npz."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data import DATASETS, load_dataset
from scoresde_fast.data.png import Pixels, decode_png
from scoresde_fast.errors import unknown

GRIDS = ("grid.png",)
"""PNGs in a folder of samples that are none of the set: the picture of its first ones."""


class NamedData(NamedTuple):
    """Images (N, C, H, W) uint8, or points (N, C, H, W) float32; and a name for each."""

    data: Tensor
    names: list[str]


def read_data(source: str, shape: Sequence[int], *, is_image: bool = True) -> NamedData:
    """The images, or points, that ``source`` names, in the order of their names.

    Args:
        source: a data set with an optional split ("digits", "digits:test"), which wins over a file of that name (write
            ./digits for that); a folder of PNGs; a .zip of PNGs; or a .npz with ``arr_0`` (N, H, W, C) uint8. Points
            are ``position`` (N, C, H, W) of a .npz, as ``scoresde-fast sample`` writes them, or a data set.
        shape: (C, H, W) of each, as a model needs it.
        is_image: images are wanted, else points.

    Raises:
        ValueError: there is no such data set or format, nothing is in it, an image is not 8-bit, or a shape is not
            that of the others or not ``shape``.
        FileNotFoundError: there is no such file.
    """
    found = _read(source, is_image)
    kind = "images" if is_image else "points"
    if not len(found.data):
        raise ValueError(f"{source} has no {kind}")
    if (found.data.dtype == torch.uint8) != is_image:
        raise ValueError(f"{source} has {'points' if is_image else 'images'}; this model is of {kind}")
    if tuple(found.data.shape[1:]) != tuple(shape):
        raise ValueError(f"the {kind} of {source} are {_size(found.data.shape[1:])}; this model needs {_size(shape)}")
    return found


def _read(source: str, is_image: bool) -> NamedData:
    name, colon, split = source.partition(":")
    if name in DATASETS:
        data = load_dataset(name, split if colon else "all")[0]
        return NamedData(data, _numbered(data))
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise FileNotFoundError(f"there is no file and no folder {source!r}")
        raise ValueError(unknown("data set", name, DATASETS) + ", or name a folder of PNGs, a .zip of them or a .npz")
    readers = {".npz": _read_npz if is_image else _read_points, ".zip": _read_zip}
    if path.suffix not in readers:
        raise ValueError(f"{source} cannot be read; name a folder of PNGs, a .zip of them, a .npz or a data set")
    try:
        return readers[path.suffix](path)
    except (BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"{source} is damaged, or no {path.suffix} ({str(error).strip(chr(39))})") from error


def _read_folder(folder: Path) -> NamedData:
    # With a description beside it, the grid is the picture that a run of samples ends with.
    skipped = GRIDS if (folder / "samples.json").exists() else ()
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name not in skipped)
    return _stacked(str(folder), ((path.name, path.read_bytes()) for path in paths))


def _read_zip(path: Path) -> NamedData:
    with ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if PurePosixPath(name).suffix.lower() == ".png")
        return _stacked(str(path), ((name, archive.read(name)) for name in names))


def _read_npz(path: Path) -> NamedData:
    with np.load(path, allow_pickle=False) as archive:
        if "arr_0" not in archive:
            raise ValueError(f"{path} has {', '.join(archive) or 'nothing'}; images are arr_0 (N, H, W, C) uint8")
        array = archive["arr_0"]
    if array.dtype != np.uint8:
        raise ValueError(f"arr_0 of {path} is {array.dtype}; 8-bit images, uint8, are needed")
    if array.ndim != 4:
        raise ValueError(f"arr_0 of {path} has shape {array.shape}; images are (N, H, W, C)")
    return _channels_first(array, None)


def _read_points(path: Path) -> NamedData:
    with np.load(path, allow_pickle=False) as archive:
        if "position" not in archive:
            raise ValueError(f"{path} has {', '.join(archive) or 'nothing'}; points are position (N, C, H, W)")
        array = archive["position"]
    if array.ndim != 4 or array.dtype.kind != "f":
        raise ValueError(f"position of {path} is {array.dtype} {array.shape}; points are (N, C, H, W), of floats")
    data = torch.from_numpy(array.astype(np.float32))
    return NamedData(data, _numbered(data))


def _stacked(source: str, files: Iterable[tuple[str, bytes]]) -> NamedData:
    names: list[str] = []
    images: list[Pixels] = []
    for name, png in files:
        try:
            pixels = decode_png(png)
        except ValueError as error:
            raise ValueError(f"{name} of {source} {error}") from error
        if images and pixels.shape != images[0].shape:
            sizes = [_size((image.shape[2], *image.shape[:2])) for image in (images[0], pixels)]
            raise ValueError(
                f"images of {source} have different sizes: {names[0]} is {sizes[0]}, {name} is {sizes[1]}; give "
                "images of one size"
            )
        names.append(name)
        images.append(pixels)
    return _channels_first(np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8), names)


def _channels_first(array: Pixels, names: list[str] | None) -> NamedData:
    data = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    return NamedData(data, _numbered(data) if names is None else names)


def _numbered(data: Tensor) -> list[str]:
    return [str(index) for index in range(len(data))]


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height}x{width} of {channels} channel{'s' if channels > 1 else ''}"
