# SPDX-License-Identifier: Apache-2.0
"""Readers for sets of image files: a folder with its subfolders, and a .zip."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

from scoresde_fast.data.conversion import Conversion
from scoresde_fast.data.dataset_json import LABELS, find_labels
from scoresde_fast.data.file_names import PassedOver, is_image
from scoresde_fast.data.images import Images, Item, corrupt_file_errors, decode_item
from scoresde_fast.data.limits import read_limited, require_ratio, require_size
from scoresde_fast.data.sample_sets import MANIFEST, SET_FILES, require_complete, require_own, set_seeds

_SEED = re.compile(r"(?:^|/)(\d{6,})\.\w+$", re.ASCII)


def open_folder(folder: Path, conversion: Conversion) -> Images:
    """Open the images in a folder and its subfolders, in the order of `_ordered_with_labels`.

    Raises:
        ValueError: there are no images, or ``dataset.json`` has no valid labels; or the folder is a set of samples that
            is incomplete or has images of others.
    """
    names = list(_walk(folder, "", ()))
    seeds = set_seeds(folder / MANIFEST)
    if seeds is not None:
        names = [name for name in names if name not in SET_FILES]
    files, passed_over = _listed(
        names, str(folder), lambda name: read_limited(folder / name, name), classes=seeds is None
    )
    if seeds is not None:
        require_own(str(folder), [name for name, _ in files], seeds)
        require_complete(str(folder), len(files), seeds)

    def item(index: int) -> Item:
        name, label = files[index]
        try:
            encoded = read_limited(folder / name, name)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        return decode_item(str(folder), name, encoded, label, conversion)

    return Images(
        str(folder),
        len(files),
        lambda: (item(index) for index in range(len(files))),
        conversion,
        item=item,
        passed_over=passed_over,
    )


def open_zip(path: Path, conversion: Conversion) -> Images:
    """Open the images of a .zip, in the order of `_ordered_with_labels`; raise ValueError as `open_folder`."""
    with corrupt_file_errors(str(path)), ZipFile(path) as archive:
        names = [name for name in dict.fromkeys(archive.namelist()) if not name.endswith("/")]
        files, passed_over = _listed(names, str(path), lambda name: _read_member(archive, name, path))

    def items() -> Generator[Item, None, None]:
        with ZipFile(path) as archive:
            for name, label in files:
                yield decode_item(str(path), name, _read_member(archive, name, path), label, conversion)

    return Images(str(path), len(files), items, conversion, passed_over=passed_over)


def _read_member(archive: ZipFile, name: str, path: Path) -> bytes:
    member = archive.getinfo(name)
    require_size(f"{name} of {path}", member.file_size)  # zipfile reads no more than this size
    require_ratio(f"{name} of {path}", member)
    return archive.read(name)


def _listed(
    names: Sequence[str], source: str, read: Callable[[str], bytes], *, classes: bool = True
) -> tuple[list[tuple[str, int | None]], PassedOver]:
    """Return (name, label) of the images among all files ``names`` in reading order, and the files passed over."""
    images = [name for name in names if is_image(name)]
    labels = find_labels(names, source, read)
    others = (name for name in names if not is_image(name))
    if labels is None:
        return _ordered_with_labels(images, classes=classes), PassedOver(others)
    ordered = _ordered_with_labels(images, classes=False)
    others = (name for name in others if posixpath.basename(name) != LABELS)
    return [(name, labels.get(name)) for name, _ in ordered], PassedOver(others)


def _walk(root: Path, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the paths of all files below ``root / prefix``, relative to ``root``, with slashes.

    ``parents`` are the device and the number of each folder above it. A link to one of them is not followed.
    """
    status = os.stat(root / prefix)
    folder = status.st_dev, status.st_ino
    if folder in parents:
        return
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                yield from _walk(root, f"{name}/", (*parents, folder))
            else:
                yield name


def _ordered_with_labels(names: Sequence[str], *, classes: bool = True) -> list[tuple[str, int | None]]:
    """Return (name, label) of the images in reading order; the label is None if the folders are not classes.

    Names that are seeds (``000012.png``, ``012/012345.png``) are sorted by seed, others as strings.  If every image is
    in one of several sibling folders, the folders are classes, numbered in the order of their names.  The folders
    that ``scoresde-fast sample`` writes, of a thousand seeds each, are no classes.
    """
    seeds = [int(match[1]) for match in map(_SEED.search, names) if match]
    by_seed = len(set(seeds)) == len(names)
    order = sorted(range(len(names)), key=seeds.__getitem__ if by_seed else names.__getitem__)
    parents = [posixpath.dirname(name) for name in names]
    in_seed_folders = by_seed and all(
        posixpath.basename(parent) == f"{seed // 1000:03d}" for parent, seed in zip(parents, seeds, strict=True)
    )
    folders = sorted(set(parents))
    siblings = len(folders) > 1 and "" not in folders and len(set(map(posixpath.dirname, folders))) == 1
    if not classes or in_seed_folders or not siblings:
        return [(names[index], None) for index in order]
    labels = {folder: label for label, folder in enumerate(folders)}
    return [(names[index], labels[parents[index]]) for index in order]
