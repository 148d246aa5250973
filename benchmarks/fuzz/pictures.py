# SPDX-License-Identifier: Apache-2.0
"""Wild files of images: damaged ones of every format, and the crafted ones of `benchmarks.fuzz.crafted`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.fuzz.cases import Case, Outcome, judged
from benchmarks.fuzz.crafted import (
    FILES,
    Accepted,
    Read,
    Readings,
    anything,
    archive,
    as_file,
    encoded,
    npy,
    npz,
    only,
    picture,
    png,
    read_all,
    read_mask_file,
    read_one,
    read_points,
)  # fmt: skip
from benchmarks.fuzz.crafted_arrays import ARRAYS, cifar, cifar_batch
from benchmarks.fuzz.sets import damage

PAIR = {"0.png": png(0), "1.png": png(1)}
Put = Callable[[bytes, Path], str]
DAMAGED: dict[str, tuple[bytes, Put, Read, bool]] = {
    ".png in a folder": (png(), as_file("f/a.png"), read_all, True),
    ".png": (encoded(".png", "P"), as_file("a.png"), read_one, True),
    ".jpg": (encoded(".jpg", quality=95), as_file("a.jpg"), read_one, False),
    ".jpg in a folder": (encoded(".jpg", progressive=True), as_file("f/a.jpg"), read_all, False),
    ".webp": (encoded(".webp", lossless=True), as_file("a.webp"), read_one, False),
    ".gif": (encoded(".gif"), as_file("a.gif"), read_one, False),
    ".bmp": (encoded(".bmp"), as_file("a.bmp"), read_one, False),
    ".tif": (encoded(".tif", compression="tiff_lzw"), as_file("a.tif"), read_one, False),
    ".zip": (archive(".zip", PAIR), as_file("a.zip"), read_all, True),
    ".tar": (archive(".tar", PAIR | {"0.cls": b"3", "1.cls": b"4"}), as_file("a.tar"), read_all, False),
    ".npz": (npz(arr_0=np.stack([picture(0), picture(1)])), as_file("a.npz"), read_all, True),
    ".npy": (npy(np.stack([picture(0), picture(1)])), as_file("a.npy"), read_all, False),
    "points": (npz(position=np.ones((4, 2, 1, 1), np.float32)), as_file("a.npz"), read_points, True),
    "mask": (encoded(".png", "1"), as_file("m.png"), read_mask_file, True),
    "pickle": (cifar_batch(), cifar, read_all, False),
}
"""For each format: a whole file, its place, its reader, and whether checksums name every change of a pixel."""


def wild_images(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Crafted files, and twice as many damaged ones."""
    crafted, formats = random.sample(FILES + ARRAYS, len(FILES + ARRAYS)), list(DAMAGED)
    for index in range(count):
        if index % 3 == 0:
            case = crafted[index // 3 % len(crafted)]
            yield Case(case.place, case.what, partial(_read, case.read, case.accepted), case.make)
            continue
        name = random.choice(formats)
        whole, put, read, checksums = DAMAGED[name]
        what, _, content = damage(random, whole)
        # Damage that a checksum names must not go unnoticed, nor a missing end.
        accepted = partial(_same_as, whole, put, read, shared) if checksums or what.startswith("cut") else anything
        yield Case(f"damaged {name}", what, partial(_read, read, accepted), partial(put, content))


def _read(read: Read, accepted: Accepted, source: str) -> Outcome:
    return judged(lambda: read(source), lambda result: accepted(result))  # type: ignore[arg-type]


def _same_as(whole: bytes, put: Put, read: Read, shared: Path, result: Readings) -> str:
    """Accept what the whole file reads as."""
    here = os.getcwd()
    os.chdir(shared)
    try:
        return only(*read(put(whole, Path())).values())(result)
    finally:
        os.chdir(here)
