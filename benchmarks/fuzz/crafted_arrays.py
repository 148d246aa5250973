# SPDX-License-Identifier: Apache-2.0
"""Crafted arrays and pickles of images, and archives that expand to half a gigabyte."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from benchmarks.fuzz.crafted import (
    Crafted,
    anything,
    archive,
    as_file,
    not_executed,
    npz,
    read_all,
    read_points,
    refused,
)  # fmt: skip

DEEP = "(" * 2000 + ")" * 2000


def headed_npy(header: str, data: bytes = bytes(4 * 4 * 4), version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a .npy with any text as its header."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", min(len(text), 65535 if version == (1, 0) else 2**32 - 1))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def cifar(content: bytes, folder: Path) -> str:
    """Write a folder of CIFAR-10's Python form, whose test batch has this content."""
    (folder / "batches").mkdir(exist_ok=True)
    (folder / "batches" / "data_batch_1").write_bytes(cifar_batch())
    (folder / "batches" / "test_batch").write_bytes(content)
    return "batches:test"


def cifar_batch(**changes: Any) -> bytes:
    """Return a batch of four images."""
    content = {"data": np.zeros((4, 3072), np.uint8), "labels": [1, 2, 3, 4], "batch_label": "b"} | changes
    return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2)


def bomb(size: int, start: bytes = b"") -> bytes:
    """Return a .zip whose member has ``start`` and then ``size`` zeros, half a gigabyte in a few megabytes."""
    file = io.BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as zipped, zipped.open("arr_0.npy", "w") as member:
        member.write(start)
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def _bombs() -> list[Crafted]:
    size = 1 << 29
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1, 1 << 14, 1 << 15, 1)}
    )

    def as_png(folder: Path) -> str:
        return as_file("a.zip")(bomb(size).replace(b"arr_0.npy", b"arr_0.png"), folder)

    def as_npz(start: bytes) -> Callable[[Path], str]:
        return lambda folder: as_file("a.npz")(bomb(size, start), folder)

    return [
        Crafted("bombs", "512 MB of zeros as a .png of a .zip", as_png, read_all, refused),
        Crafted("bombs", "512 MB of zeros as arr_0.npy", as_npz(b""), read_all, refused),
        Crafted("bombs", "one picture of 512 MB in a .npz", as_npz(header.getvalue()), read_all, anything),
    ]


