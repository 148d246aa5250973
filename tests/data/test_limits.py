# SPDX-License-Identifier: Apache-2.0
"""Hostile files: one sentence each, before they take memory."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from scoresde_fast.data.cifar_pickle import unpickle
from scoresde_fast.data.codecs import PNG_SIGNATURE, decode_image, encode_png
from scoresde_fast.data.in_memory import read_data
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation.reference import read_statistics

pytestmark = pytest.mark.same_everywhere

MIB = 1 << 20
HUGE = 3 << 30
PNG = encode_png(np.zeros((2, 2, 3), np.uint8))


def png_bomb() -> bytes:
    """Return a PNG of a few bytes that declares 50000x50000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    parts = (header, data, b"IEND")
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def tiff(**changed: int) -> bytes:
    """Return a gray 2x2 TIFF, in one strip or, with a tile's size, in tiles; its tags may declare another size."""
    tags = {"width": 2, "height": 2, "bits": 8, "compression": 1, "photometric": 1, "samples": 1, **changed}
    where = {"tiles": 8, "tile_bytes": 4} if "tile_width" in changed else {"strips": 8, "rows": 2, "strip_bytes": 4}
    entries = sorted((TAGS[name], value) for name, value in {**tags, **where}.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(entries)) + directory + bytes(4)


TAGS = {
    "width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "strips": 273, "samples": 277,
    "rows": 278, "strip_bytes": 279, "tile_width": 322, "tile_length": 323, "tiles": 324, "tile_bytes": 325,
}  # fmt: skip


IMAGES = {
    "png": (png_bomb(), "the image is 50000x50000; an image may have 1 to 89478485 pixels"),
    "tiff": (tiff(width=60_000, height=60_000), "the image is 60000x60000; an image may have"),
    "tile": (tiff(tile_width=30_000, tile_length=30_000), "the image is 30000x30000; an image may have"),
    "bmp": (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(6),
        "the image is 60000x60000",
    ),
}


