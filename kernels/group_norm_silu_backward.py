# SPDX-License-Identifier: Apache-2.0
"""Gradients of GroupNorm and SiLU: the kernels are in `scoresde_fast.kernels.group_norm_silu_gradients`."""

from __future__ import annotations

from typing import Any

from scoresde_fast.kernels.group_norm_silu_gradients import differentiate


def group_norm_silu_backward(
    grad_y: Any,
    grad_h: Any,
    source: Any,
    shift: Any,
    statistics: Any,
    weight: Any,
    bias: Any,
    groups: int,
    scale: float,
    joined: bool,
    silu: bool,
) -> tuple[Any, Any, Any, Any]:
    """Gradients of x, weight, bias and shift, (B, C)."""
    batch, channels, height, width = source.shape
    if not source.numel():
        zeros = statistics.new_zeros((batch, channels))
        return source.new_empty(source.shape), weight.new_zeros(channels), weight.new_zeros(channels), zeros
    grad_x, sums = differentiate(
        grad_y, grad_h, source, shift, statistics, weight, bias, groups, scale, joined, silu, True
    )
    d, products, n, of_h = (sums[:, row].view(batch, groups, -1) for row in range(4))
    by_channel = weight.to(sums.dtype).view(1, groups, -1)
    elements = height * width
    mean_d, mean_product = ((by_channel * part).mean(2, keepdim=True) / elements for part in (d, products))
    grad = statistics[:, :, 1:] * (by_channel * d - mean_d * elements - n * mean_product) + of_h
    grad_shift = (grad * scale).reshape(batch, channels)
    return grad_x, products.sum(0).flatten().to(weight.dtype), d.sum(0).flatten().to(weight.dtype), grad_shift
