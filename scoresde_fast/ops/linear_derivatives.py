# SPDX-License-Identifier: Apache-2.0
"""Derivatives of operations that are linear in an image and a residual together, up to a bias; they keep no image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scoresde_fast.ops.derivatives import SingleLevelFunction

Apply = Callable[[Tensor, Tensor | None, bool], Tensor]
"""``apply(x, residual, biased)``: the operation with its bias, or without."""
Transpose = Callable[[Tensor], Tensor]
"""From the gradient of the output to that of x."""


def with_derivatives(
    apply: Apply, transpose: Transpose, x: Tensor, residual: Tensor | None, scale: float = 1.0
) -> Tensor:
    """``apply(x, residual, True)`` with its tangent, ``apply`` of the tangents without the bias, and its gradients.

    Args:
        apply: of images and, scaled, a residual.
        transpose: of a gradient, which has the memory format of ``x``.
        x, residual: (B, C, H, W), (B, K, H', W') or None.
        scale: the factor that ``apply`` gives the residual.
    """
    return cast(Tensor, _Linear.record(x, residual, apply, transpose, scale))


class _Linear(SingleLevelFunction):
    @staticmethod
    def forward(x: Tensor, residual: Tensor | None, apply: Apply, transpose: Transpose, scale: float) -> Tensor:
        return apply(x, residual, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.operation, ctx.transpose, ctx.scale = inputs
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if last else torch.contiguous_format

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        in_image, in_residual, *_ = ctx.needs_input_grad
        image = ctx.transpose(grad.contiguous(memory_format=ctx.layout)) if in_image else None
        return image, ctx.scale * grad if in_residual else None, None, None, None

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, residual: Tensor | None, *_constants: None) -> Tensor:
        if residual is not None:
            residual = residual.contiguous(memory_format=ctx.layout)
        if x is None:
            assert residual is not None  # one of them has a tangent
            return residual * ctx.scale
        tangent: Tensor = ctx.operation(x.contiguous(memory_format=ctx.layout), residual, False)
        return tangent