def _arrays() -> list[Crafted]:
    shapes = ("(-1, 4, 4, 1)", "(4, -4, -4, 1)", "(0, 4, 4, 1)", "(4, 0, 4, 1)", "(4, 4, 4, 0)",
              f"({10**12}, 4, 4, 1)", f"({2**62}, {2**62}, 4, 1)", f"({10**30}, 4, 4, 1)",
              "(4, 4, 4)", "()", "(4, 4, 4, 1, 1)", "(4.0, 4, 4, 1)",
              "(True, 4, 4, 1)", "('4', 4, 4, 1)", "[4, 4, 4, 1]", "None", "(4, 4, 4, 7)", "(1, 1, 64, 1)")  # fmt: skip
    headers = {
        **{f"shape {shape}": f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}" for shape in shapes},
        **{f"descr {descr}": f"{{'descr': {descr}, 'fortran_order': False, 'shape': (4, 4, 4, 1), }}"
           for descr in ("'|O'", "'>f8'", "'<U4'", "'|V1'", "'?'", "'|i1'", "'x'", "[('a', '|u1')]", "3",
                         "None", "'|u1,|u1'", "[]", "('|u1', (2,))", "'|u0'", "'m8[Y]'")},
        "Fortran order": "{'descr': '|u1', 'fortran_order': True, 'shape': (4, 4, 4, 1), }",
        "fortran_order 'no'": "{'descr': '|u1', 'fortran_order': 'no', 'shape': (4, 4, 4, 1), }",
        "no keys": "{}", "empty": "", "a call": "__import__('os').system('touch executed')", "a list": "[1]",
        "2 000 brackets": DEEP, "minus 2 000 times": "-" * 5000 + "1", "unclosed": "{'descr': ", "zeros": "\0" * 64,
        "digits": "9" * 10000, "other keys": "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4, 1), 'x': 1}",
        "a long header": " " * 60000 + "{}",
    }  # fmt: skip
    found = []
    for what, header in headers.items():
        content = headed_npy(header)
        accepted = not_executed if what in ("shape (1, 1, 64, 1)", "shape (4, 4, 4, 7)", "Fortran order") else refused
        found.append(Crafted(".npy headers", what, partial(as_file("a.npy"), content), read_all, accepted))
        zipped = archive(".zip", {"arr_0.npy": content})
        found.append(Crafted(".npz headers", what, partial(as_file("a.npz"), zipped), read_all, accepted))
        points = archive(".zip", {"position.npy": content})
        found.append(Crafted("headers of points", what, partial(as_file("a.npz"), points), read_points, refused))
    for version in ((2, 0), (3, 0), (0, 0), (9, 9), (255, 255)):
        content = headed_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4, 1), }", version=version)
        found.append(
            Crafted(".npy headers", f"version {version}", partial(as_file("a.npy"), content), read_all, anything)
        )
    for what, content in {
        "no arr_0": npz(x=np.zeros(1)),
        "empty": archive(".zip", {}),
        "an object": npz(arr_0=np.array([{}], object)),
        "floats": npz(arr_0=np.zeros((2, 4, 4, 1), np.float32)),
    }.items():
        found.append(Crafted(".npz", what, partial(as_file("a.npz"), content), read_all, refused))
    return found


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def _pickles() -> list[Crafted]:
    laughs: list[Any] = [1]
    for _ in range(30):
        laughs = [laughs, laughs]
    ring: list[Any] = []
    ring.append(ring)
    data = np.zeros((4, 3072), np.uint8)
    start = b"\x80\x02}U\x06labels]U\x04data"
    contents: dict[str, Callable[[], bytes]] = {
        "a call of os.system": lambda: cifar_batch(labels=_Payload()),
        "two million nested tuples as a key": lambda: b"\x80\x02})" + b"\x85" * 2_000_000 + b"K\x01s.",
        "two million nested lists": lambda: b"\x80\x02" + b"(" * 2_000_000 + b"l" * 2_000_000 + b".",
        "two million marks": lambda: b"\x80\x02" + b"(" * 2_000_000 + b".",
        "nested tuples as data": lambda: start + b")" + b"\x85" * 100_000 + b"u.",
        "2^30 references to one label": lambda: cifar_batch(labels=laughs),
        "labels that contain themselves": lambda: cifar_batch(labels=ring),
        "a memo of 2^31 entries": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
        "a string of 2^31 bytes": lambda: b"\x80\x02T\xff\xff\xff\x7fabc.",
        "a string of 2^63 bytes": lambda: b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        "a frame of 2^63 bytes": lambda: b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "a million digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n.",
        "a call of getattr": lambda: b"c__builtin__\ngetattr\n(c__builtin__\n__import__\nU\x04nametR.",
        "the wrong shape": lambda: cifar_batch(data=data[:, :5]),
        "floats": lambda: cifar_batch(data=data.astype(float)),
        "labels of 99": lambda: cifar_batch(labels=[99] * 4),
        "labels of text": lambda: cifar_batch(labels=["a"] * 4),
        "labels of None": lambda: cifar_batch(labels=None),
        "labels of floats": lambda: cifar_batch(labels=[1.5] * 4),
        "too few labels": lambda: cifar_batch(labels=[1]),
        "no images": lambda: cifar_batch(data=data[:0], labels=[]),
        "no labels": lambda: pickle.dumps({b"data": data}, 2),
        "a list": lambda: pickle.dumps([1, 2], 2),
        "data of bytes": lambda: cifar_batch(data=bytes(100)),
        "an empty file": lambda: b"",
        "a text": lambda: b"no pickle",
        "an empty stack": lambda: b"\x80\x02.",
        "a persistent id": lambda: b"\x80\x02Pabc\n.",
        "protocol 255": lambda: b"\x80\xff.",
        "an array with a shape of 2^62": lambda: cifar_batch().replace(
            b"K\x04M\x00\x0c\x86", b"\x8a\x08" + b"\xff" * 7 + b"\x3fM\x00\x0c\x86"),
    }  # fmt: skip
    return [
        Crafted("pickles", what, lambda folder, make=make: cifar(make(), folder), read_all,  # type: ignore[misc]
                refused if what != "a call of os.system" else lambda result: not_executed(result) or refused(result))
        for what, make in contents.items()
    ]  # fmt: skip


ARRAYS = [*_bombs(), *_arrays(), *_pickles()]
