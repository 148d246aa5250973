# SPDX-License-Identifier: Apache-2.0
"""The process of a command: its device, its CPU threads, and SIGTERM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a program that SIGTERM ended."""


def process_device(device: str) -> str:
    """Return ``device``; "cuda" under torchrun becomes the GPU of this process's local rank."""
    local_rank = os.environ.get("LOCAL_RANK")
    return device if device != "cuda" or local_rank is None else f"cuda:{local_rank}"


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps torch's default.

    Raises:
        ValueError: there are fewer than one.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads is {threads}; it must be at least 1")
    torch.set_num_threads(threads)


@contextmanager
def stopping_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Let the current batch finish after SIGTERM, by which schedulers end a job.

    Yields a function that returns whether SIGTERM has come.

    Raises:
        SystemExit: with `TERMINATED`, at the end of the block, if SIGTERM has come.
    """
    terminated = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: terminated
    finally:
        signal.signal(signal.SIGTERM, before)
    if terminated:
        raise SystemExit(TERMINATED)
