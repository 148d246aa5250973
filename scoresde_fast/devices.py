# SPDX-License-Identifier: Apache-2.0
"""Devices: which one to use, what "auto" means on it, and the precision of its arithmetic."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from scoresde_fast.errors import unknown_message

Auto = Literal["auto"]
WITHOUT_CUDA = "this torch is built without CUDA"
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of weights and images inside a network."""
MIN_CAPABILITY: dict[str, tuple[int, int]] = {"tf32": (8, 0), "bf16": (8, 0)}
"""The compute capability of the first GPUs with tensor cores for a precision."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST_ALLOCATION = 32 << 20  # the most that glibc lets come from the heap


def usable_device(name: torch.device | str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: the device does not exist here.
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
    """Return why PyTorch has no CUDA device here; None if it has one."""
    if torch.cuda.is_available():
        return None
    return "no GPU or driver was found" if torch.version.cuda else WITHOUT_CUDA


def choose_compile(choice: bool | Auto, device: torch.device) -> bool:
    """Return whether to compile; "auto" compiles on GPUs, where it pays within one run.

    Raises:
        ValueError: ``choice`` is not True, False or "auto".
    """
    return _on_gpu("compile", choice, device)


def choose_capture(choice: bool | Auto, device: torch.device) -> bool:
    """Return whether to capture CUDA graphs; "auto" does wherever the device has them.

    Raises:
        ValueError: ``choice`` is not True, False or "auto", or it is True for a device without CUDA graphs.
    """
    wanted = _on_gpu("capture", choice, device)
    if wanted and device.type != "cuda":
        raise ValueError(f"capture=True needs a CUDA device, and this is {device}: choose capture='auto'")
    return wanted


def _on_gpu(name: str, choice: bool | Auto, device: torch.device) -> bool:
    if not (isinstance(choice, bool) or choice == "auto"):
        raise ValueError(f"{name} is {choice!r}; choose True, False or 'auto'")
    return device.type == "cuda" if choice == "auto" else choice


def choose_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision to compute in; "auto" is bf16 on a GPU that has it and fp32 elsewhere.

    Raises:
        ValueError: the precision is unknown, or the device lacks it.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown_message("precision", precision, get_args(Precision)))
    missing = {name: why for name in MIN_CAPABILITY if (why := _refusal(name, device))}
    if precision in missing:
        there = [name for name in get_args(Precision) if name not in missing]
        raise ValueError(f"precision {precision!r} {missing[precision]}; choose from: {', '.join(there)}")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and "bf16" not in missing else "fp32"
    return precision  # type: ignore[return-value]  # one of them, as checked


def _refusal(precision: str, device: torch.device) -> str | None:
    """Return why the device lacks a precision of tensor cores, or None; PyTorch computes bf16 on every CPU."""
    if device.type != "cuda":
        return "is a mode of GPUs, which a CPU lacks" if precision == "tf32" else None
    major, minor = torch.cuda.get_device_capability(device)
    least = MIN_CAPABILITY[precision]
    if (major, minor) >= least:
        return None
    return f"needs a GPU of compute capability {least[0]}.{least[1]}, and {device} has {major}.{minor}"


@contextmanager
def arithmetic(precision: Precision, device: torch.device, *, strict: bool = False) -> Iterator[None]:
    """Set PyTorch's GPU switches for a run, and restore them afterwards.

    The device becomes the current one, and float32 products use TF32 only for that precision.  ``strict`` selects
    cuDNN's deterministic algorithms; otherwise cuDNN measures which is fastest for each shape.
    """
    if device.type != "cuda":
        yield
        return
    tf32, matmul = precision == "tf32", torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with (
        torch.cuda.device(device),
        torch.backends.cudnn.flags(enabled=True, benchmark=not strict, deterministic=strict, allow_tf32=tf32),
    ):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


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
