# SPDX-License-Identifier: Apache-2.0
"""Sets of image files: a folder, with its subfolders, or a .zip."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

from scoresde_fast.data.encoded import SUFFIXES, decode_image
from scoresde_fast.data.items import Images, Item, reading

MANIFEST, GRID = "samples.json", "grid.png"
"""With the first in a folder, the second is the picture of a set of samples and none of its images."""
_SEED = re.compile(r"(?:^|/)(\d{6,})\.\w+$", re.ASCII)


def open_folder(folder: Path, size: int | None) -> Images:
    """The images in a folder and its subfolders, in the order of their names; see `labelled`."""
    names = [name for name in _walk(folder, "") if _is_image(name)]
    is_set = (folder / MANIFEST).exists()
    if is_set:
        names = [name for name in names if name != GRID]
    labels = labelled(names, classes=not is_set)

    def item(number: int) -> Item:
        name, label = labels[number]
        return decoded(str(folder), name, (folder / name).read_bytes(), label)

    def items() -> Generator[Item, None, None]:
        yield from map(item, range(len(labels)))

    return Images(str(folder), len(labels), items, size, item=item)


def open_zip(path: Path, size: int | None) -> Images:
    """The images of a .zip, in the order of their names; see `labelled`."""
    with reading(str(path)), ZipFile(path) as archive:
        labels = labelled([name for name in archive.namelist() if _is_image(name)])

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive:
            for name, label in labels:
                yield decoded(str(path), name, archive.read(name), label)

    return Images(str(path), len(labels), items, size)


def decoded(source: str, name: str, encoded: bytes, label: int | None) -> Item:
    """The image of a file; one that is damaged or of another kind is a ValueError that names it."""
    try:
        return Item(name, decode_image(encoded), label)
    except ValueError as error:
        raise ValueError(f"{name} of {source} {error}") from error


def labelled(names: Sequence[str], *, classes: bool = True) -> list[tuple[str, int | None]]:
    """The names of images in order, each with its label.

    Names that are seeds (``000012.png``, ``012/012345.png``) are in the order of the seeds, all others in that of their
    characters.  Where every image lies in one of several folders side by side, these are classes: a label is the number
    of its folder in the order of their names.  The folders of a thousand seeds each are no classes.
    """
    seeds = [int(match[1]) for match in map(_SEED.search, names) if match]
    by_seed = len(set(seeds)) == len(names)
    order = sorted(range(len(names)), key=seeds.__getitem__ if by_seed else names.__getitem__)
    parents = [posixpath.dirname(name) for name in names]
    in_thousands = by_seed and all(
        posixpath.basename(parent) == f"{seed // 1000:03d}" for parent, seed in zip(parents, seeds, strict=True)
    )
    folders = sorted(set(parents))
    side_by_side = len(folders) > 1 and "" not in folders and len(set(map(posixpath.dirname, folders))) == 1
    if not classes or in_thousands or not side_by_side:
        return [(names[index], None) for index in order]
    numbers = {folder: number for number, folder in enumerate(folders)}
    return [(names[index], numbers[parents[index]]) for index in order]


def _walk(root: Path, inside: str) -> Iterator[str]:
    """The files below ``root``, by their names from there with slashes."""
    with os.scandir(root / inside) as entries:
        for entry in entries:
            name = f"{inside}{entry.name}"
            if entry.is_dir():
                yield from _walk(root, f"{name}/")
            else:
                yield name


def _is_image(name: str) -> bool:
    """Named as an image, and not one of the hidden copies that some systems leave in folders and archives."""
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
