# SPDX-License-Identifier: Apache-2.0
"""Public data sets by name: where their files are looked for, their checksums, and the reader of SVHN."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scoresde_fast.data.cifar import ARCHIVES, FOLDERS, is_cifar, open_cifar
from scoresde_fast.data.items import Images, Item, reading
from scoresde_fast.errors import require_packages, unknown_message

VARIABLE = "SCORESDE_FAST_DATA"
"""The environment variable that names the folder of data sets; without it that is ./data."""
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}
"""Checksums of the official files, as their publishers and torchvision give them."""
CHUNK = 1 << 20
DEFAULT_SPLIT = "train"

SVHN_IMAGE = (32, 32, 3)
SVHN_ZERO = 10
"""The label of the digit 0; the labels of the others are the digits."""


class DataSet(NamedTuple):
    """The page that publishes a data set, and the files or folders that hold each split, in order of preference."""

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
"""Names of data sets in the official configurations, and their sources here."""
ELSEWHERE = frozenset({"CELEBA", "CelebAHQ", "FFHQ", "LSUN"})
"""Data sets of official configurations that are published in several forms."""


def source_of(dataset: str) -> str:
    """Return the source of images, or points, that a configuration's ``data.dataset`` names.

    Raises:
        ValueError: the user must say where the data set is.
    """
    if dataset in ELSEWHERE and not Path(dataset).exists():
        raise ValueError(
            f"data.dataset is {dataset!r}, which is not known by its name; give its images as a folder or an archive, "
            "with --data or in its place"
        )
    return CONFIGURED.get(dataset, dataset)


def open_set(name: str, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """Open a split of a data set of `SETS`; an empty split is "train".

    Raises:
        ValueError: an unknown split, or a file with a wrong checksum.
        FileNotFoundError: the files are not in the folder of data sets.
    """
    data_set = SETS[name]
    split = split or DEFAULT_SPLIT
    if split not in data_set.splits:
        raise ValueError(unknown_message(f"split of {name}", split, data_set.splits))
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
    """Return whether ``path`` is a file or a folder of one of the data sets."""
    return is_cifar(path) or path.suffix == ".mat"


def open_official(path: Path, split: str, size: int | None, *, trust_pickle: bool = False) -> Images:
    """Open a path for which `is_official`; each split of SVHN is a separate file.

    Raises:
        ValueError: an unknown split, or a split of another file; a wrong checksum, or a damaged file.
        MissingPackageError: SVHN without SciPy.
    """
    if path.is_file():
        _check_md5(path)
    if is_cifar(path):
        return open_cifar(path, split or DEFAULT_SPLIT, size, trust_pickle=trust_pickle)
    if split and path.name != f"{split}_32x32.mat":
        raise ValueError(f"{path} has no split {split!r}; each split of SVHN is a separate file, {split}_32x32.mat")
    return _open_svhn(path, size)


def _open_svhn(path: Path, size: int | None) -> Images:
    """Open the images ``X`` (32, 32, 3, N) uint8 with the labels ``y`` (N, 1) of a .mat file; all stay in memory."""
    require_packages("a .mat file of SVHN (the extra svhn)", "scipy")
    from scipy.io import loadmat

    with reading(str(path)), open(path, "rb") as file:
        try:
            variables = {name: value for name, value in loadmat(file).items() if not name.startswith("__")}
        except Exception as error:  # of many classes, after what is damaged
            raise EOFError(str(error)) from error
    if not {"X", "y"} <= set(variables):
        raise ValueError(f"{path} has {', '.join(variables) or 'nothing'}; SVHN's files have X and y")
    images, labels = variables["X"], variables["y"]
    shaped = images.dtype == np.uint8 and images.shape[:-1] == SVHN_IMAGE and images.shape[-1] == labels.size
    if not shaped or labels.dtype.kind not in "iuf":
        raise ValueError(
            f"X of {path} is {images.dtype} {images.shape} and y {labels.dtype} {labels.shape}; images are uint8 "
            "(32, 32, 3, N), and each has one label, a number"
        )
    digits = labels.ravel().astype(int)
    if len(digits) and (digits.min() < 1 or digits.max() > SVHN_ZERO):
        raise ValueError(f"y of {path} has labels {digits.min()} to {digits.max()}; SVHN's are 1 to {SVHN_ZERO}")

    def items() -> Generator[Item, None, None]:
        for index, digit in enumerate((digits % SVHN_ZERO).tolist()):
            yield Item(str(index), images[..., index], digit)

    return Images(str(path), len(digits), items, size)


def _check_md5(path: Path) -> None:
    """Raise ValueError for a file with an official name and another checksum."""
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
