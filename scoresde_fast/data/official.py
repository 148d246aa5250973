# SPDX-License-Identifier: Apache-2.0
"""Public data sets by name: where their files are looked for, and which bytes are the official ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from scoresde_fast.data.cifar import ARCHIVES, FOLDERS, is_cifar, open_cifar
from scoresde_fast.data.items import Images
from scoresde_fast.data.svhn import open_svhn
from scoresde_fast.errors import unknown

VARIABLE = "SCORESDE_FAST_DATA"
"""The environment variable that names the folder of data sets; without it that is ./data."""
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}
"""Of the official files, as their publishers and torchvision give them."""
CHUNK = 1 << 20
DEFAULT_SPLIT = "train"
"""Where none is named."""


class DataSet(NamedTuple):
    """The page that a data set is published on, and the files or folders that hold each split, the best first."""

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

CONFIGURED = {"CIFAR10": "cifar10:train", "SVHN": "svhn:train"}
"""What the official configurations call data sets -> their sources here."""
ELSEWHERE = frozenset({"CELEBA", "CelebAHQ", "FFHQ", "LSUN"})
"""Data sets of official configurations that have no one form in which they are published."""


def source_of(dataset: str) -> str:
    """The source of images, or points, that a configuration's ``data.dataset`` names.

    Raises ValueError where that is a data set that only its owner can point to.
    """
    if dataset in ELSEWHERE and not Path(dataset).exists():
        raise ValueError(
            f"data.dataset is {dataset!r}, which is not known by its name; give its images as a folder or an archive, "
            "with --data or in its place"
        )
    return CONFIGURED.get(dataset, dataset)


def open_set(name: str, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """The images of a split of a data set of `SETS`; "" is "train".

    Raises:
        ValueError: an unknown split, or a file whose bytes are not the official ones.
        FileNotFoundError: the data set's files are not in the folder of data sets.
    """
    data_set = SETS[name]
    split = split or DEFAULT_SPLIT
    if split not in data_set.splits:
        raise ValueError(unknown(f"split of {name}", split, data_set.splits))
    folder = Path(os.environ.get(VARIABLE) or "data")
    files = data_set.splits[split]
    for path in (folder / file for file in files):
        if path.exists():
            return open_official(path, split, size, trust_pickle=trust_pickle)
    raise FileNotFoundError(
        f"{name} is not in {folder}: put {files[0]} (MD5 {MD5[files[0]]}) of {data_set.page} there, or name its folder "
        f"in {VARIABLE}"
    )


def is_official(path: Path) -> bool:
    """``path`` is a file or a folder of one of the data sets, by its name or by what is in it."""
    return is_cifar(path) or path.suffix == ".mat"


def open_official(path: Path, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """The images of a path for which `is_official`; a split of SVHN is a file of its own.

    Raises:
        ValueError: an unknown split, or one that the file is not; bytes that are not the official ones, or damaged.
    """
    if path.is_file():
        _verify(path)
    if is_cifar(path):
        return open_cifar(path, split or DEFAULT_SPLIT, size, trust_pickle=trust_pickle)
    if split and path.name != f"{split}_32x32.mat":
        raise ValueError(f"{path} has no split {split!r}; a split of SVHN is a file of its own, {split}_32x32.mat")
    return open_svhn(path, size)


def _verify(path: Path) -> None:
    """Raise ValueError where the bytes of a file of an official name are others."""
    if path.name not in MD5:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != MD5[path.name]:
        raise ValueError(
            f"{path} has the MD5 {digest.hexdigest()}, and the official file {MD5[path.name]}: its download was cut "
            "short, or it is another file; download it again"
        )
