# SPDX-License-Identifier: Apache-2.0
"""The process of a command: device, CPU threads, and SIGTERM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""


def process_device(device: str) -> str:
    """Return ``device``; "cuda" under torchrun becomes the GPU of this process's local rank."""
    local_rank = os.environ.get("LOCAL_RANK")
    return device if device != "cuda" or local_rank is None else f"cuda:{local_rank}"


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps torch's default.

    Raises:
        ValueError: ``threads`` is less than 1.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads is {threads}; it must be at least 1")
    torch.set_num_threads(threads)


@contextmanager
def stopping_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Let the current batch finish after SIGTERM, which job schedulers send to stop a job.

    Yield a function that returns whether SIGTERM was received.

    Raises:
        SystemExit: with `TERMINATED`, at the end of the block, if SIGTERM was received.
    """
    terminated = False

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal terminated
        terminated = True

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield lambda: terminated
    finally:
        signal.signal(signal.SIGTERM, previous)
    if terminated:
        raise SystemExit(TERMINATED)
