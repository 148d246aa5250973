# SPDX-License-Identifier: Apache-2.0
"""What a device can do, and what a choice of "auto" means on it."""

from __future__ import annotations

import ctypes
import sys
from typing import Literal

import torch

Auto = Literal["auto"]
WITHOUT_CUDA = "this torch is built without CUDA"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_ALLOCATION = 32 << 20  # the most that glibc lets come from the heap


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        why = f" ({why_no_cuda()})" if str(name).startswith("cuda") and why_no_cuda() else ""
        raise ValueError(f"device {str(name)!r} is not usable here{why}; choose from: {', '.join(there)}") from error
    return device


def why_no_cuda() -> str | None:
    """Why PyTorch has no CUDA device here; None where it has one."""
    if torch.cuda.is_available():
        return None
    return "no GPU or driver was found" if torch.version.cuda else WITHOUT_CUDA


def choose_compile(choice: bool | Auto, device: torch.device) -> bool:
    """Whether to compile: "auto" is for GPUs, where it pays within one run.

    Raises:
        ValueError: the choice is none.
    """
    return _on_gpu("compile", choice, device)


def choose_capture(choice: bool | Auto, device: torch.device) -> bool:
    """Whether to capture CUDA graphs: "auto" is wherever there are any.

    Raises:
        ValueError: the choice is none, or the device has no such graphs.
    """
    wanted = _on_gpu("capture", choice, device)
    if wanted and device.type != "cuda":
        raise ValueError(f"capture=True needs a CUDA device, and this is {device}: leave it at 'auto'")
    return wanted


def _on_gpu(name: str, choice: bool | Auto, device: torch.device) -> bool:
    if not (isinstance(choice, bool) or choice == "auto"):
        raise ValueError(f"{name} is {choice!r}; choose True, False or 'auto'")
    return device.type == "cuda" if choice == "auto" else choice


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free, for the next ones; other C libraries are left as they are.

    By default glibc returns pages to the system and takes them again, zeroed: every operation on a CPU tensor of a
    megabyte then pays for page faults, 8 % of a sampling run.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_ALLOCATION)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
