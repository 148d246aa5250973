# SPDX-License-Identifier: Apache-2.0
"""Crafted files of images: unusual and hostile ones that a random change does not find."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt
from PIL import Image

from scoresde_fast.data.codecs import encode_png
from scoresde_fast.data.in_memory import read_data, read_images
from scoresde_fast.data.masks import read_mask
from scoresde_fast.data.sources import open_images

SIZE = 16
Array = npt.NDArray[Any]
Readings = Mapping[str, Array]
"""What a reader returns: name -> pixels (H, W, C)."""
Read = Callable[[str], Readings]
Accepted = Callable[[Readings], str]
"""Returns what is wrong with a reading; empty if nothing is."""


class Crafted(NamedTuple):
    """A file: ``make`` writes it into a folder and returns its source."""

    place: str
    what: str
    make: Callable[[Path], str]
    read: Read
    accepted: Accepted


# Readers


def read_all(source: str) -> Readings:
    """Read all images of a source."""
    images = open_images(source)
    return {
        name: image.permute(1, 2, 0).numpy()
        for batch in images.batches(2)
        for name, image in zip(batch.names, batch.images, strict=True)
    }


def read_one(source: str) -> Readings:
    """Read one file, as the command inpaint does."""
    return {"": read_images(source, [(1, SIZE, SIZE), (3, SIZE, SIZE)]).data[0].permute(1, 2, 0).numpy()}


def read_mask_file(source: str) -> Readings:
    """Read a mask."""
    return {"": read_mask(Path(source), (SIZE, SIZE)).numpy()}


def read_points(source: str) -> Readings:
    """Read points with two coordinates."""
    return {"": read_data(source, (2, 1, 1), is_image=False).data.numpy()}


# Judgements of readings


def only(*pictures: Array) -> Accepted:
    """Accept exactly these pictures, in their order."""

    def accepted(result: Readings) -> str:
        if len(result) != len(pictures):
            return "some images are passed over"
        return "" if all(map(np.array_equal, result.values(), pictures)) else "read with other pixels"

    return accepted


def close_to(picture: Array) -> Accepted:
    """Accept one reading with this orientation; lossy formats change pixels a little."""

    def accepted(result: Readings) -> str:
        (pixels,) = result.values()
        if pixels.shape[:2] != picture.shape[:2]:
            return "read with another size"
        return "" if np.abs(pixels.mean(2) - picture.mean(2)).mean() < 8 else "read with other pixels"

    return accepted


def refused(result: Readings) -> str:
    """Accept no reading."""
    return "read, although it is invalid"


def anything(result: Readings) -> str:
    """Accept any reading."""
    return ""


def not_executed(result: Readings) -> str:
    """Accept a reading if no code has run."""
    return "code of the file was executed" if Path("executed").exists() else ""


# Makers


def picture(seed: int = 0) -> Array:
    """Return (H, W, 3) of smooth colours, which lossy formats keep well."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.stack([3 * x + 6 * y + 30 * channel + 7 * seed for channel in range(3)], 2).astype(np.uint8)


def png(seed: int = 0) -> bytes:
    """Return a PNG of `picture`."""
    return encode_png(picture(seed))


