# SPDX-License-Identifier: Apache-2.0
"""Precisions of a network: those of a device, and PyTorch's global switches during a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from scoresde_fast.errors import unknown

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of weights and images inside a network."""
LEAST_CAPABILITY: dict[str, tuple[int, int]] = {"tf32": (8, 0), "bf16": (8, 0)}
"""The first compute capability with tensor cores for the precision."""


def choose_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision to compute in: "auto" is bf16 on a GPU that supports it, else fp32.

    Raises:
        ValueError: the precision is unknown, or the device does not support it.
    """
    if precision not in get_args(Precision):
        raise ValueError(unknown("precision", precision, get_args(Precision)))
    missing = {name: why for name in LEAST_CAPABILITY if (why := _refusal(name, device))}
    if precision in missing:
        there = [name for name in get_args(Precision) if name not in missing]
        raise ValueError(f"precision {precision!r} {missing[precision]}; choose from: {', '.join(there)}")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and "bf16" not in missing else "fp32"
    return precision  # type: ignore[return-value]  # one of them, as checked


def _refusal(precision: str, device: torch.device) -> str | None:
    """Why the device lacks a precision that needs tensor cores, or None.  PyTorch supports bf16 on every CPU."""
    if device.type != "cuda":
        return "is a mode of GPUs, which a CPU lacks" if precision == "tf32" else None
    major, minor = torch.cuda.get_device_capability(device)
    least = LEAST_CAPABILITY[precision]
    if (major, minor) >= least:
        return None
    return f"needs a GPU of compute capability {least[0]}.{least[1]}, and {device} has {major}.{minor}"


@contextmanager
def arithmetic(precision: Precision, device: torch.device, *, strict: bool = False) -> Iterator[None]:
    """Set PyTorch's switches for a run on a GPU, and restore them: TF32 only if requested, and the current device.

    ``strict`` chooses cuDNN's deterministic algorithms; otherwise cuDNN measures the fastest for each shape.
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
