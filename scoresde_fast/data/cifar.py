# SPDX-License-Identifier: Apache-2.0
"""Reader for CIFAR-10: its official archives or their unpacked folders."""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from scoresde_fast.data.cifar_pickle import unpickle
from scoresde_fast.data.codecs import Pixels
from scoresde_fast.data.conversion import Conversion
from scoresde_fast.data.images import Images, Item, corrupt_file_errors
from scoresde_fast.data.limits import read_limited, require_size
from scoresde_fast.errors import unknown_message

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SHAPE = (3, 32, 32)
LENGTH = int(np.prod(SHAPE))
CLASSES = 10
BINARY = ".bin"
"""Suffix of the binary form's files; those of the Python form are pickles without a suffix."""
READ_BYTES = 1 << 20
MAX_BATCH_BYTES = 1 << 28
"""Limit of the size of a file, nine times that of the official ones."""


def is_cifar(path: Path) -> bool:
    """Return whether ``path`` has the name of an official archive or is a folder with its files."""
    return path.name in ARCHIVES or (path / "data_batch_1.bin").exists() or (path / "data_batch_1").exists()


def open_cifar(path: Path, split: str, conversion: Conversion, *, trust_pickle: bool = False) -> Images:
    """Open a split in the order of its files: "train" is data_batch_1 to data_batch_5, "test" is test_batch.

    The files of a folder are in memory one at a time (31 MB).  An archive may store its files in any order, so up to
    all of them are in memory.

    Raises:
        ValueError: an unknown split, a missing or corrupt file, or, without ``trust_pickle``, a pickle that contains
            not only arrays, lists and strings.
    """
    if split not in SPLITS:
        raise ValueError(unknown_message("split of CIFAR-10", split, SPLITS))

    def files() -> Generator[tuple[str, Pixels, list[int]], None, None]:
        for file, raw in _files(path, SPLITS[split]):
            source = f"{file} of {path}"
            if file.endswith(BINARY):
                images, labels = _parse_binary(raw, source)
            else:
                images, labels = unpickle(raw, source, trust_pickle=trust_pickle)
            if invalid := [label for label in labels if label not in range(CLASSES)]:
                raise ValueError(f"{source} has a label {invalid[0]}; labels are 0 to {CLASSES - 1}")
            yield file.removesuffix(BINARY), images.reshape(-1, *SHAPE), labels

    def items() -> Generator[Item, None, None]:
        for name, images, labels in files():
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Item(f"{name}/{index}", image.transpose(1, 2, 0), label)

    with corrupt_file_errors(str(path)):
        count = sum(len(labels) for _, _, labels in files())
    return Images(str(path), count, items, conversion, shape=SHAPE)


def _files(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the files ``names``, with or without ``.bin``, in the order of ``names``."""
    if path.is_dir():
        for name in names:
            binary = path / f"{name}{BINARY}"
            file = binary if binary.exists() else path / name
            yield file.name, read_limited(file, f"{file.name} of {path}", MAX_BATCH_BYTES)
        return
    remaining = list(names)
    contents: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path, "r|gz", bufsize=READ_BYTES) as archive:
        for member in archive:
            file_name = PurePosixPath(member.name).name
            name = file_name.removesuffix(BINARY)
            if name in remaining and (file_object := archive.extractfile(member)):
                require_size(f"{file_name} of {path}", member.size, MAX_BATCH_BYTES)
                contents[name] = file_name, file_object.read()
            while remaining and remaining[0] in contents:
                yield contents.pop(remaining.pop(0))
    if remaining:
        raise ValueError(f"{path} has no complete {remaining[0]}; it is truncated or not the official archive")


def _parse_binary(raw: bytes, source: str) -> tuple[Pixels, list[int]]:
    """Parse rows of a label and 3072 pixel values: red, then green, then blue."""
    if not raw or len(raw) % (1 + LENGTH):
        raise ValueError(f"{source} has {len(raw)} bytes, not a multiple of {1 + LENGTH}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + LENGTH)
    return rows[:, 1:], rows[:, 0].tolist()
