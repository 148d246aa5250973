# SPDX-License-Identifier: Apache-2.0
"""``convolution``: a convolution that keeps the size, its bias and the join with a residual, as one operation.

y = conv(x, weight) + bias + scale * residual.  A residual block that keeps the variance, (h + x) / sqrt(2), is this
with 1 / sqrt(2) folded into weight and bias beforehand and as ``scale``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import needs_derivatives
from scoresde_fast.ops.library import define

SCHEMA = "convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float scale, bool tf32=False) -> Tensor"

#: (pixels of an image, input channels, output channels, side of the kernel) for which the fused kernel takes 16-bit
#: inputs by default, besides every 1x1 convolution with a residual; cuDNN has every other shape.  The part
#: "convolutions" of benchmarks/gpu.py prints what to list.
FASTER_FUSED: frozenset[tuple[int, int, int, int]] = frozenset()


def _layout(x: Tensor) -> torch.memory_format:
    """What is both, one channel or one pixel, counts as channels_last."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float, _tf32: bool = False
) -> Tensor:
    y = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), padding=weight.shape[2] // 2)
    if residual is not None:
        y = torch.add(y, residual, alpha=scale)
    return y.contiguous(memory_format=_layout(x))


def _fake(x: Tensor, weight: Tensor, *_arguments: Any) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


operation = define(SCHEMA, _reference, _fake, order=("triton",))


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """conv(x, weight) + bias + scale * residual, with stride 1 and zeros around the image.

    Gradients and forward-mode tangents are carried, by the plain PyTorch form.

    Args:
        x: (B, C, H, W), contiguous or channels_last; float32, bfloat16 or float16 (float64: the reference only).
        weight: (K, C, 3, 3) or (K, C, 1, 1), contiguous or channels_last, in the dtype of ``x``.
        bias: (K,), of any floating dtype.
        residual: (B, K, H, W), in the dtype and memory format of ``x``.
        scale: of the residual.
        implementation: what ``operation.choose`` returned; None takes the faster form for the shape. Triton's wants
            every image and the weight in channels_last; its float32 products are exact to rounding unless
            ``torch.backends.cuda.matmul.allow_tf32``.

    Returns:
        (B, K, H, W), in the dtype and memory format of ``x``.

    Raises:
        TypeError, ValueError: a dtype, shape, stride or device is not as above.
    """
    _require(x, weight, bias, residual)
    chosen = implementation is not None or _by_default(x, weight, residual)
    if not chosen or needs_derivatives(x, weight, bias, residual):
        return _reference(x, weight, bias, residual, scale)
    fused = implementation or torch.ops.scoresde_fast.convolution.default
    tf32 = x.dtype == torch.float32 and x.is_cuda and torch.backends.cuda.matmul.allow_tf32
    return fused(x, weight, bias, residual, scale, tf32)


def _by_default(x: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    # Memory bounds a 1x1 convolution, and a join of its own would read its result and write the sum once more.
    joins_by_pixel = weight.shape[2] == 1 and residual is not None
    shape = (x.shape[2] * x.shape[3], x.shape[1], weight.shape[0], weight.shape[2])
    last = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    return last and x.dtype.itemsize == 2 and (joins_by_pixel or shape in FASTER_FUSED)


def _require(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    checks.require_dtype("x", x, (*checks.NETWORK_DTYPES, torch.float64))
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (B, C, H, W)")
    checks.require_dtype("weight", weight, [x.dtype])
    channels, sides = x.shape[1], tuple(weight.shape[2:])
    if weight.ndim != 4 or weight.shape[1] != channels or sides not in ((1, 1), (3, 3)):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; for x of shape {tuple(x.shape)} it must be "
            f"(K, {channels}, 3, 3) or (K, {channels}, 1, 1)"
        )
    checks.require_device("weight", weight, "x", x)
    for name, tensor in (("x", x), ("weight", weight)):
        if not (tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)):
            raise ValueError(
                f"{name} has strides {tuple(tensor.stride())} for shape {tuple(tensor.shape)}; it must be contiguous "
                "or channels_last: call .contiguous()"
            )
    outputs = weight.shape[0]
    if bias is not None:
        checks.require_dtype("bias", bias, (*checks.NETWORK_DTYPES, torch.float64))
        if bias.shape != (outputs,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}; one number for each output is ({outputs},)")
        checks.require_device("bias", bias, "x", x)
        checks.require_contiguous("bias", bias)
    if residual is not None:
        _require_residual(residual, x, (x.shape[0], outputs, *x.shape[2:]))


def _require_residual(residual: Tensor, x: Tensor, shape: tuple[int, ...]) -> None:
    checks.require_dtype("residual", residual, [x.dtype])
    if residual.shape != shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it must have the result's, {shape}")
    checks.require_device("residual", residual, "x", x)
    layout = _layout(x)
    if not residual.is_contiguous(memory_format=layout):
        name = str(layout).removeprefix("torch.")
        raise ValueError(
            f"residual has strides {tuple(residual.stride())} for shape {shape}; it must be {name} as x is: call "
            f".contiguous(memory_format={layout})"
        )
