# SPDX-License-Identifier: Apache-2.0
"""How this program's own process keeps its memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_ALLOCATION = 32 << 20  # the most that glibc lets come from the heap


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free, for the next ones.

    By default it gives pages back to the system and takes them again, zeroed: every operation on a CPU tensor of a
    megabyte then pays for page faults, 8 % of a sampling run.  Does nothing where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ALLOCATION)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
