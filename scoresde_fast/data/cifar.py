# SPDX-License-Identifier: Apache-2.0
"""Reader for CIFAR-10: its official archives or their unpacked folders, with a safe unpickler."""

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
from scoresde_fast.data.images import Images, Item, corrupt_file_errors
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


class ForbiddenPickleError(ValueError):
    """A pickle refers to a class or function that arrays, lists and strings do not need."""


def is_cifar(path: Path) -> bool:
    """Return whether ``path`` has the name of an official archive or is a folder with its files."""
    return path.name in ARCHIVES or (path / "data_batch_1.bin").exists() or (path / "data_batch_1").exists()


def open_cifar(path: Path, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
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
                images, labels = _unpickle(raw, source, trust_pickle=trust_pickle)
            if invalid := [label for label in labels if label not in range(CLASSES)]:
                raise ValueError(f"{source} has a label {invalid[0]}; labels are 0 to {CLASSES - 1}")
            yield file.removesuffix(BINARY), images.reshape(-1, *SHAPE), labels

    def items() -> Generator[Item, None, None]:
        for name, images, labels in files():
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Item(f"{name}/{index}", image.transpose(1, 2, 0), label)

    with corrupt_file_errors(str(path)):
        count = sum(len(labels) for _, _, labels in files())
    return Images(str(path), count, items, size, shape=SHAPE)


def _files(path: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the files ``names``, with or without ``.bin``, in the order of ``names``."""
    if path.is_dir():
        for name in names:
            binary = path / f"{name}{BINARY}"
            file = binary if binary.exists() else path / name
            yield file.name, file.read_bytes()
        return
    remaining = list(names)
    contents: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(path, "r|gz", bufsize=READ_BYTES) as archive:
        for member in archive:
            file_name = PurePosixPath(member.name).name
            name = file_name.removesuffix(BINARY)
            if name in remaining and (file_object := archive.extractfile(member)):
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


def _unpickle(raw: bytes, source: str, *, trust_pickle: bool) -> tuple[Pixels, list[int]]:
    """Return ``data`` and ``labels`` of a dictionary pickled by Python 2 or 3."""
    try:
        content = pickle.loads(raw, encoding="bytes") if trust_pickle else _SafeUnpickler(raw, source).load()
        by_name = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images, labels = np.asarray(by_name["data"]), np.asarray(by_name["labels"])
    except ForbiddenPickleError:
        raise
    except Exception as error:  # unpickling corrupt bytes can raise almost any error
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is not a complete pickle of data and labels ({reason})") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), LENGTH):
        raise ValueError(
            f"data in {source} is {images.dtype} {images.shape} with {len(labels)} labels; expected uint8 "
            f"(N, {LENGTH}) and N labels"
        )
    return images, labels.tolist()


class _SafeUnpickler(pickle.Unpickler):
    """Unpickles arrays with harmless stand-ins for their classes; refuses every other class and function."""

    def __init__(self, raw: bytes, source: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ForbiddenPickleError(
                f"{self._source} contains {module}.{name}, not only arrays, lists and strings, so loading it could "
                "execute arbitrary code: use another form of the data, or pass trust_pickle if you trust its author"
            )
        return _STAND_INS[module, name]


class _DType:
    """Stand-in for numpy.dtype."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """Stand-in for numpy.ndarray, because ndarray trusts the pickled state and crashes if it is invalid."""

    def __setstate__(self, state: tuple[object, Any, _DType, object, bytes]) -> None:
        _, self._shape, self._dtype, _, self._raw = state

    def __array__(self, dtype: object = None, copy: object = None) -> npt.NDArray[Any]:
        if self._dtype.name not in (b"u1", "u1"):
            raise ValueError(f"an array of {self._dtype.name!r}")
        return np.frombuffer(self._raw, np.uint8).reshape(self._shape)


_STAND_INS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
"""Harmless replacements for the classes and functions in a pickle of arrays."""
