# SPDX-License-Identifier: Apache-2.0
"""How many CPU threads a command computes with."""

from __future__ import annotations


def use_threads(threads: int | None) -> None:
    """So many from here on; None: as many as torch likes.

    Raises:
        ValueError: there are less than one.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads {threads} cannot compute; it is at least 1")
    torch.set_num_threads(threads)
