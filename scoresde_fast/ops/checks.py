# SPDX-License-Identifier: Apache-2.0
"""Argument checks shared by the operations; they run before any launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.errors import shown, unknown_message

NETWORK_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT_DTYPES = (*NETWORK_DTYPES, torch.float64)


def require_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """Raise TypeError unless the dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}; it must be {names}: convert it first")


def require_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors are on the same device."""
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device}, {other_name} on {other.device}: move one of them")


def require_contiguous(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    """Raise unless the tensor is contiguous (NCHW) and has one of ``dtypes``."""
    require_dtype(name, tensor, dtypes)
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name} has strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}; it must be contiguous "
            "(NCHW): call .contiguous()"
        )


def require_like(name: str, tensor: Tensor, dtypes: Sequence[torch.dtype], other_name: str, other: Tensor) -> None:
    """Raise unless the tensor is contiguous, has one of ``dtypes``, and the shape and device of ``other``."""
    require_contiguous(name, tensor, dtypes)
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {tuple(other.shape)} as for {other_name}")
    require_device(name, tensor, other_name, other)


def require_format(name: str, image: Tensor, *formats: torch.memory_format) -> None:
    """Raise ValueError unless the image has one of the memory formats."""
    if not any(image.is_contiguous(memory_format=memory_format) for memory_format in formats):
        names = " or ".join("contiguous" if f is torch.contiguous_format else "channels_last" for f in formats)
        raise ValueError(
            f"{name} has strides {tuple(image.stride())} for shape {tuple(image.shape)}; it must be {names}: call "
            f".contiguous(memory_format={formats[0]})"
        )


def require_image(name: str, image: Tensor, dtypes: Sequence[torch.dtype] = FLOAT_DTYPES) -> None:
    """Raise unless the image is (B, C, H, W), contiguous or channels_last, and has one of ``dtypes``."""
    require_dtype(name, image, dtypes)
    if image.ndim != 4:
        raise ValueError(f"{name} has shape {tuple(image.shape)}; it must be (B, C, H, W)")
    require_format(name, image, torch.contiguous_format, torch.channels_last)


def require_residual(residual: Tensor, x: Tensor, shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """Raise unless the residual has the result's ``shape`` and ``memory_format`` and the dtype and device of x."""
    require_dtype("residual", residual, [x.dtype])
    if residual.shape != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it must be {shape} as for the result")
    require_device("residual", residual, "x", x)
    require_format("residual", residual, memory_format)


def require_parameter(
    name: str,
    tensor: Tensor,
    dtypes: Sequence[torch.dtype],
    shapes: Sequence[tuple[int, ...]],
    other_name: str,
    other: Tensor,
) -> None:
    """Raise unless the parameter is contiguous, has one of ``dtypes`` and ``shapes``, and the device of ``other``."""
    require_contiguous(name, tensor, dtypes)
    if not any(tensor.shape == shape for shape in shapes):
        allowed = " or ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; for {other_name} of shape {tuple(other.shape)} it must be "
            f"{allowed}"
        )
    require_device(name, tensor, other_name, other)


def require_groups(groups: int, x: Tensor) -> None:
    """Raise ValueError unless ``groups`` divides the channels of x."""
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups is {groups}; it must be a positive divisor of the {x.shape[1]} channels of x")


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the closest choice, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(unknown_message(name, value, choices))


def require_unsigned(name: str, value: int, bits: int) -> None:
    """Raise ValueError unless ``value`` is an unsigned integer of ``bits`` bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**bits:
        raise ValueError(f"{name} {shown(value)} is out of range: choose an integer from 0 to 2^{bits} - 1")


def require_sample_ids(sample_ids: Tensor, batch_name: str, batch: Tensor) -> None:
    """Raise unless ``sample_ids`` has one int64 id for each sample of ``batch``, on its device."""
    require_contiguous("sample_ids", sample_ids, [torch.int64])
    if sample_ids.shape != (len(batch),):
        raise ValueError(f"sample_ids has shape {tuple(sample_ids.shape)}; it must be ({len(batch)},), one per sample")
    require_device("sample_ids", sample_ids, batch_name, batch)


def require_step(
    coefficients: Tensor, width: int, row: int, counter: Tensor | None, run_seed: int, other_name: str, other: Tensor
) -> None:
    """Raise ValueError unless row and run seed are valid and the table is (rows, width), on the device of ``other``."""
    require_device("the step table", coefficients, other_name, other)
    shape = tuple(coefficients.shape)
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"coefficients have shape {shape}; for this step they must be (rows, {width})")
    require_unsigned("run seed", run_seed, 64)
    require_row(shape[0], counter, row)


def require_row(rows: int, counter: Tensor | None, offset: int) -> None:
    """Raise ValueError unless the row is in the table.

    A counter on a GPU is not read, because that would synchronise; the kernels clamp the row.
    """
    row = offset
    if counter is not None and counter.device.type == "cpu" and not torch.compiler.is_compiling():
        row += int(counter[0])
    if not 0 <= row < rows:
        raise ValueError(f"row {row} is outside the step table, which has rows 0 to {rows - 1}")


def signed64(value: int) -> int:
    """Return the signed integer with the same 64 bits; operator schemas have no unsigned integers."""
    return value - 2**64 if value >= 2**63 else value
