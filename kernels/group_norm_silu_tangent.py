# SPDX-License-Identifier: Apache-2.0
"""The tangent of GroupNorm and SiLU: the kernels are in `scoresde_fast.kernels.group_norm_silu_gradients`."""

from __future__ import annotations

from typing import Any

from scoresde_fast.kernels.group_norm_silu_gradients import differentiate


def group_norm_silu_tangent(
    tangent: Any,
    source: Any,
    shift: Any,
    statistics: Any,
    weight: Any,
    bias: Any,
    groups: int,
    scale: float,
    joined: bool,
    silu: bool,
) -> Any:
    """The tangent of y for a tangent of h."""
    if not source.numel():
        return source.new_empty(source.shape)
    return differentiate(tangent, None, source, shift, statistics, weight, bias, groups, scale, joined, silu, False)[0]
