# SPDX-License-Identifier: Apache-2.0
"""The data that a user names as a model needs it: all of it in memory, of the model's own shape."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.items import Images, reading, size_text
from scoresde_fast.data.official import SETS
from scoresde_fast.data.sources import check_exists, open_images

LARGEST = 1 << 31
"""Bytes of images that are read into memory at most."""
BATCH = 1024
READERS = 8
"""Threads that read and decode images."""


class NamedData(NamedTuple):
    """Images (N, C, H, W) uint8, or points (N, C, H, W) float32; and a name for each."""

    data: Tensor
    names: list[str]


def read_data(source: str, shape: Sequence[int], *, is_image: bool = True, trust_pickle: bool = False) -> NamedData:
    """The images, or points, that ``source`` names, in its order.

    Args:
        source: images as `open_images` takes them. Points are ``position`` (N, C, H, W) of a .npz, as ``scoresde-fast
            sample`` writes them, or a data set.
        shape: (C, H, W) of each, as a model needs it.
        is_image: images are wanted, else points.
        trust_pickle: as for `open_images`.

    Raises:
        ValueError: there is no such data set or format, nothing is in it, it is damaged or of more than 2 GiB, an image
            is not 8-bit, or a shape is not that of the others or not ``shape``.
        FileNotFoundError: there is no such file.
    """
    if not is_image:
        return _read_points(source, shape)
    return in_memory(_opened(source, shape, trust_pickle=trust_pickle))


class NumberedImages:
    """Images that stay where they are: as a tensor (N, C, H, W) uint8 is, indexed by a tensor of numbers."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._readers = ThreadPoolExecutor(READERS)

    def __len__(self) -> int:
        return self._images.count

    def __getitem__(self, numbers: Tensor) -> Tensor:
        pixels = np.stack(list(self._readers.map(self._images.image, numbers.tolist())))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def training_data(source: str, shape: Sequence[int], *, is_image: bool = True) -> Tensor | NumberedImages:
    """What `read_data` reads; of more than 2 GiB, the images of a folder or a .npy as they are asked for.

    Raises as `read_data` does, for more than 2 GiB of another format too.
    """
    if not is_image:
        return _read_points(source, shape).data
    images = _opened(source, shape)
    if images.by_number and images.count * prod(images.shape) > LARGEST:
        return NumberedImages(images)
    return in_memory(images).data


def _opened(source: str, shape: Sequence[int], *, trust_pickle: bool = False) -> Images:
    if source.partition(":")[0] in POINT_SETS:
        raise ValueError(f"{source} has points; this model is of images")
    images = open_images(source, trust_pickle=trust_pickle)
    _check_shape(source, "images", images.shape, shape)
    return images


def in_memory(images: Images) -> NamedData:
    """Every image of a source, read; raises ``ValueError`` where they are too many for that."""
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
        data = _positions(Path(source))
    else:
        check_exists(Path(source), source)
        raise ValueError(
            f"{source} has no points; name one of {', '.join(sorted(POINT_SETS))}, or a .npz with position"
        )
    if not len(data):
        raise ValueError(f"{source} has no points")
    _check_shape(source, "points", data.shape[1:], shape)
    return NamedData(data, [str(index) for index in range(len(data))])


def _positions(path: Path) -> Tensor:
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
