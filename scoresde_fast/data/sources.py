# SPDX-License-Identifier: Apache-2.0
"""`open_images`: opens a named data set, a folder or an archive, without loading all images into memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

from scoresde_fast.data import DATASETS, POINT_SETS, load_dataset
from scoresde_fast.data.array_files import open_npy, open_npz
from scoresde_fast.data.conversion import Conversion, parse_conversion
from scoresde_fast.data.file_names import SUFFIXES
from scoresde_fast.data.image_files import open_folder, open_zip
from scoresde_fast.data.images import ImageBatch, Images, Item, decode
from scoresde_fast.data.limits import read_limited
from scoresde_fast.data.public_sets import SETS, is_official, open_official, open_set
from scoresde_fast.data.sample_sets import MANIFEST, require_complete, set_seeds
from scoresde_fast.data.shards import SHARD_SUFFIXES, is_shard, open_shards
from scoresde_fast.errors import unknown_message

READERS: dict[str, Callable[[Path, Conversion], Images]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".zip": open_zip,
}
"""The reader for each suffix but those of shards."""


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
            that name (write ./digits for the file); a folder of PNG, JPEG, WebP, BMP or TIFF images, with subfolders;
            a .zip of them; .tar or .tar.gz shards of them ("set-{000000..000031}.tar", "set-*.tar"); a .npz or .npy
            with (N, H, W, C) uint8 or (N, C, H, W) floats in [0, 1]; or a file or folder of CIFAR-10 or SVHN
            ("DIR/cifar-10-binary.tar.gz:test").  "@64" at the end crops each image to its central square and resizes
            it to 64x64, "@rgb" converts it to 8-bit RGB, and "@64,rgb" does both.
        trust_pickle: allow pickles with arbitrary objects; these can execute arbitrary code.

    Raises:
        ValueError: the data set or format is unknown, or the source is empty, corrupt or an incomplete set.
        FileNotFoundError: there is no such file.
    """
    name, conversion = parse_conversion(source)
    dataset, _, split = name.partition(":")
    if dataset in DATASETS:
        return _built_in_images(dataset, split or "all", conversion)
    if dataset in SETS:
        return open_set(dataset, split, conversion, trust_pickle=trust_pickle)
    if is_shard(name) and not Path(name).exists():
        return _complete(Path(name), open_shards(name, conversion))
    path, split = _parse_split(name)
    check_exists(path, name)
    if is_official(path):
        return open_official(path, split, conversion, trust_pickle=trust_pickle)
    if split:
        raise ValueError(f"{path} has no splits; remove :{split} (only named data sets and official files have splits)")
    if path.is_dir():
        return open_folder(path, conversion)
    if is_shard(name):
        return _complete(path, open_shards(name, conversion))
    if (suffix := path.suffix.lower()) not in READERS:
        suffixes = ", ".join((*READERS, *SHARD_SUFFIXES))
        raise ValueError(f"{name} cannot be read; use a data set, a folder of images, or a {suffixes} file")
    return _complete(path, READERS[suffix](path, conversion))


def _complete(path: Path, images: Images) -> Images:
    """Return the images of an archive; raise ValueError if it is a set of samples that lacks some."""
    if (seeds := set_seeds(path.with_name(f"{path.name}.{MANIFEST}"))) is not None:
        require_complete(str(path), images.count, seeds)
    return images


def open_image_file(source: str) -> Images:
    """Open ``source`` as one image if it is an image file, else as `open_images`."""
    name, conversion = parse_conversion(source)
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        return open_images(source)
    check_exists(path, name)

    def items() -> Generator[Item, None, None]:
        yield Item(path.name, decode(name, name, read_limited(path, name), conversion))

    return Images(name, 1, items, conversion)


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


def _parse_split(name: str) -> tuple[Path, str]:
    """Split ``path:split``; a colon in an existing path is kept."""
    path, colon, split = name.rpartition(":")
    return (Path(path), split) if colon and not Path(name).exists() else (Path(name), "")


def _built_in_images(name: str, split: str, conversion: Conversion) -> Images:
    if name in POINT_SETS:
        raise ValueError(f"{name} contains points, not images")
    images, labels = load_dataset(name, split)

    def items() -> Generator[Item, None, None]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Item(str(index), image.permute(1, 2, 0).numpy(), int(label))

    return Images(f"{name}:{split}", len(images), items, conversion)
