# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 from its official archives or their unpacked folders, with pickles that can run nothing."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.data.items import Images, Item, reading
from scoresde_fast.errors import unknown_message

ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SHAPE = (3, 32, 32)
LENGTH = int(np.prod(SHAPE))
CLASSES = 10
BINARY = ".bin"
"""Suffix of the files that are not pickles."""
CHUNK = 1 << 20
BROKEN_PICKLE = (
    *(ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, SyntaxError, TypeError),
    *(ValueError, pickle.UnpicklingError),
)
"""The errors of unpickling damaged bytes."""


class ForbiddenPickleError(ValueError):
    """A pickle asks for something that arrays, lists and texts do not need."""


def is_cifar(path: Path) -> bool:
    """Return whether ``path`` has the name of an official archive, or is a folder with the files of one."""
    return path.name in ARCHIVES or (path / "data_batch_1.bin").exists() or (path / "data_batch_1").exists()


def open_cifar(path: Path, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """Open a split in the order of its files: "train" is data_batch_1 to data_batch_5, "test" is test_batch.

    Of a folder one file at a time is in memory (31 MB); of an archive, whose files have no order, up to all of them.

    Raises:
        ValueError: an unknown split, a missing or damaged file, or, without ``trust_pickle``, a pickle that holds more
            than arrays, lists and texts.
    """
    if split not in SPLITS:
        raise ValueError(unknown_message("split of CIFAR-10", split, SPLITS))

    def files() -> Generator[tuple[str, Pixels, list[int]], None, None]:
        for file, raw in _files(path, SPLITS[split]):
            where = f"{file} of {path}"
            images, labels = _binary(raw, where) if file.endswith(BINARY) else _pickled(raw, where, trust_pickle)
            if wrong := [label for label in labels if label not in range(CLASSES)]:
                raise ValueError(f"{where} has a label {wrong[0]}; they are 0 to {CLASSES - 1}")
            yield file.removesuffix(BINARY), images.reshape(-1, *SHAPE), labels

    def items() -> Generator[Item, None, None]:
        for name, images, labels in files():
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Item(f"{name}/{index}", image.transpose(1, 2, 0), label)

    with reading(str(path)):
        count = sum(len(labels) for _, _, labels in files())
    return Images(str(path), count, items, size, shape=SHAPE)


def _files(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield each file with one of the names, or with that name and ``.bin``, and its bytes, in the order of names."""
    if path.is_dir():
        for name in names:
            binary = path / f"{name}{BINARY}"
            file = binary if binary.exists() else path / name
            yield file.name, file.read_bytes()
        return
    left = list(names)
    waiting: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path, "r|gz", bufsize=CHUNK) as archive:
        for member in archive:
            file_name = PurePosixPath(member.name).name
            name = file_name.removesuffix(BINARY)
            if name in left and (content := archive.extractfile(member)):
                waiting[name] = file_name, content.read()
            while left and left[0] in waiting:
                yield waiting.pop(left.pop(0))
    if left:
        raise ValueError(f"{path} has no complete {left[0]}; it is cut short, or not the official archive")


def _binary(raw: bytes, where: str) -> tuple[Pixels, list[int]]:
    """Read rows of a label and 3072 values: red, then green, then blue."""
    if not raw or len(raw) % (1 + LENGTH):
        raise ValueError(f"{where} has {len(raw)} bytes, no multiple of {1 + LENGTH}")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + LENGTH)
    return rows[:, 1:], rows[:, 0].tolist()


def _pickled(raw: bytes, where: str, trusted: bool) -> tuple[Pixels, list[int]]:
    """Read ``data`` and ``labels`` of a pickled dictionary, also one of Python 2; ``trusted`` may run anything."""
    try:
        content = pickle.loads(raw, encoding="bytes") if trusted else _Unpickler(raw, where).load()
        found = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images, labels = np.asarray(found["data"]), np.asarray(found["labels"])
    except ForbiddenPickleError:
        raise
    except BROKEN_PICKLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is not a complete pickle of data and labels ({reason})") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), LENGTH):
        raise ValueError(
            f"data in {where} is {images.dtype} {images.shape} with {len(labels)} labels; images are uint8 "
            f"(N, {LENGTH}), each with a label"
        )
    return images, labels.tolist()


class _Unpickler(pickle.Unpickler):
    """Gives stand-ins for everything that arrays need, so that nothing that a pickle names ever runs."""

    def __init__(self, raw: bytes, where: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ForbiddenPickleError(
                f"{self._where} holds {module}.{name}, more than arrays, lists and texts, so it may run any program: "
                "take another form of the data, or trust the pickle (trust_pickle) if you know who made it"
            )
        return _STAND_INS[module, name]


class _Type:
    """The type of an array's numbers, as a pickle states it."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """An array as a pickle states it; numpy's own class trusts the pickle, and crashes on false statements."""

    def __setstate__(self, state: tuple[object, Any, _Type, object, bytes]) -> None:
        _, self._shape, self._type, _, self._raw = state

    def __array__(self, dtype: object = None, copy: object = None) -> npt.NDArray[Any]:
        if self._type.name not in (b"u1", "u1"):
            raise ValueError(f"an array of {self._type.name!r}")
        return np.frombuffer(self._raw, np.uint8).reshape(self._shape)


_STAND_INS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
"""Everything that a pickle of arrays asks for, and what it gets: objects that keep their arguments, and do nothing."""
