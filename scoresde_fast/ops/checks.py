# SPDX-License-Identifier: Apache-2.0
"""Refusals shared by the operations: one sentence with the value and what is allowed, before any launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.errors import unknown

NETWORK_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raises TypeError unless the dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}; it must be {names}: convert it first")


def require_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both have the same shape and device."""
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must have {other_name}'s, {tuple(other.shape)}")
    require_device(name, tensor, other_name, other)


def require_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both are on the same device."""
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device}, {other_name} on {other.device}: move one of them")


def require_contiguous(name: str, tensor: Tensor) -> None:
    """Raises ValueError unless the memory is contiguous NCHW."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} has strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}; it must be contiguous "
            "(NCHW): call .contiguous()"
        )


def require_unsigned(name: str, value: int, bits: int) -> None:
    """Raises ValueError unless ``value`` is an unsigned integer of that many bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**bits:
        raise ValueError(f"{name} {value!r} is out of range: choose an integer from 0 to 2^{bits} - 1")


def require_sample_ids(sample_ids: Tensor, batch: int) -> None:
    """Raises unless there is one int64 id for each sample."""
    require_dtype("sample_ids", sample_ids, [torch.int64])
    if sample_ids.shape != (batch,):
        raise ValueError(f"sample_ids have shape {tuple(sample_ids.shape)}; one id a sample is ({batch},)")
    require_contiguous("sample_ids", sample_ids)


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError, with the nearest, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(unknown(name, value, choices))


def require_row(rows: int, counter: Tensor | None, offset: int) -> None:
    """Raises ValueError unless the row is inside a table; a counter on a GPU is not read: the kernels clamp it."""
    on_host = counter is not None and counter.device.type == "cpu" and not torch.compiler.is_compiling()
    row = offset + (int(counter[0]) if counter is not None and on_host else 0)
    if not 0 <= row < rows:
        raise ValueError(f"row {row} is outside the step table, which has rows 0 to {rows - 1}")


def signed64(value: int) -> int:
    """The two's complement of an unsigned 64-bit integer: operator schemas carry signed ones."""
    return value - 2**64 if value >= 2**63 else value
