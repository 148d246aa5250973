# SPDX-License-Identifier: Apache-2.0
"""``convolution``: a same-size convolution with its bias and a scaled residual, in one operation.

y = conv(x, weight) + bias + scale * residual.  For a variance-preserving residual block, (h + x) / sqrt(2), the factor
1 / sqrt(2) is folded into weight and bias and passed as ``scale``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import memory_format, needs_derivatives
from scoresde_fast.ops.registration import define

FASTER_FUSED: frozenset[tuple[int, int, int, int]] = frozenset()
"""(pixels, input channels, output channels, kernel size) for which 16-bit inputs use the fused kernel by default.

1x1 convolutions with a residual use it too; all other shapes use cuDNN.  The part "convolutions" of the GPU benchmarks
prints the shapes to list here.
"""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return conv(x, weight) + bias + scale * residual with stride 1 and zero padding, in dtype and format of ``x``.

    Calls that need gradients or tangents run the PyTorch reference.

    Args:
        x: (B, C, H, W), contiguous or channels_last; float32, bfloat16, float16 or (reference only) float64.
        weight: (K, C, 3, 3) or (K, C, 1, 1), contiguous or channels_last, in the dtype of ``x``.
        bias: (K,), any floating dtype.
        residual: (B, K, H, W), in the dtype and memory format of ``x``.
        scale: factor of the residual.
        implementation: a result of ``operation.choose``; None selects the faster form for the shape.  The Triton
            kernel requires channels_last images and weight; it computes float32 products in full precision unless
            ``torch.backends.cuda.matmul.allow_tf32`` is set.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    _require(x, weight, bias, residual)
    fuse = implementation is not None or _fused_by_default(x, weight, residual)
    if not fuse or needs_derivatives(x, weight, bias, residual):
        return _reference(x, weight, bias, residual, scale)
    fused = implementation or torch.ops.scoresde_fast.convolution.default
    tf32 = x.dtype == torch.float32 and x.is_cuda and torch.backends.cuda.matmul.allow_tf32
    return fused(x, weight, bias, residual, scale, tf32)


def _fused_by_default(x: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    # A 1x1 convolution is memory-bound; a separate addition would read its result and write the sum once more.
    pointwise_with_residual = weight.shape[2] == 1 and residual is not None
    shape = (x.shape[2] * x.shape[3], x.shape[1], weight.shape[0], weight.shape[2])
    channels_last = all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    return channels_last and x.dtype.itemsize == 2 and (pointwise_with_residual or shape in FASTER_FUSED)


def _require(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    checks.require_image("x", x)
    checks.require_dtype("weight", weight, [x.dtype])
    channels, sides = x.shape[1], tuple(weight.shape[2:])
    if weight.ndim != 4 or weight.shape[1] != channels or sides not in ((1, 1), (3, 3)):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; for x of shape {tuple(x.shape)} it must be "
            f"(K, {channels}, 3, 3) or (K, {channels}, 1, 1)"
        )
    checks.require_device("weight", weight, "x", x)
    checks.require_format("weight", weight, torch.contiguous_format, torch.channels_last)
    if bias is not None:
        checks.require_parameter("bias", bias, checks.FLOAT_DTYPES, [(len(weight),)], "weight", weight)
    if residual is not None:
        checks.require_residual(residual, x, (len(x), len(weight), *x.shape[2:]), memory_format(x))


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float, _tf32: bool = False
) -> Tensor:
    y = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), padding=weight.shape[2] // 2)
    if residual is not None:
        y = torch.add(y, residual, alpha=scale)
    return y.contiguous(memory_format=memory_format(x))


def _fake(x: Tensor, weight: Tensor, *_arguments: Any) -> Tensor:
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


operation = define(
    "convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float scale, bool tf32=False) -> Tensor",
    _reference,
    _fake,
    order=("triton",),
)
