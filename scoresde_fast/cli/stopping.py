# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, by which schedulers end a job: the batch at work is finished, and the program says that it was stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 128 + signal.SIGTERM
"""The exit code of a program that SIGTERM ended."""


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM came in the block; after which the block's end is the program's.

    Raises:
        SystemExit: with `STOPPED`, at the end of a block in which it came.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        raise SystemExit(STOPPED)
