# SPDX-License-Identifier: Apache-2.0
"""``winograd_convolution``: a 3x3 convolution, its bias and the residual join, by Winograd's minimal filtering.

F(4x4, 3x3) of Lavin & Gray (2016): every 4x4 tile of the output is made from a 6x6 patch d of the input,

    y = A^T ((G g G^T) * (B^T d B)) A,

which takes 36 products a pair of channels instead of 144; `scoresde_fast.ops.winograd_weights` has the matrices.  For
processors without matrix units, where nothing else is faster.  The gradient is the transposed convolution,
``winograd_convolution_transposed``: the same operation with the weight of `transposed_weight`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import below_autograd, goes_through_dispatcher, needs_derivatives
from scoresde_fast.ops.library import define, library
from scoresde_fast.ops.linear_derivatives import with_derivatives
from scoresde_fast.ops.winograd_weights import A_T, B_T, PANEL, PATCH, TILE, fits, transposed_weight, winograd_weight

__all__ = ["fits", "operation", "unchecked", "winograd_convolution", "winograd_weight"]

SCHEMA = "winograd_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float scale) -> Tensor"
TRANSPOSED = "winograd_convolution_transposed(Tensor y, Tensor weight) -> Tensor"


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    y = _fake(x, weight, bias, residual, scale)
    batch, channels, height, width = y.shape
    down, across = -(-height // TILE), -(-width // TILE)
    wide = x.to(weight.dtype)
    padded = F.pad(wide, (1, TILE * across + 1 - width, 1, TILE * down + 1 - height))
    patches = padded.unfold(2, PATCH, TILE).unfold(3, PATCH, TILE)  # (B, C, down, across, 6, 6)
    a_t, b_t = A_T.to(wide), B_T.to(wide)
    points = (b_t @ patches @ b_t.mT).permute(4, 5, 0, 2, 3, 1).reshape(PATCH**2, -1, x.shape[1])
    products = points @ weight.transpose(2, 1).flatten(2)
    tiles = a_t @ products.view(PATCH, PATCH, -1).permute(2, 0, 1) @ a_t.mT
    images = tiles.view(batch, down, across, channels, TILE, TILE).permute(0, 3, 1, 4, 2, 5)
    result = images.reshape(batch, channels, TILE * down, TILE * across)[:, :, :height, :width]
    if bias is not None:
        result = result + bias[:, None, None]
    if residual is not None:
        result = result + scale * residual
    return y.copy_(result)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    shape = (x.shape[0], weight.shape[1] * PANEL, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


operation = define(SCHEMA, _reference, _fake, order=("cpu",))


def _transposed(y: Tensor, weight: Tensor) -> Tensor:
    channels = weight.shape[2]
    x = operation.default(y.device).function(y, transposed_weight(weight), None, None, 1.0)
    return x[:, :channels].contiguous(memory_format=torch.channels_last)


def _transposed_fake(y: Tensor, weight: Tensor) -> Tensor:
    shape = (y.shape[0], weight.shape[2], *y.shape[2:])
    return torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=torch.channels_last)


def _recorded(
    implementation: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: float,
) -> Tensor:
    def convolve(x: Tensor, residual: Tensor | None, biased: bool) -> Tensor:
        return implementation(x, weight, bias if biased else None, residual, scale)

    def transpose(y: Tensor) -> Tensor:
        image: Tensor = torch.ops.scoresde_fast.winograd_convolution_transposed.default(y, weight)
        return image

    return with_derivatives(convolve, transpose, x, residual, scale)


def _differentiable(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    implementation = torch.ops.scoresde_fast.winograd_convolution.default
    if needs_derivatives(x, residual):
        return _recorded(below_autograd(implementation), x, weight, bias, residual, scale)
    with torch._C._AutoDispatchBelowAutograd():
        return implementation(x, weight, bias, residual, scale)


library.define(TRANSPOSED)
library.impl("winograd_convolution_transposed", _transposed, "CPU")
torch.library.register_fake("scoresde_fast::winograd_convolution_transposed", _transposed_fake)
library.impl("winograd_convolution", _differentiable, "Autograd")


def winograd_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """conv2d(x, padding=1) + bias + scale * residual.

    Tangents and gradients of x and residual are carried; weight and bias are constants.

    A pixel's value does not depend on the batch that it is in, to the last bit.

    Args:
        x: (B, C, H, W) float32, bfloat16 or float16, channels_last; sums are float32.
        weight: (36, K / 16, C, 16) float32, made by `winograd_weight`; of float64 the reference runs.
        bias: (K,) float32.
        residual: (B, K, H, W), in the dtype and memory format of ``x``.
        scale: the factor of ``residual``.
        implementation: what ``operation.choose`` returned; None chooses now.

    Returns:
        (B, K, H, W) in the dtype of ``x``, channels_last.

    Raises:
        TypeError, ValueError: a dtype, shape, stride or device is not as above, or weight or bias wants a gradient.
    """
    _require(x, weight, bias, residual)
    if weight.dtype == torch.float64:
        return _reference(x, weight, bias, residual, scale)
    _require_constant("weight", weight)
    _require_constant("bias", bias)
    if implementation is None:
        traced = torch.compiler.is_compiling()
        chosen = torch.ops.scoresde_fast.winograd_convolution.default
        implementation = chosen if traced else operation.default(x.device).function
    return unchecked(implementation, x, weight, bias, residual, scale)


def unchecked(
    implementation: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: float,
) -> Tensor:
    """`winograd_convolution` without its checks, in which a small image would spend a tenth of its time."""
    if not needs_derivatives(x, residual):
        return implementation(x, weight, bias, residual, scale)
    if goes_through_dispatcher():
        implementation = torch.ops.scoresde_fast.winograd_convolution.default
        return implementation(x, weight, bias, residual, scale)
    return _recorded(implementation, x, weight, bias, residual, scale)


def _require(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    checks.require_dtype("x", x, (*checks.NETWORK_DTYPES, weight.dtype))
    checks.require_dtype("weight", weight, [torch.float32, torch.float64])
    if weight.ndim != 4 or weight.shape[0] != PATCH**2 or weight.shape[3] != PANEL:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; make it with winograd_weight: (36, K / 16, C, 16)")
    if x.ndim != 4 or x.shape[1] != weight.shape[2]:
        raise ValueError(f"x has shape {tuple(x.shape)}; for this weight it is (B, {weight.shape[2]}, H, W)")
    _require_channels_last("x", x)
    checks.require_device("weight", weight, "x", x)
    checks.require_contiguous("weight", weight)
    channels = weight.shape[1] * PANEL
    if bias is not None:
        checks.require_dtype("bias", bias, [weight.dtype])
        if bias.shape != (channels,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}; for this weight it is ({channels},)")
        checks.require_device("bias", bias, "x", x)
        checks.require_contiguous("bias", bias)
    if residual is not None:
        shape = (x.shape[0], channels, *x.shape[2:])
        checks.require_dtype("residual", residual, [x.dtype])
        if residual.shape != shape:
            raise ValueError(f"residual has shape {tuple(residual.shape)}; for this x and weight it is {shape}")
        checks.require_device("residual", residual, "x", x)
        _require_channels_last("residual", residual)


def _require_constant(name: str, tensor: Tensor | None) -> None:
    if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
        raise ValueError(
            f"{name} requires a gradient, which winograd_convolution has for x and residual alone: detach it, or train "
            "with torch.nn.functional.conv2d"
        )


def _require_channels_last(name: str, image: Tensor) -> None:
    if not image.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"{name} has strides {tuple(image.stride())} for shape {tuple(image.shape)}; it must be channels_last: "
            "call .contiguous(memory_format=torch.channels_last)"
        )
