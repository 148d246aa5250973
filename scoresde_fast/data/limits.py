# SPDX-License-Identifier: Apache-2.0
"""Limits of what a file may take in memory, checked before the memory is taken."""

from __future__ import annotations

import stat
from pathlib import Path
from zipfile import ZipInfo

MAX_PIXELS = 89_478_485
"""Limit of the pixels of an image, above which Pillow warns of a decompression bomb."""
MAX_FILE_BYTES = 1 << 29
"""Limit of the size of an image's file, unpacked; an 8-bit RGB image of `MAX_PIXELS` without compression fits."""
MAX_RATIO = 200
"""Limit of unpacked by packed size of an array or image that is loaded as a whole. Both hardly shrink; zeros shrink a
thousandfold."""
UNCHECKED_BYTES = 1 << 26
"""Files up to this size may have any ratio."""


def require_pixels(height: int, width: int) -> None:
    """Raise ValueError if an image has more than `MAX_PIXELS` or none."""
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"the image is {height}x{width}; an image may have 1 to {MAX_PIXELS} pixels")


def require_size(name: str, size: int, limit: int = MAX_FILE_BYTES) -> None:
    """Raise ValueError if the file ``name`` takes more than ``limit`` bytes."""
    if size > limit:
        raise ValueError(f"{name} takes {_text(size)}, but at most {_text(limit)} are read")


def require_ratio(name: str, member: ZipInfo) -> None:
    """Raise ValueError if a file in a .zip or .npz is packed as no real one is, so that it may fill the memory."""
    if member.file_size > max(UNCHECKED_BYTES, MAX_RATIO * member.compress_size):
        raise ValueError(
            f"{name} takes {_text(member.file_size)} unpacked, more than {MAX_RATIO} times its "
            f"{_text(member.compress_size)} in the file; if this is right, save it without compression"
        )


def read_limited(path: Path, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file, or of one that a link points to.

    Raises:
        ValueError: the file is a pipe, a device or a folder, or takes more than ``limit`` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{name} is not a regular file; remove it, or replace it by one")
    require_size(name, status.st_size, limit)
    return path.read_bytes()


def _text(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size >= 1 << 20 else f"{size} bytes"
