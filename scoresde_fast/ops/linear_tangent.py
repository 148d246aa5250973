# SPDX-License-Identifier: Apache-2.0
"""Forward-mode tangents of operations that are linear in an image and a residual together, up to a bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

Apply = Callable[[Tensor, Tensor | None, bool], Tensor]
"""``apply(x, residual, biased)``: the operation with its bias, or without."""


def may_have_tangents() -> bool:
    """Whether dual numbers are about: a look that costs nothing."""
    return forward_ad._current_level >= 0


def with_tangent(apply: Apply, x: Tensor, residual: Tensor | None) -> Tensor:
    """``apply(x, residual, True)``, whose tangent is ``apply`` of the tangents, without the bias."""
    return cast(Tensor, _LinearTangent.apply(x, residual, apply))


class _LinearTangent(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, residual: Tensor | None, apply: Apply) -> Tensor:
        return apply(x, residual, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.image, ctx.residual, ctx.apply = inputs

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, residual: Tensor | None, _apply: None) -> Tensor:
        image = ctx.image if x is None else x
        layout = torch.channels_last if ctx.image.is_contiguous(memory_format=torch.channels_last) else None
        dense = image.contiguous(memory_format=layout or torch.contiguous_format)
        if x is None:
            dense = torch.zeros_like(dense)
        if residual is not None:
            residual = residual.contiguous(memory_format=layout or torch.contiguous_format)
        tangent: Tensor = ctx.apply(dense, residual, False)
        return tangent
