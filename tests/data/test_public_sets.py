# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and SVHN in small copies of the official files: images, labels, and refused files."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.configs import load_config, preset_names
from scoresde_fast.data import DATASETS, public_sets
from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.errors import MissingPackageError

pytestmark = pytest.mark.same_everywhere

COUNT = 3
RANDOM = np.random.Generator(np.random.PCG64(0))
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
IMAGES = {name: RANDOM.integers(0, 256, (COUNT, 3, 32, 32), np.uint8) for name in BATCHES}
LABELS = {name: RANDOM.integers(0, 10, COUNT).tolist() for name in BATCHES}


def binary_files() -> dict[str, bytes]:
    return {
        f"{name}.bin": b"".join(
            bytes([label]) + image.tobytes() for label, image in zip(labels, IMAGES[name], strict=True)
        )
        for name, labels in LABELS.items()
    }


def python_files() -> dict[str, bytes]:
    return {name: old_pickle(name) for name in BATCHES}


def old_pickle(name: str) -> bytes:
    """Return a batch pickled as by Python 2, like the official archive: byte strings and NumPy's old module names."""

    def text(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    state = b"(K\x01K" + bytes([COUNT]) + b"M\x00\x0c\x86" + dtype + b"\x89" + text(IMAGES[name].tobytes()) + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in LABELS[name]) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + labels + b"u."


