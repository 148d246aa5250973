# SPDX-License-Identifier: Apache-2.0
"""``winograd_convolution``: a 3x3 convolution with bias and scaled residual by Winograd's minimal filtering.

F(4x4, 3x3) of Lavin & Gray (2016): each 4x4 tile of the output is computed from a 6x6 patch d of the input,

    y = A^T ((G g G^T) * (B^T d B)) A,

with 36 products per pair of channels instead of 144.  This is the fastest method on processors without matrix units.
The gradient is the transposed convolution, ``winograd_convolution_transposed``: the same operation with the weight of
`transposed_weight`.

The matrices are the Toom-Cook matrices for the points 0, +-11/16, +-3/2 and infinity.  Their rounding errors are one to
two times those of direct summation; those of the common points 0, +-1, +-2 are four times larger.
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
    """Return conv2d(x, padding=1) + bias + scale * residual, (B, K, H, W) in the dtype of ``x``, channels_last.

    Tangents and gradients of x and residual are supported; weight and bias are constants.  The bits of a
    pixel do not depend on its batch.

    Args:
        x: (B, C, H, W) float32, bfloat16 or float16, channels_last; sums are computed in float32.
        weight: (36, K / 16, C, 16) float32, from `winograd_weight`; float64 runs the reference.
        bias: (K,) float32.
        residual: (B, K, H, W), in the dtype and memory format of ``x``.
        scale: factor of ``residual``.
        implementation: a result of ``operation.choose``; None uses the default backend.

    Raises:
        TypeError, ValueError: an argument is not as described, or weight or bias requires a gradient.
    """
    _require(x, weight, bias, residual)
    if weight.dtype == torch.float64:
        return _reference(x, weight, bias, residual, scale)
    _require_constant("weight", weight)
    _require_constant("bias", bias)
    if implementation is None:
        if torch.compiler.is_compiling():
            implementation = torch.ops.scoresde_fast.winograd_convolution.default
        else:
            implementation = operation.default(x.device).function
    return unchecked(implementation, x, weight, bias, residual, scale)


def unchecked(
    implementation: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    scale: float,
) -> Tensor:
    """Run `winograd_convolution` without its checks, which take a tenth as long as a small image."""
    if not needs_derivatives(x, residual):
        return implementation(x, weight, bias, residual, scale)
    if goes_through_dispatcher():
        implementation = torch.ops.scoresde_fast.winograd_convolution.default
        return implementation(x, weight, bias, residual, scale)
    return _recorded(implementation, x, weight, bias, residual, scale)


def fits(weight: Tensor) -> bool:
    """Return whether the operation supports this weight: (K, C, 3, 3) with C a multiple of 8 and K of 16."""
    return weight.shape[2:] == (3, 3) and weight.shape[1] % LANES == 0 and weight.shape[0] % PANEL == 0


def winograd_weight(weight: Tensor) -> Tensor:
    """Return G g G^T of each filter: (K, C, 3, 3) -> (36, K / 16, C, 16), float32, or float64 for a float64 weight.

    Raises:
        ValueError: the weight's shape is not supported, see `fits`.
    """
    if not fits(weight):
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)}; it must be (K, C, 3, 3) with C a multiple of {LANES} and K "
            f"of {PANEL}: use torch's convolution for other shapes"
        )
    channels_out, channels_in = weight.shape[:2]
    square = torch.kron(G, G).to(weight.device)
    transformed = square @ weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
    panels = transformed.view(PATCH**2, channels_out // PANEL, PANEL, channels_in).transpose(2, 3)
    return panels.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()


def winograd_filters(weight: Tensor) -> Tensor:
    """Invert `winograd_weight`, up to rounding: (36, K / 16, C, 16) -> (K, C, 3, 3)."""
    inverse = torch.linalg.pinv(G)
    points = weight.detach().double().transpose(2, 3).flatten(1)
    filters = (torch.kron(inverse, inverse).to(weight.device) @ points).T
    return filters.reshape(weight.shape[1] * PANEL, weight.shape[2], 3, 3).to(weight.dtype)


_transposed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def transposed_weight(weight: Tensor) -> Tensor:
    """Return the weight of the transposed convolution: (36, K / 16, C, 16) -> (36, ceil(C / 16), K, 16).

    The filters are flipped and the channels exchanged; C is padded with zeros to a multiple of 16.  The result is
    cached for the lifetime of ``weight``, and recomputed after ``weight`` is modified in place.
    """
    cached: tuple[int, Tensor] | None = _transposed.get(weight)
    if cached is None or cached[0] != version(weight):
        filters = winograd_filters(weight).flip(2, 3).transpose(0, 1)
        padded = F.pad(filters, (0, 0, 0, 0, 0, 0, 0, -len(filters) % PANEL))
        cached = _transposed[weight] = version(weight), winograd_weight(padded)
    return cached[1]


def _toom_cook() -> tuple[npt.NDArray[np.float64], ...]:
    """Return A^T (4, 6), G (6, 3) and B^T (6, 6), exact in float64."""
    points = np.array(POINTS)
    evaluate = np.vander(points, TILE, increasing=True).T
    filters = np.vander(points, 3, increasing=True)
    patches = np.zeros((PATCH, PATCH))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        filters[index] /= np.prod(point - others)
        patches[index, :-1] = np.poly(others)[::-1]
    patches[-1] = np.poly(points)[::-1]
    evaluate = np.hstack([evaluate, np.eye(TILE)[:, -1:]])  # the point at infinity
    filters = np.vstack([filters, np.eye(3)[-1:]])
    return evaluate, filters, patches


A_T, G, B_T = (torch.from_numpy(matrix) for matrix in _toom_cook())


def _require(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    checks.require_dtype("x", x, (*checks.NETWORK_DTYPES, weight.dtype))
    checks.require_contiguous("weight", weight, [torch.float32, torch.float64])
    if weight.ndim != 4 or weight.shape[0] != PATCH**2 or weight.shape[3] != PANEL:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it must be (36, K / 16, C, 16), from winograd_weight"
        )
    if x.ndim != 4 or x.shape[1] != weight.shape[2]:
        raise ValueError(f"x has shape {tuple(x.shape)}; for this weight it must be (B, {weight.shape[2]}, H, W)")
    checks.require_format("x", x, torch.channels_last)
    checks.require_device("weight", weight, "x", x)
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
