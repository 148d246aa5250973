# SPDX-License-Identifier: Apache-2.0
"""`open_images`: opens images by any name, a data set, a folder or an archive, without reading all into memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.arrays import open_npy, open_npz
from scoresde_fast.data.image_files import is_shard_pattern, open_folder, open_shards, open_zip
from scoresde_fast.data.items import ImageBatch, Images, Item
from scoresde_fast.data.official import SETS, is_official, open_official, open_set
from scoresde_fast.errors import unknown_message

FORMATS: dict[str, Callable[[Path, int | None], Images]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".tar": open_shards,
    ".zip": open_zip,
}
"""The reader of each suffix."""


class ImageSource(Protocol):
    """Images that can be read any number of times, always in the same order; `Images` is one."""

    @property
    def count(self) -> int:
        """Number of images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each."""

    def batches(self, size: int) -> Iterator[ImageBatch]:
        """Yield all images, ``size`` at a time; the last batch may be smaller."""


def open_images(source: str, *, trust_pickle: bool = False) -> Images:
    """Open the images that ``source`` names.

    Args:
        source: a data set with an optional split ("digits", "cifar10:test"), which wins over a file of that name (write
            ./digits for the file); a folder of PNG, JPEG or WebP images, with subfolders; a .zip of them; .tar shards
            of them ("set-{000000..000031}.tar", "set-*.tar"); a .npz or .npy with (N, H, W, C) uint8; or a file or
            folder of CIFAR-10 or SVHN ("DIR/cifar-10-binary.tar.gz:test").  "@64" at the end crops each image to its
            central square and resizes it to 64x64.
        trust_pickle: read pickles that hold more than arrays, which may run any program.

    Raises:
        ValueError: an unknown data set or format, or one that is empty or damaged.
        FileNotFoundError: there is no such file.
    """
    name, size = split_size(source)
    known, _, split = name.partition(":")
    if known in DATASETS:
        return _in_memory(name, known, split or "all", size)
    if known in SETS:
        return open_set(known, split, size, trust_pickle=trust_pickle)
    if is_shard_pattern(name):
        return open_shards(name, size)
    path, split = _split(name)
    check_exists(path, name)
    if is_official(path):
        return open_official(path, split, size, trust_pickle=trust_pickle)
    if split:
        raise ValueError(f"{path} has no splits, so {split!r} cannot be one; only data sets have them")
    if path.is_dir():
        return open_folder(path, size)
    if path.suffix not in FORMATS:
        raise ValueError(f"{name} cannot be read; name a data set, a folder of images, or a {', '.join(FORMATS)}")
    return FORMATS[path.suffix](path, size)


def check_exists(path: Path, name: str) -> None:
    """Raise FileNotFoundError unless ``path`` exists, or ValueError if ``name`` may be a misspelt data set."""
    if name and path.exists():
        return
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"there is no file and no folder {name!r}")
    choice = unknown_message("data set", name.partition(":")[0], [*DATASETS, *SETS])
    raise ValueError(f"{choice}, or name a folder of images or an archive")


def _split(name: str) -> tuple[Path, str]:
    """Return the path and the split after its colon; an existing path may have a colon itself."""
    path, colon, split = name.rpartition(":")
    return (Path(path), split) if colon and not Path(name).exists() else (Path(name), "")


def split_size(source: str) -> tuple[str, int | None]:
    """Return a source's name and the size of a final ``@64``, else None; raise ValueError for a size of 0."""
    match = re.fullmatch(r"(.+)@(\d+)", source, re.ASCII)
    if match is None or Path(source).exists():
        return source, None
    if not (size := int(match[2])):
        raise ValueError(f"{source} asks for images of 0x0; write the wanted size in pixels, as @64")
    return match[1], size


def _in_memory(source: str, name: str, split: str, size: int | None) -> Images:
    if name in POINT_SETS:
        raise ValueError(f"{source} has points, and images are needed")
    images, labels = load_dataset(name, split)

    def items() -> Generator[Item, None, None]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Item(str(index), image.permute(1, 2, 0).numpy(), int(label))

    return Images(source, len(images), items, size)
