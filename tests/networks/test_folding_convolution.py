# SPDX-License-Identifier: Apache-2.0
"""Gradients and tangents of folded convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.networks.folding import FoldedConvolution


def test_compiled_tangents() -> None:
    """A compiled jvp through folded convolutions, by Winograd's algorithm and by PyTorch, equals the eager one."""
    generator = torch.Generator().manual_seed(8)
    kernels = torch.randn(16, 8, 3, 3, generator=generator), torch.randn(4, 16, 1, 1, generator=generator)
    first = FoldedConvolution(kernels[0], None, torch.float32, padding=1)
    second = FoldedConvolution(kernels[1], torch.ones(4), torch.float32)
    x, direction = torch.randn(2, 2, 8, 5, 6, generator=generator).contiguous().unbind()

    def tangent(x: Tensor, direction: Tensor) -> Tensor:
        inputs = (x.contiguous(memory_format=torch.channels_last),)
        directions = (direction.contiguous(memory_format=torch.channels_last),)
        return torch.func.jvp(lambda x: second(first(x)), inputs, directions)[1]

    exact = F.conv2d(F.conv2d(direction, kernels[0], padding=1), kernels[1])
    compiled = torch.compile(tangent, backend="aot_eager", fullgraph=True)
    for ours in (tangent(x, direction), compiled(x, direction)):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((16, 24, 3, 3), {"padding": 1}),
        ((5, 6, 3, 3), {"padding": 1}),
        ((8, 4, 1, 1), {}),
        ((4, 3, 3, 3), {"stride": 2}),
    ],
    ids=["winograd", "3x3", "1x1", "strided"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_gradients(shape: tuple[int, ...], options: dict[str, Any], dtype: torch.dtype) -> None:
    """Gradients in x and residual, also with tangents, are as accurate as those of PyTorch.

    Their error against float64 is at most three times that of PyTorch in the same dtype. Because PyTorch's error may be
    nearly 0, the rounding error of the sum is also allowed: sqrt(number of products) eps in float32, and eps in 16
    bits, whose sums are computed in float32.
    """
    generator = torch.Generator().manual_seed(7)
    weight, bias = torch.randn(shape, generator=generator) / 3, torch.randn(shape[0], generator=generator)
    has_residual = "stride" not in options
    folded = FoldedConvolution(weight, bias, dtype, residual_scale=0.7, **options)
    size = (2, shape[0], 9, 7) if has_residual else (2, shape[0], 4, 3)
    x, residual, weights = (
        torch.randn(dims, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for dims in ((2, shape[1], 9, 7), size, size)
    )
    inputs = [x, residual] if has_residual else [x]

    def plain_gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        y = F.conv2d(leaves[0], weight.to(dtype), bias.to(dtype), **options)
        return torch.autograd.grad(y + 0.7 * leaves[1] if has_residual else y, leaves, weights.to(dtype))

    for dual in (False, True):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        with forward_ad.dual_level():
            y = folded(forward_ad.make_dual(leaves[0], torch.ones_like(x)) if dual else leaves[0], *leaves[1:])
            ours = torch.autograd.grad(forward_ad.unpack_dual(y).primal, leaves, weights)
        products = shape[0] * shape[2] * shape[3] if dtype == torch.float32 else 1
        for got, direct, exact in zip(ours, plain_gradients(dtype), plain_gradients(torch.float64), strict=True):
            assert got.dtype == dtype
            error, plain_error = (float((result.double() - exact).abs().max()) for result in (got, direct))
            rounding = products**0.5 * torch.finfo(dtype).eps * float(exact.abs().max())
            assert error <= max(3 * plain_error, rounding)
