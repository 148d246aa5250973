# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and SVHN by name: the location and checksums of their files, and the reader for SVHN."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scoresde_fast.data.cifar import ARCHIVES, FOLDERS, is_cifar, open_cifar
from scoresde_fast.data.conversion import Conversion
from scoresde_fast.data.images import Images, Item, corrupt_file_errors
from scoresde_fast.errors import require_packages, unknown_message

FOLDER_VARIABLE = "SCORESDE_FAST_DATA"
"""Environment variable for the folder of data sets; without it, the folder is ./data."""
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}
"""Checksums of the official files, as published by their authors and torchvision."""
READ_BYTES = 1 << 20
DEFAULT_SPLIT = "train"

SVHN_SHAPE = (32, 32, 3)
SVHN_ZERO = 10
"""Label of the digit 0; the other digits are their own labels."""


class DataSet(NamedTuple):
    """A public data set.

    Attributes:
        page: the web page that publishes it.
        splits: the files or folders that contain each split, in order of preference.
    """

    page: str
    splits: dict[str, tuple[str, ...]]


SETS = {
    "cifar10": DataSet(
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"train": (*ARCHIVES, *FOLDERS), "test": (*ARCHIVES, *FOLDERS)},
    ),
    "svhn": DataSet(
        "http://ufldl.stanford.edu/housenumbers",
        {split: (f"{split}_32x32.mat",) for split in ("train", "test", "extra")},
    ),
}

CONFIG_SOURCES = {"CIFAR10": "cifar10:train", "SVHN": "svhn:train"}
"""Data set names in the official configurations -> sources for `open_images`."""
USER_PROVIDED = frozenset({"CELEBA", "CelebAHQ", "FFHQ", "LSUN"})
"""Data sets of official configurations that are published in several forms, so the user must provide the images."""


def source_of(dataset: str) -> str:
    """Return the source, for `open_images` or `read_data`, of a configuration's ``data.dataset``.

    Raises:
        ValueError: the data set is one that the user must provide.
    """
    if dataset in USER_PROVIDED and not Path(dataset).exists():
        raise ValueError(
            f"data.dataset is {dataset!r}, which cannot be found by name; give its images as a folder or archive with "
            "--data or as data.dataset"
        )
    return CONFIG_SOURCES.get(dataset, dataset)


def open_set(name: str, split: str, conversion: Conversion, *, trust_pickle: bool = False) -> Images:
    """Open a split of a data set of `SETS`; an empty split is "train".

    Raises:
        ValueError: an unknown split, or a corrupt file.
        FileNotFoundError: the files are not in the folder of data sets.
    """
    data_set = SETS[name]
    split = split or DEFAULT_SPLIT
    if split not in data_set.splits:
        raise ValueError(unknown_message(f"split of {name}", split, data_set.splits))
    folder = Path(os.environ.get(FOLDER_VARIABLE) or "data")
    files = data_set.splits[split]
    for path in (folder / file for file in files):
        if path.exists():
            return open_official(path, split, conversion, trust_pickle=trust_pickle)
    raise FileNotFoundError(
        f"{name} is not in {folder}: put {files[0]} (MD5 {MD5[files[0]]}) from {data_set.page} there, or set "
        f"{FOLDER_VARIABLE} to its folder"
    )


def is_official(path: Path) -> bool:
    """Return whether ``path`` is a file or folder of CIFAR-10 or SVHN, judged by its name."""
    return is_cifar(path) or path.suffix == ".mat"


def open_official(path: Path, split: str, conversion: Conversion, *, trust_pickle: bool = False) -> Images:
    """Open a file or folder for which `is_official` is true.

    Raises:
        ValueError: an unknown split, a split that is not in this file, a wrong checksum, or a corrupt file.
        MissingPackageError: SciPy, which SVHN needs, is not installed.
    """
    if path.is_file():
        _check_md5(path)
    if is_cifar(path):
        return open_cifar(path, split or DEFAULT_SPLIT, conversion, trust_pickle=trust_pickle)
    if split and path.name != f"{split}_32x32.mat":
        raise ValueError(f"{path} is not the split {split!r} of SVHN, which is the file {split}_32x32.mat")
    return _open_svhn(path, conversion)


def _open_svhn(path: Path, conversion: Conversion) -> Images:
    """Load a .mat file with images ``X`` (32, 32, 3, N) uint8 and labels ``y`` (N, 1) into memory."""
    require_packages("a .mat file of SVHN (package extra svhn)", "scipy")
    from scipy.io import loadmat

    with corrupt_file_errors(str(path)), open(path, "rb") as file:
        try:
            variables = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
        except Exception as error:  # SciPy raises many classes; `corrupt_file_errors` handles EOFError
            raise EOFError(str(error)) from error
    if not {"X", "y"} <= set(variables):
        raise ValueError(f"{path} contains {', '.join(variables) or 'nothing'}; expected X and y, as in SVHN's files")
    images, labels = variables["X"], variables["y"]
    valid_shapes = images.shape[:-1] == SVHN_SHAPE and images.shape[-1] == labels.size
    if images.dtype != np.uint8 or not valid_shapes or labels.dtype.kind not in "iuf":
        raise ValueError(
            f"X of {path} is {images.dtype} {images.shape} and y is {labels.dtype} {labels.shape}; expected uint8 "
            "images (32, 32, 3, N) and N numeric labels"
        )
    digits = labels.ravel().astype(int)
    if len(digits) and (digits.min() < 1 or digits.max() > SVHN_ZERO):
        raise ValueError(f"y of {path} has labels {digits.min()} to {digits.max()}; SVHN's are 1 to {SVHN_ZERO}")

    def items() -> Generator[Item, None, None]:
        for index, digit in enumerate((digits % SVHN_ZERO).tolist()):
            yield Item(str(index), images[..., index], digit)

    return Images(str(path), len(digits), items, conversion)


def _check_md5(path: Path) -> None:
    """Raise ValueError if a file with an official name has another checksum than the official file."""
    if path.name not in MD5:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != MD5[path.name]:
        raise ValueError(
            f"{path} has the MD5 {digest.hexdigest()}, but the official file has {MD5[path.name]}: the download is "
            "incomplete, or this is another file; download it again"
        )
