# SPDX-License-Identifier: Apache-2.0
"""Devices: selection, the meaning of "auto" options, precision of arithmetic, and memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch

from scoresde_fast.errors import shown, unknown_message

Auto = Literal["auto"]
WITHOUT_CUDA = "this torch is built without CUDA"
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

ALLOCATION_FAILED = ("can't allocate memory", "aoti_torch_empty_strided")
"""Parts of the messages of a failed allocation on the CPU: by PyTorch, and by PyTorch for the C++ kernels."""
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of weights and images inside a network."""
MIN_CAPABILITY: dict[str, tuple[int, int]] = {"tf32": (8, 0), "bf16": (8, 0)}
"""Lowest compute capability with tensor cores for a precision."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
MAX_HEAP_ALLOCATION = 32 << 20  # the highest M_MMAP_THRESHOLD that glibc accepts


def usable_device(name: torch.device | str) -> torch.device:
    """Return the device with this name.

    Raises:
        ValueError: the device does not exist.
    """
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:  # torch computes on the CPU, whatever its index
            raise RuntimeError(f"there is no {device}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = f" ({why_no_cuda()})" if str(name).startswith("cuda") and why_no_cuda() else ""
        raise ValueError(
            f"device {shown(str(name))} is not usable here{reason}; choose from: {', '.join(usable)}"
        ) from error
    return device


def computing_device(name: torch.device | str) -> torch.device:
    """Return the device with this name; also raise ValueError for torch's device "meta", which computes nothing."""
    device = usable_device(name)
    if device.type == "meta":
        raise ValueError("device 'meta' has no memory, so nothing can be computed there; choose cpu or cuda")
    return device


def why_no_cuda() -> str | None:
    """Return why PyTorch has no CUDA device, or None if it has one."""
    if torch.cuda.is_available():
        return None
    return "no GPU or driver was found" if torch.version.cuda else WITHOUT_CUDA


def choose_compile(choice: bool | Auto, device: torch.device) -> bool:
    """Return whether to compile; "auto" compiles on GPUs, where it pays off within one run.

    Raises:
        ValueError: ``choice`` is not True, False or "auto".
    """
    return _choose_on_gpu("compile", choice, device)


def choose_capture(choice: bool | Auto, device: torch.device) -> bool:
    """Return whether to capture CUDA graphs; "auto" does so on GPUs.

    Raises:
        ValueError: ``choice`` is not True, False or "auto", or it is True for a device without CUDA graphs.
    """
    capture = _choose_on_gpu("capture", choice, device)
    if capture and device.type != "cuda":
        raise ValueError(f"capture=True needs a CUDA device, but the device is {device}: choose capture='auto'")
    return capture


def _choose_on_gpu(name: str, choice: bool | Auto, device: torch.device) -> bool:
    if not (isinstance(choice, bool) or choice == "auto"):
        raise ValueError(f"{name} is {choice!r}; choose True, False or 'auto'")
    return device.type == "cuda" if choice == "auto" else choice


def choose_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision to compute in; "auto" is bf16 on a GPU that supports it, else fp32.

    Raises:
        ValueError: the precision is unknown, or the device does not support it.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown_message("precision", precision, get_args(Precision)))
    unsupported = {name: reason for name in MIN_CAPABILITY if (reason := _unsupported_reason(name, device))}
    if precision in unsupported:
        supported = [name for name in get_args(Precision) if name not in unsupported]
        raise ValueError(f"precision {precision!r} {unsupported[precision]}; choose from: {', '.join(supported)}")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and "bf16" not in unsupported else "fp32"
    return precision  # type: ignore[return-value]  # checked above


def _unsupported_reason(precision: str, device: torch.device) -> str | None:
    """Return why the device does not support "tf32" or "bf16", or None; every CPU supports bf16."""
    if device.type != "cuda":
        return "is only available on GPUs" if precision == "tf32" else None
    major, minor = torch.cuda.get_device_capability(device)
    minimum = MIN_CAPABILITY[precision]
    if (major, minor) >= minimum:
        return None
    return f"needs a GPU of compute capability {minimum[0]}.{minimum[1]}, but {device} has {major}.{minor}"


@contextmanager
def arithmetic(precision: Precision, device: torch.device, *, strict: bool = False) -> Iterator[None]:
    """Make the device current and set PyTorch's flags for a run; restore them afterwards.

    An autocast of the caller is disabled.  Float32 products use TF32 only if the precision is "tf32".  ``strict``
    selects cuDNN's deterministic algorithms; otherwise cuDNN selects the fastest one for each shape by measurement.
    """
    with torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext():
        if device.type == "cuda":
            with _gpu_arithmetic(precision, device, strict=strict):
                yield
        else:
            yield


@contextmanager
def _gpu_arithmetic(precision: Precision, device: torch.device, *, strict: bool) -> Iterator[None]:
    """Set the flags of a GPU, as `arithmetic` describes."""
    tf32, matmul = precision == "tf32", torch.backends.cuda.matmul
    previous = matmul.allow_tf32
    with (
        torch.cuda.device(device),
        torch.backends.cudnn.flags(enabled=True, benchmark=not strict, deterministic=strict, allow_tf32=tf32),
    ):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = previous


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU or the host is out of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_FAILED)
    )


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for later tensors; other C libraries are left as they are.

    By default glibc returns such memory to the system.  Every operation on a CPU tensor of a megabyte then causes page
    faults, which took 8 % of a sampling run.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAX_HEAP_ALLOCATION)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
