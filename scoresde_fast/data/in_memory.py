# SPDX-License-Identifier: Apache-2.0
"""Loading of images and points into memory, with checks of their shape against the model."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.array_files import array_names, load_arrays
from scoresde_fast.data.conversion import parse_conversion, request
from scoresde_fast.data.images import MODES, Images, shape_text
from scoresde_fast.data.public_sets import SETS
from scoresde_fast.data.sources import check_exists, open_image_file, open_images

MAX_BYTES = 1 << 31
"""Limit of the size of images in memory."""
READ_BATCH = 1024
"""Number of images that are read at a time."""


class NamedData(NamedTuple):
    """Images (N, C, H, W) uint8 or points (N, C, H, W) float32, their names, and labels (N,) int64, if any."""

    data: Tensor
    names: list[str]
    labels: Tensor | None = None


def read_data(source: str, shape: Sequence[int], *, is_image: bool = True) -> NamedData:
    """Read the images or points of ``source`` into memory, in its order.

    Args:
        source: for images, a source of `open_images`; for points, a data set, or a .npz with ``position`` (N, C, H, W),
            as ``scoresde-fast sample`` writes it.
        shape: (C, H, W) of each, as the model needs it.
        is_image: True for an image model, False for points.

    Raises:
        ValueError: an unknown data set or format; data that are empty, corrupt or larger than 2 GiB; an image that is
            not 8-bit; a shape that differs within the data or from ``shape``.
        FileNotFoundError: there is no such file.
    """
    if not is_image:
        return _read_points(source, shape)
    return _load_all(_open_with_shape(source, shape))


def training_data(source: str, shape: Sequence[int], *, is_image: bool = True) -> Tensor | Images:
    """Return the data of `read_data`, but leave a folder or .npy larger than 2 GiB on disk, to be read on demand.

    Raises:
        ValueError, FileNotFoundError: as `read_data`, except that a folder or .npy may be larger than 2 GiB.
    """
    if not is_image:
        return _read_points(source, shape).data
    images = _open_with_shape(source, shape)
    if images.random_access and images.count * prod(images.shape) > MAX_BYTES:
        return images
    return _load_all(images).data


def read_images(source: str, allowed_shapes: Sequence[Sequence[int]]) -> NamedData:
    """Read the images of ``source``, uint8 (N, C, H, W), with their names.

    Args:
        source: one image file, or a source of `open_images`.
        allowed_shapes: allowed (C, H, W), all with the same height and width.

    Raises:
        ValueError, FileNotFoundError: as `read_data`.
    """
    images = open_image_file(source)
    if tuple(images.shape) not in map(tuple, allowed_shapes):
        raise ValueError(
            f"the images of {source} are {shape_text(images.shape)}, but "
            f"{' or '.join(map(shape_text, allowed_shapes))} is required{_hint(source, images.shape, allowed_shapes)}"
        )
    return _load_all(images)


def _open_with_shape(source: str, shape: Sequence[int]) -> Images:
    if source.partition(":")[0] in POINT_SETS:
        raise ValueError(f"{source} contains points, but the model expects images")
    images = open_images(source)
    _check_shape(source, "images", images.shape, shape, hint=_hint(source, images.shape, [shape]))
    return images


def _load_all(images: Images) -> NamedData:
    """Read every image of a source; raise ValueError if they exceed `MAX_BYTES`."""
    if (size := images.count * prod(images.shape)) > MAX_BYTES:
        raise ValueError(
            f"the images of {images.source} take {size / 2**30:.1f} GiB, and at most {MAX_BYTES >> 30} GiB are loaded "
            "into memory; use a subset, or for training a folder or .npy, which are read from disk"
        )
    data = torch.empty(images.count, *images.shape, dtype=torch.uint8)
    names: list[str] = []
    labels: list[Tensor] = []
    for batch in images.batches(READ_BATCH):
        data[len(names) : len(names) + len(batch.names)] = batch.images
        names += batch.names
        if batch.labels is not None:
            labels.append(batch.labels)
    return NamedData(data, names, torch.cat(labels) if labels else None)


def _read_points(source: str, shape: Sequence[int]) -> NamedData:
    name, _, split = source.partition(":")
    if name in POINT_SETS:
        data = load_dataset(name, split or "all")[0]
    elif name in (*DATASETS, *SETS):
        raise ValueError(f"{source} contains images, but the model expects points")
    elif Path(source).suffix == ".npz":
        data = _read_positions(Path(source))
    else:
        check_exists(Path(source), source)
        raise ValueError(
            f"{source} contains no points; use one of {', '.join(sorted(POINT_SETS))}, or a .npz with position"
        )
    if not len(data):
        raise ValueError(f"{source} contains no points")
    _check_shape(source, "points", data.shape[1:], shape)
    return NamedData(data, [str(index) for index in range(len(data))])


def _read_positions(path: Path) -> Tensor:
    check_exists(path, str(path))
    if (array := load_arrays(path, ["position"]).get("position")) is None:
        raise ValueError(f"{path} contains {array_names(path)}; expected position (N, C, H, W)")
    if array.ndim != 4 or array.dtype.kind != "f":
        raise ValueError(f"position of {path} is {array.dtype} {array.shape}; expected floats (N, C, H, W)")
    return torch.from_numpy(array.astype(np.float32))


def _check_shape(source: str, kind: str, shape: Sequence[int], model_shape: Sequence[int], *, hint: str = "") -> None:
    if tuple(shape) != tuple(model_shape):
        raise ValueError(
            f"the {kind} of {source} are {shape_text(shape)}, but the model expects {shape_text(model_shape)}{hint}"
        )


def _hint(source: str, shape: Sequence[int], allowed_shapes: Sequence[Sequence[int]]) -> str:
    """Say which conversion of ``source`` gives images of an allowed (C, H, W); return "" if none does."""
    channels, *size = shape
    _, height, width = allowed_shapes[0]
    rgb = all(allowed[0] != channels for allowed in allowed_shapes)
    if (rgb and not (channels in MODES and any(allowed[0] == 3 for allowed in allowed_shapes))) or (
        [height, width] != size and height != width
    ):
        return ""
    name, given = parse_conversion(source)
    use = request(name, height if [height, width] != size else given.size, rgb=rgb or given.rgb)
    return f"; use {use} to {'convert' if rgb else 'crop and resize'} them"
