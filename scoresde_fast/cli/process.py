# SPDX-License-Identifier: Apache-2.0
"""The process of a command: device, CPU threads, SIGTERM, and the start and end of a measurement."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from scoresde_fast.errors import shown

if TYPE_CHECKING:
    from scoresde_fast.bench.results import BenchResult, Comparison
    from scoresde_fast.evaluation import Evaluation

MOST_THREADS = 4096
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""


def process_device(device: str | None) -> str:
    """Return the device of this process.

    None is a GPU if there is one, else the CPU.  "cuda" under torchrun becomes the GPU of the process's local rank.

    Raises:
        ValueError: the device does not exist.
    """
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    local_rank = os.environ.get("LOCAL_RANK")
    if device == "cuda" and local_rank is not None:
        device = f"cuda:{local_rank}"
    from scoresde_fast.devices import computing_device

    return str(computing_device(device))


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps torch's default.

    Raises:
        ValueError: ``threads`` is less than 1 or greater than `MOST_THREADS`.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads is {threads}; it must be at least 1")
    if threads > MOST_THREADS:
        raise ValueError(f"--threads is {shown(threads)}; it must be at most {MOST_THREADS}")
    torch.set_num_threads(threads)


def prepare_measurement(html: Path | None, threads: int | None) -> None:
    """Set the process's allocator and threads; fail before the work if libraries that --html needs are missing."""
    from scoresde_fast.bench.pages import require_libraries
    from scoresde_fast.devices import keep_freed_memory

    keep_freed_memory()  # for baselines and our variants alike
    if html is not None:
        require_libraries()
    use_threads(threads)


def report(result: BenchResult | Comparison | Evaluation, out: Path | None, html: Path | None) -> None:
    """Write the page of a measurement, and print the names of its files; ``out`` is already written."""
    from scoresde_fast.bench.pages import write_html

    if out is not None:
        print(out)
    if html is not None:
        write_html(result, html)
        print(html)


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
