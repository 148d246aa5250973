# SPDX-License-Identifier: Apache-2.0
"""``winograd_convolution``: a 3x3 convolution, its bias and a scaled residual, by Winograd's minimal filtering.

F(4x4, 3x3) of Lavin & Gray (2016): every 4x4 tile of the output comes from a 6x6 patch d of the input,

    y = A^T ((G g G^T) * (B^T d B)) A,

which takes 36 products for each pair of channels instead of 144.  It is for processors without matrix units, where
nothing else is faster.  The gradient is the transposed convolution, ``winograd_convolution_transposed``: the same
operation with the weight of `transposed_weight`.

The matrices are Toom and Cook's for the points 0, +-11/16, +-3/2 and infinity: their rounding errors are one to two
times those of the direct sum; the usual points 0, +-1, +-2 lose four times as much.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import (
    below_autograd,
    goes_through_dispatcher,
    needs_derivatives,
    version,
    with_derivatives,
)
from scoresde_fast.ops.registration import define, library

POINTS = (0.0, 11 / 16, -11 / 16, 3 / 2, -3 / 2)  # and infinity
TILE, PATCH, PANEL, LANES = 4, 6, 16, 8


def winograd_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return conv2d(x, padding=1) + bias + scale * residual.

    Tangents and gradients of x and residual are carried; weight and bias are constants.

    A pixel's value does not depend on its batch, to the last bit.

    Args:
        x: (B, C, H, W) float32, bfloat16 or float16, channels_last; sums are float32.
        weight: (36, K / 16, C, 16) float32, from `winograd_weight`; with float64 the reference runs.
        bias: (K,) float32.
        residual: (B, K, H, W), in the dtype and memory format of ``x``.
        scale: the factor of ``residual``.
        implementation: the result of ``operation.choose``; None chooses now.

    Returns:
        (B, K, H, W) in the dtype of ``x``, channels_last.

    Raises:
        TypeError, ValueError: a dtype, shape, stride or device is not as above, or weight or bias requires a gradient.
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
    """`winograd_convolution` without its checks, which take a tenth of the time of a small image."""
    if not needs_derivatives(x, residual):
        return implementation(x, weight, bias, residual, scale)
    if goes_through_dispatcher():
        implementation = torch.ops.scoresde_fast.winograd_convolution.default
        return implementation(x, weight, bias, residual, scale)
    return _recorded(implementation, x, weight, bias, residual, scale)


def fits(weight: Tensor) -> bool:
    """Whether the operation supports a convolution of this weight: (K, C, 3, 3), C a multiple of 8 and K of 16."""
    return weight.shape[2:] == (3, 3) and weight.shape[1] % LANES == 0 and weight.shape[0] % PANEL == 0


def winograd_weight(weight: Tensor) -> Tensor:
    """Return G g G^T of every filter: (K, C, 3, 3) -> (36, K / 16, C, 16), float32 (float64 of float64).

    Raises:
        ValueError: the shape is not one that `fits`.
    """
    if not fits(weight):
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)}; it must be (K, C, 3, 3), C a multiple of {LANES} and K of "
            f"{PANEL}: use torch's convolution for others"
        )
    channels_out, channels_in = weight.shape[:2]
    square = torch.kron(G, G).to(weight.device)
    transformed = square @ weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
    panels = transformed.view(PATCH**2, channels_out // PANEL, PANEL, channels_in).transpose(2, 3)
    return panels.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()


def winograd_filters(weight: Tensor) -> Tensor:
    """Return the filters of a `winograd_weight`, to its rounding: (36, K / 16, C, 16) -> (K, C, 3, 3)."""
    back = torch.linalg.pinv(G)
    points = weight.detach().double().transpose(2, 3).flatten(1)
    filters = (torch.kron(back, back).to(weight.device) @ points).T
    return filters.reshape(weight.shape[1] * PANEL, weight.shape[2], 3, 3).to(weight.dtype)


_transposed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def transposed_weight(weight: Tensor) -> Tensor:
    """Return the weight of the transposed convolution: (36, K / 16, C, 16) -> (36, ceil(C / 16), K, 16).

    The filters are flipped and the channels exchanged; C is padded with zeros to a multiple of 16.  The result is
    cached for the lifetime of ``weight``, and computed again after a write to it.
    """
    kept: tuple[int, Tensor] | None = _transposed.get(weight)
    if kept is None or kept[0] != version(weight):
        filters = winograd_filters(weight).flip(2, 3).transpose(0, 1)
        filled = F.pad(filters, (0, 0, 0, 0, 0, 0, 0, -len(filters) % PANEL))
        kept = _transposed[weight] = version(weight), winograd_weight(filled)
    return kept[1]


def _toom_cook() -> tuple[npt.NDArray[np.float64], ...]:
    """A^T (4, 6), G (6, 3), B^T (6, 6), exact in float64."""
    points = np.array(POINTS)
    evaluate = np.vander(points, TILE, increasing=True).T
    filters = np.vander(points, 3, increasing=True)
    patches = np.zeros((PATCH, PATCH))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        filters[index] /= np.prod(point - others)
        patches[index, :-1] = np.poly(others)[::-1]
    patches[-1] = np.poly(points)[::-1]
    at_infinity = np.eye(TILE)[:, -1:], np.eye(3)[-1:]
    return np.hstack([evaluate, at_infinity[0]]), np.vstack([filters, at_infinity[1]]), patches


A_T, G, B_T = (torch.from_numpy(matrix) for matrix in _toom_cook())


def _require(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    checks.require_dtype("x", x, (*checks.NETWORK_DTYPES, weight.dtype))
    checks.require_dtype("weight", weight, [torch.float32, torch.float64])
    if weight.ndim != 4 or weight.shape[0] != PATCH**2 or weight.shape[3] != PANEL:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; make it with winograd_weight: (36, K / 16, C, 16)")
    if x.ndim != 4 or x.shape[1] != weight.shape[2]:
        raise ValueError(f"x has shape {tuple(x.shape)}; for this weight it must be (B, {weight.shape[2]}, H, W)")
    checks.require_format("x", x, torch.channels_last)
    checks.require_device("weight", weight, "x", x)
    checks.require_contiguous("weight", weight)
    channels = weight.shape[1] * PANEL
    if bias is not None:
        checks.require_parameter("bias", bias, [weight.dtype], [(channels,)], "weight", weight)
    if residual is not None:
        checks.require_residual(residual, x, (x.shape[0], channels, *x.shape[2:]), torch.channels_last)


def _require_constant(name: str, tensor: Tensor | None) -> None:
    if torch.is_grad_enabled() and tensor is not None and tensor.requires_grad:
        raise ValueError(
            f"{name} requires a gradient; winograd_convolution has gradients of x and residual only: detach it, or "
            "train with torch.nn.functional.conv2d"
        )


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


def _transposed_convolution(y: Tensor, weight: Tensor) -> Tensor:
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


def _autograd(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    implementation = torch.ops.scoresde_fast.winograd_convolution.default
    if needs_derivatives(x, residual):
        return _recorded(below_autograd(implementation), x, weight, bias, residual, scale)
    with torch._C._AutoDispatchBelowAutograd():
        return implementation(x, weight, bias, residual, scale)


operation = define(
    "winograd_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, float scale) -> Tensor",
    _reference,
    _fake,
    order=("cpu",),
)
library.define("winograd_convolution_transposed(Tensor y, Tensor weight) -> Tensor")
library.impl("winograd_convolution_transposed", _transposed_convolution, "CPU")
torch.library.register_fake("scoresde_fast::winograd_convolution_transposed", _transposed_fake)
library.impl("winograd_convolution", _autograd, "Autograd")