def encoded(suffix: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return `picture` in a format and a mode of Pillow."""
    file = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def as_file(name: str) -> Callable[[bytes, Path], str]:
    """Return a function that writes bytes to ``name`` in a folder; the source of "f/a.png" is the folder f."""

    def put(content: bytes, folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name.partition("/")[0]

    return put


def folder_of(files: Mapping[str, bytes], source: str = "f") -> Callable[[Path], str]:
    """Return a function that writes files into the folder f."""

    def make(folder: Path) -> str:
        (folder / "f").mkdir()
        for name, content in files.items():
            (folder / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "f" / name).write_bytes(content)
        return source

    return make


def archive(suffix: str, members: Mapping[str, bytes], compression: int = ZIP_STORED) -> bytes:
    """Return a .zip or .tar with these members."""
    file = io.BytesIO()
    if suffix == ".zip":
        with ZipFile(file, "w", compression) as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    """Return a compressed .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    """Return a .npy."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _png_of_size(size: int, rows: int) -> Callable[[Path], object]:
    """Return a function that writes a gray PNG whose header has any size, with some rows of zeros."""

    def make(path: Path) -> None:
        data = zlib.compress(bytes(rows * (size + 1)), 1)
        header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        parts = [struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
                 for kind, part in chunks]  # fmt: skip
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

    return make


def tar_with(**fields: Any) -> Callable[[Path], str]:
    """Return a function that writes a .tar of an image and a further member with these fields of `TarInfo`."""

    def make(folder: Path) -> str:
        with tarfile.open(folder / "a.tar", "w") as tar:
            member = tarfile.TarInfo("0.png")
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
            other = tarfile.TarInfo("1.png")
            for name, value in fields.items():
                setattr(other, name, value)
            tar.addfile(other)
        return "a.tar"

    return make


def tar_of_size(size_field: bytes) -> Callable[[Path], str]:
    """Return a function that writes a .tar whose member has this size field and a right checksum."""

    def make(folder: Path) -> str:
        header = bytearray(tarfile.TarInfo("0.png").tobuf())
        header[124:136] = size_field.ljust(12, b"\0")
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        (folder / "a.tar").write_bytes(bytes(header) + png().ljust(1024, b"\0") + bytes(1024))
        return "a.tar"

    return make


def zip_with(change: Callable[[ZipInfo], object]) -> Callable[[Path], str]:
    """Return a function that writes a .zip whose directory has a changed entry."""

    def make(folder: Path) -> str:
        with ZipFile(folder / "a.zip", "w") as zipped:
            zipped.writestr("0.png", png())
            change(zipped.infolist()[0])
        return "a.zip"

    return make


def with_member(name: str, make: Callable[[Path], object]) -> Callable[[Path], str]:
    """Return a function that makes a folder of an image and another member."""

    def made(folder: Path) -> str:
        (folder / "f").mkdir()
        (folder / "f" / "0.png").write_bytes(png())
        make(folder / "f" / name)
        return "f"

    return made


# The files

IMAGE, TWO = only(picture()), only(picture(0), picture(1))
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".jpe",
    ".JPG",
    ".PNG",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".jp2",
    ".heic",
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB", "HSV")
EXIF = Image.Exif()
EXIF[0x0112] = 6
ROTATED = np.rot90(picture(), -1)


def _oriented(suffix: str) -> bytes:
    return encoded(suffix, exif=EXIF)


def _modes() -> list[Crafted]:
    found = []
    for mode in MODES:
        for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"):
            try:
                content = encoded(suffix, mode)
            except (OSError, KeyError, ValueError):  # the format has no such mode
                continue
            whole = close_to(picture()) if mode in ("L", "RGB", "YCbCr", "CMYK", "LA", "RGBA") else lambda _: ""
            found.append(
                Crafted("modes", f"{mode} as {suffix}", partial(as_file(f"a{suffix}"), content), read_one, whole)
            )
    return found


def _suffixes() -> list[Crafted]:
    found = []
    for suffix in SUFFIXES:
        kind = Image.registered_extensions().get(suffix.lower())
        content = encoded(suffix.lower()) if kind and suffix != ".heic" else png(1)
        files = {"0.png": png(), f"1{suffix}": content}
        found.append(Crafted("suffixes", f"0.png and 1{suffix} in a folder", folder_of(files), read_all, _counted(2)))
        for kind in (".zip", ".tar"):
            put = partial(as_file(f"a{kind}"), archive(kind, files))
            found.append(Crafted("suffixes", f"0.png and 1{suffix} in a {kind}", put, read_all, _counted(2)))
    return found


def _counted(count: int) -> Accepted:
    return lambda result: "" if len(result) == count else "some images are passed over"


def _folders() -> list[Crafted]:
    members: dict[str, tuple[str, Callable[[Path], object], Accepted]] = {
        "a FIFO": ("1.png", os.mkfifo, refused),
        "a folder": ("1.png", Path.mkdir, IMAGE),
        "a dangling link": ("1.png", lambda path: path.symlink_to("nowhere"), refused),
        "a link to itself": ("1.png", lambda path: path.symlink_to("1.png"), refused),
        "a link to an endless device": ("1.png", lambda path: path.symlink_to("/dev/zero"), refused),
        "an empty file": ("1.png", Path.touch, refused),
        "a link to its own folder": ("loop", lambda path: path.symlink_to("."), _counted(1)),
        "a hidden copy": ("._0.png", Path.touch, IMAGE),
        "a note": (".DS_Store", Path.touch, IMAGE),
        "no UTF-8": ("1\udcff.png", lambda path: path.write_bytes(png(1)), TWO),
        "a line break": ("1\n.png", lambda path: path.write_bytes(png(1)), TWO),
        "a text": ("1.png", lambda path: path.write_text("no picture"), refused),
        "another size": ("1.png", lambda path: path.write_bytes(encode_png(picture()[:8])), refused),
        "a picture of 30 000 x 30 000": ("1.png", _png_of_size(30_000, 1), refused),
        "a picture of 2^31 - 1 squared": ("1.png", _png_of_size(2**31 - 1, 0), refused),
        "a picture of 0 x 0": ("1.png", _png_of_size(0, 0), refused),
    }  # fmt: skip
    return [
        *(Crafted("folders", f"0.png and {what} as {name!r}", with_member(name, make), read_all, accepted)
          for what, (name, make, accepted) in members.items()),
        Crafted("folders", "empty", folder_of({}), read_all, refused),
        Crafted("folders", "only a text", folder_of({"a.txt": b"a"}), read_all, refused),
        *(Crafted("orientation", f"EXIF 6 as {suffix}", partial(as_file(f"a{suffix}"), _oriented(suffix)), read_one,
                  close_to(ROTATED)) for suffix in (".jpg", ".webp", ".png")),
    ]  # fmt: skip


def _archives() -> list[Crafted]:
    def put(suffix: str, content: bytes) -> Callable[[Path], str]:
        return partial(as_file(f"a{suffix}"), content)

    labelled = {"0.png": png(0), "1.png": png(1), "0.cls": b"3", "1.cls": b"4"}

    def has_labels(result: Readings) -> str:
        (batch,) = open_images("a.tar").batches(2)
        return "" if batch.labels is not None and batch.labels.tolist() == [3, 4] else "labels are lost"

    tars = {
        **{f"a link to {target}": (tar_with(type=kind, linkname=target), anything)
           for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) for target in ("0.png", "1.png", "/etc/passwd", "../../x")},
        **{f"a device, {kind!r}": (tar_with(type=kind), anything)
           for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)},
        **{f"the size {field!r}": (tar_of_size(field), refused)
           for field in (b"77777777777", b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"-0000000001", b"xyz", b"")},
    }  # fmt: skip
    named = {
        name: {name: png()}
        for name in (
            "../0.png",
            "/0.png",
            "a/../../0.png",
            "0\udcff.png",
            "\n.png",
            ".png",
            "a" * 300 + ".png",
            "/".join("a" * 200) + "/0.png",
        )
    }
    label_texts = (b"", b"-1", b"x", b"9" * 5000, b"1" * 30, "٣".encode(), b"1.5", b"\xff", b" 3\n")
    zips: dict[str, tuple[Callable[[ZipInfo], object], Accepted]] = {
        "a password": (lambda info: setattr(info, "flag_bits", 1), refused),
        "an unknown compression": (lambda info: setattr(info, "compress_type", 99), refused),
        "a wrong CRC": (lambda info: setattr(info, "CRC", 1), refused),
        "a size of 2^62": (lambda info: setattr(info, "file_size", 1 << 62), IMAGE),
        "a compressed size of 2^62": (lambda info: setattr(info, "compress_size", 1 << 62), IMAGE),
        "an offset beyond the end": (lambda info: setattr(info, "header_offset", 10**6), refused),
    }
    contents = {
        "empty .zip": (archive(".zip", {}), ".zip"), "empty .tar": (archive(".tar", {}), ".tar"),
        "a .zip named .tar": (archive(".zip", {"0.png": png()}), ".tar"),
        "a .tar named .zip": (archive(".tar", {"0.png": png()}), ".zip"),
        "a .png named .zip": (png(), ".zip"), "zeros named .tar": (bytes(10240), ".tar"),
        "a text in a .png of a .zip": (archive(".zip", {"0.png": b"no"}), ".zip"),
        "a .zip in a .zip": (archive(".zip", {"a.zip": archive(".zip", {"0.png": png()})}), ".zip"),
    }  # fmt: skip
    return [
        *(Crafted("tar members", what, make, read_all, accepted) for what, (make, accepted) in tars.items()),
        *(Crafted("member names", f"{name[:40]!r} in a {suffix}", _encodable(suffix, members), read_all, anything)
          for name, members in named.items() for suffix in (".zip", ".tar")),
        Crafted("labels", "both images before both labels", put(".tar", archive(".tar", labelled)), read_all,
                has_labels),
        *(Crafted("labels", f"{text[:40]!r}", put(".tar", archive(".tar", {"0.png": png(), "0.cls": text})), read_all,
                  anything) for text in label_texts),
        *(Crafted("zip entries", what, zip_with(change), read_all, accepted)
          for what, (change, accepted) in zips.items()),
        *(Crafted("archives", what, put(suffix, content), read_all, refused)
          for what, (content, suffix) in contents.items()),
    ]  # fmt: skip


def _encodable(suffix: str, members: Mapping[str, bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        try:
            content = archive(suffix, members)
        except UnicodeEncodeError:  # .zip has no such names
            content = archive(suffix, {"0.png": png()})
        return as_file(f"a{suffix}")(content, folder)

    return make


FILES = [*_modes(), *_suffixes(), *_folders(), *_archives()]
