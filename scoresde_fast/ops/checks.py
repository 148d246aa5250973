# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that the operations share: one sentence with the value and what is allowed, before any launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.errors import unknown_message
from scoresde_fast.ops.step_table import DeviceTable

NETWORK_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT_DTYPES = (*NETWORK_DTYPES, torch.float64)


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raise TypeError unless the dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}; it must be {names}: convert it first")


def require_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both are on the same device."""
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device}, {other_name} on {other.device}: move one of them")


def require_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both have the same shape and device."""
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must have {other_name}'s, {tuple(other.shape)}")
    require_device(name, tensor, other_name, other)


def require_contiguous(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the memory is contiguous NCHW."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} has strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}; it must be contiguous "
            "(NCHW): call .contiguous()"
        )


def require_format(name: str, image: Tensor, *formats: torch.memory_format) -> None:
    """Raise ValueError unless the memory format is one of ``formats``."""
    if not any(image.is_contiguous(memory_format=memory_format) for memory_format in formats):
        names = " or ".join("contiguous" if f is torch.contiguous_format else "channels_last" for f in formats)
        raise ValueError(
            f"{name} has strides {tuple(image.stride())} for shape {tuple(image.shape)}; it must be {names}: call "
            f".contiguous(memory_format={formats[0]})"
        )


def require_image(name: str, image: Tensor, dtypes: Sequence[torch.dtype] = FLOAT_DTYPES) -> None:
    """Raise unless it is (B, C, H, W) of one of ``dtypes``, contiguous or channels_last."""
    require_dtype(name, image, dtypes)
    if image.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(image.shape)}; it must be (B, C, H, W)")
    require_format(name, image, torch.contiguous_format, torch.channels_last)


def require_residual(residual: Tensor, x: Tensor, shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """Raise unless a residual has the result's ``shape`` and x's dtype, device and ``memory_format``."""
    require_dtype("residual", residual, [x.dtype])
    if residual.shape != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it must have the result's, {shape}")
    require_device("residual", residual, "x", x)
    require_format("residual", residual, memory_format)


def require_parameter(
    name: str, tensor: Tensor, dtypes: Sequence[torch.dtype], shapes: Sequence[tuple[int, ...]], of: str, other: Tensor
) -> None:
    """Raise unless a contiguous parameter has one of the ``dtypes`` and ``shapes`` that ``other`` requires."""
    require_dtype(name, tensor, dtypes)
    if not any(tensor.shape == shape for shape in shapes):
        allowed = " or ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; for {of} of shape {tuple(other.shape)} it must be {allowed}"
        )
    require_device(name, tensor, of, other)
    require_contiguous(name, tensor)


def require_groups(groups: int, x: Tensor) -> None:
    """Raise ValueError unless the channels of x split into ``groups`` groups."""
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups is {groups}; it must be a positive divisor of the {x.shape[1]} channels of x")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the nearest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(unknown_message(name, value, choices))


def require_unsigned(name: str, value: int, bits: int) -> None:
    """Raise ValueError unless ``value`` is an unsigned integer of ``bits`` bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**bits:
        raise ValueError(f"{name} {value!r} is out of range: choose an integer from 0 to 2^{bits} - 1")


def require_sample_ids(sample_ids: Tensor, batch_name: str, batch: Tensor) -> None:
    """Raise unless there is one int64 id for each sample of ``batch``, on its device."""
    require_dtype("sample_ids", sample_ids, [torch.int64])
    if sample_ids.shape != (len(batch),):
        raise ValueError(f"sample_ids have shape {tuple(sample_ids.shape)}; one id a sample is ({len(batch)},)")
    require_contiguous("sample_ids", sample_ids)
    require_device("sample_ids", sample_ids, batch_name, batch)


def require_table(table: DeviceTable, width: int, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless the coefficients are (rows, width) on the device of ``other``."""
    require_device("the step table", table.coefficients, other_name, other)
    shape = tuple(table.coefficients.shape)
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"coefficients have shape {shape}; for this step they must be (rows, {width})")


def require_row(rows: int, counter: Tensor | None, offset: int) -> None:
    """Raise ValueError unless the row is in the table.  A counter on a GPU is not read: the kernels clamp it."""
    on_host = counter is not None and counter.device.type == "cpu" and not torch.compiler.is_compiling()
    row = offset + (int(counter[0]) if counter is not None and on_host else 0)
    if not 0 <= row < rows:
        raise ValueError(f"row {row} is outside the step table, which has rows 0 to {rows - 1}")


def signed64(value: int) -> int:
    """Return the two's complement of an unsigned 64-bit integer: operator schemas have signed integers only."""
    return value - 2**64 if value >= 2**63 else value
