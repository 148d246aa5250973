# SPDX-License-Identifier: Apache-2.0
"""`open_images`: opens a named data set, a folder or an archive, without loading all images into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.array_files import open_npy, open_npz
from scoresde_fast.data.image_files import is_shard_pattern, open_folder, open_shards, open_zip
from scoresde_fast.data.images import ImageBatch, Images, Item
from scoresde_fast.data.public_sets import SETS, is_official, open_official, open_set
from scoresde_fast.errors import unknown_message

READERS: dict[str, Callable[[Path, int | None], Images]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".tar": open_shards,
    ".zip": open_zip,
}
"""The reader for each suffix."""


class ImageSource(Protocol):
    """Images that can be read any number of times, always in the same order, such as `Images`."""

    @property
    def count(self) -> int:
        """Number of images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images, ``size`` at a time; the last batch may be smaller."""


def open_images(source: str, *, trust_pickle: bool = False) -> Images:
    """Open the images of ``source``.

    Args:
        source: a data set with an optional split ("digits", "cifar10:test"), which takes precedence over a file of
            that name (write ./digits for the file); a folder of PNG, JPEG or WebP images, with subfolders; a .zip of
            them; .tar shards of them ("set-{000000..000031}.tar", "set-*.tar"); a .npz or .npy with (N, H, W, C)
            uint8; or a file or folder of CIFAR-10 or SVHN ("DIR/cifar-10-binary.tar.gz:test").  "@64" at the end crops
            each image to its central square and resizes it to 64x64.
        trust_pickle: allow pickles with arbitrary objects; these can execute arbitrary code.

    Raises:
        ValueError: the data set or format is unknown, or the source is empty or corrupt.
        FileNotFoundError: there is no such file.
    """
    name, size = parse_crop_suffix(source)
    dataset, _, split = name.partition(":")
    if dataset in DATASETS:
        return _built_in_images(dataset, split or "all", size)
    if dataset in SETS:
        return open_set(dataset, split, size, trust_pickle=trust_pickle)
    if is_shard_pattern(name):
        return open_shards(name, size)
    path, split = _parse_split(name)
    check_exists(path, name)
    if is_official(path):
        return open_official(path, split, size, trust_pickle=trust_pickle)
    if split:
        raise ValueError(f"{path} has no splits; remove :{split} (only named data sets and official files have splits)")
    if path.is_dir():
        return open_folder(path, size)
    if path.suffix not in READERS:
        raise ValueError(f"{name} cannot be read; use a data set, a folder of images, or a {', '.join(READERS)} file")
    return READERS[path.suffix](path, size)


def is_data_set(name: str) -> bool:
    """Return whether ``name``, without a split, is a data set or an official file or folder of one."""
    return name in DATASETS or name in SETS or is_official(Path(name))


def check_exists(path: Path, name: str) -> None:
    """Raise FileNotFoundError if ``path`` is missing, or ValueError with suggestions if ``name`` may be a data set."""
    if name and path.exists():
        return
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no such file or folder: {name!r}")
    message = unknown_message("data set", name.partition(":")[0], [*DATASETS, *SETS])
    raise ValueError(f"{message}, or give a folder of images or an archive")


def parse_crop_suffix(source: str) -> tuple[str, int | None]:
    """Split ``name@64`` into ("name", 64); the size is None without a suffix. Raise ValueError for a size of 0."""
    match = re.fullmatch(r"(.+)@(\d+)", source, re.ASCII)
    if match is None or Path(source).exists():
        return source, None
    if not (size := int(match[2])):
        raise ValueError(f"{source} requests images of 0x0; give the size in pixels, for instance @64")
    return match[1], size


def _parse_split(name: str) -> tuple[Path, str]:
    """Split ``path:split``; a colon in an existing path is kept."""
    path, colon, split = name.rpartition(":")
    return (Path(path), split) if colon and not Path(name).exists() else (Path(name), "")


def _built_in_images(name: str, split: str, size: int | None) -> Images:
    if name in POINT_SETS:
        raise ValueError(f"{name} contains points, not images")
    images, labels = load_dataset(name, split)

    def items() -> Generator[Item, None, None]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Item(str(index), image.permute(1, 2, 0).numpy(), int(label))

    return Images(f"{name}:{split}", len(images), items, size)
