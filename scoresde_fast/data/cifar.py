# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 from its official archives or what they unpack to, without running what a pickle asks for."""

from __future__ import annotations

import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from scoresde_fast.data.items import Images, Item, reading
from scoresde_fast.data.pickles import unpickled
from scoresde_fast.data.png import Pixels
from scoresde_fast.errors import unknown

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SHAPE = (3, 32, 32)
LENGTH = int(np.prod(SHAPE))
CLASSES = 10
BINARY = ".bin"
"""Behind the names of files that are no pickles."""
CHUNK = 1 << 20


class Part(NamedTuple):
    """A file of the data set: images (N, 3, 32, 32) uint8 and labels (N,)."""

    images: Pixels
    labels: list[int]


def is_cifar(path: Path) -> bool:
    """``path`` is one of the official archives, by its name, or a folder with what they unpack to."""
    return path.name in ARCHIVES or (path / "data_batch_1.bin").exists() or (path / "data_batch_1").exists()


def open_cifar(path: Path, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """The images of a split in the order of its files: "train" is data_batch_1 to data_batch_5, "test" test_batch.

    Of a folder one file at a time is in memory (31 MB); of an archive, whose files are in no order, up to all of them.

    Raises:
        ValueError: an unknown split, a file that is missing or damaged, or, without ``trust_pickle``, a pickle that
            holds more than arrays, lists and texts.
    """
    if split not in SPLITS:
        raise ValueError(unknown("split of CIFAR-10", split, SPLITS))

    def parts() -> Generator[tuple[str, Part], None, None]:
        for file, raw in _files(path, SPLITS[split]):
            where = f"{file} of {path}"
            is_binary = file.endswith(BINARY)
            part = _binary(raw, where) if is_binary else _unpickled(raw, where, trust_pickle)
            yield file.removesuffix(BINARY), part

    def items() -> Generator[Item, None, None]:
        for name, part in parts():
            for index, (image, label) in enumerate(zip(part.images, part.labels, strict=True)):
                yield Item(f"{name}/{index}", image.transpose(1, 2, 0), label)

    with reading(str(path)):
        count = sum(len(part.labels) for _, part in parts())
    return Images(str(path), count, items, size, shape=SHAPE)


def _files(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The files of those names, or of those names and ``.bin``, with their bytes, in the order of the names."""
    if path.is_dir():
        for name in names:
            there = path / f"{name}{BINARY}"
            there = there if there.exists() else path / name
            yield there.name, there.read_bytes()
        return
    left = list(names)
    waiting: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path, "r|gz", bufsize=CHUNK) as archive:
        for member in archive:
            file_name = PurePosixPath(member.name).name
            name = file_name.removesuffix(BINARY)
            if name in left and (file := archive.extractfile(member)):
                waiting[name] = file_name, file.read()
            while left and left[0] in waiting:
                yield waiting.pop(left.pop(0))
    if left:
        raise ValueError(f"{path} has no whole {left[0]}; it is cut short, or not the official archive")


def _binary(raw: bytes, where: str) -> Part:
    """Rows of a label and 3072 values: the red, the green and the blue ones."""
    if not raw or len(raw) % (1 + LENGTH):
        raise ValueError(f"{where} has {len(raw)} bytes, no multiple of {1 + LENGTH}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + LENGTH)
    return _checked(rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0].tolist(), where)


def _unpickled(raw: bytes, where: str, trusted: bool) -> Part:
    images, labels = unpickled(raw, where, ("data", "labels"), trusted=trusted)
    if images.dtype != np.uint8 or images.shape != (len(labels), LENGTH):
        raise ValueError(
            f"data in {where} is {images.dtype} {images.shape} with {len(labels)} labels; images are uint8 "
            f"(N, {LENGTH}), each with a label"
        )
    return _checked(images.reshape(-1, *SHAPE), labels.tolist(), where)


def _checked(images: Pixels, labels: list[int], where: str) -> Part:
    if wrong := [label for label in labels if label not in range(CLASSES)]:
        raise ValueError(f"{where} has a label {wrong[0]}; they are 0 to {CLASSES - 1}")
    return Part(images, labels)