@pytest.mark.parametrize(("content", "message"), IMAGES.values(), ids=IMAGES)
def test_pixel_bombs(content: bytes, message: str) -> None:
    """An image whose header declares too many pixels, or too large a tile, is refused."""
    assert np.array_equal(decode_image(tiff())[..., 0], np.zeros((2, 2)))
    assert len(content) < 1000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            decode_image(content)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def zip_bomb(path: Path) -> Path:
    """Write a .zip whose member declares 3 GiB of a PNG."""
    with ZipFile(path / "a.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("x.png", PNG + bytes(MIB))
    content = bytearray((path / "a.zip").read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, HUGE)
    (path / "a.zip").write_bytes(content)
    return path / "a.zip"


def npz_bomb(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> Path:
    """Write a .npz with an array of zeros that is a thousand times smaller in the file, as all zeros are."""
    with ZipFile(path / "a.npz", "w", ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("mu.npy", npy(np.zeros(4)))
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
            for _ in range(int(np.prod(shape)) * np.dtype(dtype).itemsize // MIB):
                file.write(bytes(MIB))
    return path / "a.npz"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def shard(path: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Path:
    """Write a compressed shard with a file that declares ``size`` bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    (path / "a.tar.gz").write_bytes(gzip.compress(member.tobuf() + bytes(MIB)))
    return path / "a.tar.gz"


def pipe(path: Path) -> Path:
    (path / "set").mkdir()
    os.mkfifo(path / "set/x.png")
    return path / "set"


def sparse(path: Path) -> Path:
    """Write a file of 3 GiB that takes no space."""
    (path / "set").mkdir()
    with open(path / "set/x.png", "wb") as file:
        file.write(PNG)
        file.truncate(HUGE)
    return path / "set"


def json_bomb(path: Path) -> Path:
    (path / "set").mkdir()
    (path / "set/x.png").write_bytes(PNG)
    (path / "set/dataset.json").write_bytes(b'{"labels": ' + b"[" * 100_000)
    return path / "set"


SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip": (zip_bomb, "x.png of .*a.zip takes 3072 MiB, but at most 512 MiB are read"),
    "npz of an image": (
        lambda path: npz_bomb(path, "arr_0", (1, 1, MIB, 300), "|u1"),
        "arr_0 of .*: the image is 314572800x1; an image may have 1 to 89478485 pixels",
    ),
    "npz below zero": (
        lambda path: npz_bomb(path, "arr_0", (-1, 4, 4, 1), "|u1"),
        r"has shape \(-1, 4, 4, 1\); the",
    ),
    "tar": (lambda path: shard(path, "x.png", HUGE), "x.png of .*a.tar.gz takes 3072 MiB, but at most 512 MiB"),
    "label": (lambda path: shard(path, "x.cls", 2 * MIB), "x.cls of .* takes 2 MiB, but at most 100 bytes are read"),
    "tar header": (
        lambda path: shard(path, "x", HUGE, tarfile.XHDTYPE),
        "a.tar.gz is corrupt, .*header of 3221225472",
    ),
    "pipe": (pipe, "set: x.png is not a regular file; remove it"),
    "file": (sparse, "x.png takes 3072 MiB, but at most 512 MiB are read"),
    "labels": (json_bomb, "dataset.json of .* has no valid labels; it needs"),
    "size": (lambda path: path / "set@99999", "set@99999: the image is 99999x99999; an image may have"),
}


@pytest.mark.parametrize(("make", "message"), SOURCES.values(), ids=SOURCES)
def test_archive_bombs(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """What would unpack to gigabytes, or never end, is refused in one line with what is allowed."""
    source = str(make(tmp_path))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            list(open_images(source).batches(1))
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("position", lambda path: read_data(str(path), (1, 16, 16), is_image=False)),
        ("sigma", read_statistics),
        ("features", read_statistics),
    ],
    ids=["points", "sigma", "features"],
)
def test_array_bombs(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    """Arrays that are loaded as a whole may not be packed as only zeros are."""
    path = npz_bomb(tmp_path, name, (MIB // 16, 1, 16, 16), "<f8")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"{name} of .*a.npz takes 128 MiB unpacked, more than 200 times its"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


DATA = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
PICKLES = {
    "depth": (b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.", "it has more than 16 tuples"),
    "references": (b"\x80\x02})q\x00" + b"h\x000" * 40 + b"K\x01s.", "it has more than 16 references"),
    "doubling": (b"\x80\x02})" + b"2\x86" * 30 + b"K\x01s.", "it has more than 16 (tuples|references)"),
    "operations": (b"\x80\x02" + b"N0" * 1_000_000 + b"N.", "it has more than 300000 operations"),
    "table": (b"\x80\x02}r\xff\xff\xff\x7f.", "object 3 has the index 2147483647"),
    "labels": (pickle.dumps({"data": [], "labels": [[[[]]]]}, protocol=2), r"labels of float64; expected uint8"),
    "label": (pickle.dumps({"data": [], "labels": [10**30]}, protocol=2), r"labels of object; expected uint8"),
}


@pytest.mark.parametrize(("raw", "message"), PICKLES.values(), ids=PICKLES)
def test_pickle_bombs(raw: bytes, message: str) -> None:
    """Pickles that overflow the stack, take minutes to hash or a table of gigabytes are refused, not run."""
    with pytest.raises(ValueError, match=message):
        unpickle(raw, "test_batch", trust_pickle=False)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("text", [str, str.encode], ids=["text", "bytes"])
def test_pickles_of_all_protocols(protocol: int, text: Callable[[str], str]) -> None:
    """What Python 3 itself pickles is read, also with the names of the files as in the official archive."""
    names = [text(f"image_{index}.png") for index in range(50 if protocol > 1 else 2)]
    content = {
        text("data"): DATA,
        text("labels"): [3, 9],
        text("filenames"): names,
        text("batch_label"): text("1 of 5"),
    }
    images, labels = unpickle(pickle.dumps(content, protocol), "test_batch", trust_pickle=False)
    assert np.array_equal(images, DATA) and labels == [3, 9]