def archive(path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        # the official archives are not sorted
        for name in sorted(files, key=lambda name: hashlib.md5(name.encode()).digest()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return path


def unpacked(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def trust(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register the file's checksum as the official one."""
    monkeypatch.setitem(public_sets.MD5, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    return path


def read_all(source: ImageSource) -> tuple[torch.Tensor, list[int]]:
    batches = list(source.batches(4))
    assert all(batch.labels is not None for batch in batches)
    labels = [label for batch in batches if batch.labels is not None for label in batch.labels.tolist()]
    return torch.cat([batch.images for batch in batches]), labels


CIFAR: dict[str, Callable[[Path], Path]] = {
    "binary archive": lambda path: archive(path / "cifar-10-binary.tar.gz", binary_files(), "cifar-10-batches-bin"),
    "python archive": lambda path: archive(path / "cifar-10-python.tar.gz", python_files(), "cifar-10-batches-py"),
    "binary folder": lambda path: unpacked(path / "cifar-10-batches-bin", binary_files()),
    "python folder": lambda path: unpacked(path / "cifar-10-batches-py", python_files()),
}


@pytest.mark.parametrize("make", CIFAR.values(), ids=CIFAR)
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]) -> None:
    """All four forms give the same images and labels, by path and by name."""
    path = make(tmp_path)
    if path.is_file():
        trust(path, monkeypatch)
    monkeypatch.setenv(public_sets.FOLDER_VARIABLE, str(tmp_path))
    for split, names in (("train", BATCHES[:5]), ("test", BATCHES[5:])):
        for source in (open_images(f"{path}:{split}"), open_images(f"cifar10:{split}")):
            assert (source.count, source.shape) == (COUNT * len(names), (3, 32, 32))
            images, labels = read_all(source)
            assert np.array_equal(images, np.concatenate([IMAGES[name] for name in names]))
            assert labels == [label for name in names for label in LABELS[name]]
    assert open_images("cifar10").count == 5 * COUNT
    assert next(open_images("cifar10:test").batches(2)).names == ["test_batch/0", "test_batch/1"]


class Payload:
    """Creates a folder when it is unpickled without precautions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.path), 0o777, True)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    """A pickle that refers to a function is refused without calling it, unless it is trusted."""
    evidence = tmp_path / "ran"
    content = {"data": IMAGES["test_batch"].reshape(COUNT, -1), "labels": LABELS["test_batch"]}
    harmless = pickle.dumps(content, protocol=2)
    malicious = pickle.dumps({**content, "more": Payload(evidence)}, protocol=2)
    path = unpacked(tmp_path / "files", {"data_batch_1": harmless, "test_batch": malicious})
    with pytest.raises(ValueError, match=r"test_batch of .* contains os.makedirs, not only arrays") as caught:
        open_images(f"{path}:test")
    assert not evidence.exists() and "\n" not in str(caught.value)
    images, labels = read_all(open_images(f"{path}:test", trust_pickle=True))
    assert evidence.exists()
    assert np.array_equal(images, IMAGES["test_batch"]) and labels == LABELS["test_batch"]


def test_incomplete_downloads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with an official name but another checksum is refused; the message gives both checksums."""
    path = CIFAR["binary archive"](tmp_path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"has the MD5 {md5}, but the official file has c32a1d4ab5d0.*download"):
        open_images(f"{path}:test")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is corrupt, truncated"):
        open_images(f"{trust(path, monkeypatch)}:train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_batch.bin", b"\x00" * 3072, "has 3072 bytes, not a multiple of 3073"),
        ("test_batch.bin", b"\x0a" * 3073, "has a label 10; labels are 0 to 9"),
        ("test_batch", b"text", "is not a complete pickle of data and labels"),
        ("test_batch", old_pickle("test_batch")[:-500], "is not a complete pickle of data and labels"),
        ("test_batch", pickle.dumps({"data": [], "labels": [1]}), r"data in test_batch of .* is float64 \(0,\)"),
        ("test_batch", pickle.dumps({"labels": [1]}), "is not a complete pickle of data and labels .'data'"),
    ],
    ids=["length", "label", "text", "cut", "shape", "key"],
)
def test_damaged_cifar(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The message names the file and its fault."""
    first = "data_batch_1.bin" if name.endswith(".bin") else "data_batch_1"
    path = unpacked(tmp_path / "files", {first: b"", name: content})
    with pytest.raises(ValueError, match=message):
        open_images(f"{path}:test")


def mat(path: Path, compressed: bool, **variables: np.ndarray) -> Path:
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(path, variables, do_compression=compressed)
    return path


DIGITS = RANDOM.integers(0, 256, (32, 32, 3, 5), np.uint8)
CLASSES = np.array([[1], [10], [9], [5], [10]])


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("count", [5, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool, count: int, dtype: type) -> None:
    """Images and labels are read as SciPy wrote them, but the label 10 becomes 0; 3 uint8 labels fit into their tag."""
    variables = {"X": DIGITS[..., :count], "y": CLASSES[:count].astype(dtype)}
    path = trust(mat(tmp_path / "extra_32x32.mat", compressed, **variables), monkeypatch)
    monkeypatch.setenv(public_sets.FOLDER_VARIABLE, str(tmp_path))
    for name in ("svhn:extra", str(path), f"{path}:extra"):
        source = open_images(name)
        assert (source.count, source.shape) == (count, (3, 32, 32))
        images, labels = read_all(source)
        assert np.array_equal(images, DIGITS[..., :count].transpose(3, 2, 0, 1))
        assert labels == [1, 0, 9, 5, 0][:count]


def test_svhn_memory(tmp_path: Path) -> None:
    """Reading 12 MiB of digits takes at most a sixth more memory than that."""
    digits = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (32, 32, 3, 4096), np.uint8)
    path = mat(tmp_path / "digits.mat", True, X=digits, y=np.ones((4096, 1), np.uint8))
    tracemalloc.start()
    try:
        assert sum(len(batch.names) for batch in open_images(str(path)).batches(64)) == 4096
        assert tracemalloc.get_traced_memory()[1] < digits.nbytes * 7 / 6
    finally:
        tracemalloc.stop()


BAD_MATS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "names": ({"Z": DIGITS}, "contains Z; expected X and y"),
    "numbers": ({"X": DIGITS.astype(float), "y": CLASSES}, r"X of .* is float64 \(32, 32, 3, 5\)"),
    "count": ({"X": DIGITS, "y": CLASSES[:3]}, r"and y is int64 \(3, 1\); expected uint8"),
    "text": ({"X": DIGITS, "y": np.array(["one"] * 5)}, r"and y is <U3 \(5,\); expected .* numeric labels"),
    "labels": ({"X": DIGITS, "y": CLASSES - 1}, "has labels 0 to 9; SVHN's are 1 to 10"),
}


@pytest.mark.parametrize(("variables", "message"), BAD_MATS.values(), ids=BAD_MATS)
def test_other_mats(tmp_path: Path, variables: dict[str, np.ndarray], message: str) -> None:
    """A .mat with other variables is refused; the message describes them."""
    with pytest.raises(ValueError, match=message):
        open_images(str(mat(tmp_path / "a.mat", True, **variables)))


def test_mats_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package, the extra and the command that installs it."""
    path = mat(tmp_path / "a.mat", True, X=DIGITS, y=CLASSES)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingPackageError, match=r"\(package extra svhn\) needs scipy to .*: pip install scipy"):
        open_images(str(path))


@pytest.mark.parametrize("end", [0, 60, 1000, -60, -1])
def test_truncated_mats(tmp_path: Path, end: int) -> None:
    """A truncated file and a text file are refused as corrupt."""
    path = mat(tmp_path / "a.mat", True, X=DIGITS, y=CLASSES)
    path.write_bytes(path.read_bytes()[:end] or b"text" * 100)
    with pytest.raises(ValueError, match=r"a.mat is corrupt, truncated"):
        list(open_images(str(path)).batches(2))


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file, its checksum, its web page, and the folder for it."""
    monkeypatch.setenv(public_sets.FOLDER_VARIABLE, str(tmp_path))
    message = (
        f"is not in {tmp_path}: put cifar-10-binary.tar.gz .MD5 c32a1d4ab5d03f1284b67883e8d87530. from https://www.cs"
    )
    with pytest.raises(FileNotFoundError, match=message):
        open_images("cifar10:test")
    monkeypatch.delenv(public_sets.FOLDER_VARIABLE)
    with pytest.raises(FileNotFoundError, match=r"svhn is not in data: put extra_32x32.mat .*ufldl.stanford.edu"):
        open_images("svhn:extra")


def test_unknown_splits(tmp_path: Path) -> None:
    """The message for an unknown split gives the valid ones."""
    with pytest.raises(ValueError, match="unknown split of svhn 'tests' - did you mean 'test'"):
        open_images("svhn:tests")
    with pytest.raises(ValueError, match="unknown split of CIFAR-10 'extra'"):
        open_images(f"{CIFAR['binary folder'](tmp_path)}:extra")
    with pytest.raises(ValueError, match="is not the split 'test' of SVHN, which is the file test_32x32"):
        open_images(f"{mat(tmp_path / 'a.mat', True, X=DIGITS, y=CLASSES)}:test")


def test_data_sets_of_presets() -> None:
    """Every official configuration uses a supported data set, or one that the user must provide."""
    datasets = {load_config(name).data.dataset for name in preset_names()}
    assert datasets <= set(DATASETS) | set(public_sets.CONFIG_SOURCES) | public_sets.USER_PROVIDED
    for dataset in datasets:
        if dataset in public_sets.USER_PROVIDED:
            with pytest.raises(ValueError, match=f"data.dataset is '{dataset}', .* with --data or as data.dataset"):
                public_sets.source_of(dataset)
        else:
            assert public_sets.source_of(dataset).split(":")[0] in {**DATASETS, **public_sets.SETS}
