# SPDX-License-Identifier: Apache-2.0
"""``group_norm_silu``: what a residual block of NCSN++ does between two convolutions, in one pass over memory.

``h = (x + shift + residual) * scale``, GroupNorm (Wu & He, 2018), SiLU and, where the block resamples, the FIR
filter of `scoresde_fast.ops.fir_resample`.  ``shift`` is the time bias of a sample's channels; ``residual`` and
``scale`` are the block's join, whose result the network needs too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import goes_through_dispatcher, needs_derivatives
from scoresde_fast.ops.fir_resample import fir_down, fir_up
from scoresde_fast.ops.group_norm_silu_gradients import (
    joined_input,
    memory_format,
    recorded,
    register_autograd,
)
from scoresde_fast.ops.library import define, library

SCHEMA = (
    "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? shift, Tensor? residual, "
    "float scale, bool silu, str resample, float[] taps) -> (Tensor, Tensor, Tensor)"
)
RESAMPLES = ("none", "up", "down")
TAPS = (1.0, 3.0, 3.0, 1.0)


def _reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None,
    residual: Tensor | None,
    scale: float,
    silu: bool,
    resample: str,
    taps: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    y, joined, statistics = _fake(x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps)
    if x.numel() == 0:
        return y, joined, statistics.zero_()
    layout = memory_format(x)
    h = joined_input(x, shift, residual, scale)
    if residual is not None:
        # The norm sees what is stored.
        joined = h.to(x.dtype).contiguous(memory_format=layout)
        h = joined.to(h.dtype)
    variance, mean = torch.var_mean(h.reshape(len(x), groups, -1), dim=-1, correction=0)
    statistics = torch.stack([mean, (variance + eps).rsqrt()], dim=-1)
    y = F.group_norm(h, groups, weight.to(h.dtype), bias.to(h.dtype), eps)
    if silu:
        y = F.silu(y)
    if resample != "none":
        y = fir_up(y, taps) if resample == "up" else fir_down(y, taps)
    return y.to(x.dtype).contiguous(memory_format=layout), joined, statistics


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    shift: Tensor | None,
    residual: Tensor | None,
    scale: float,
    silu: bool,
    resample: str,
    taps: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    layout = memory_format(x)
    batch, channels, height, width = x.shape
    if resample == "up":
        height, width = 2 * height, 2 * width
    elif resample == "down":
        height, width = height // 2, width // 2
    y = torch.empty((batch, channels, height, width), dtype=x.dtype, device=x.device, memory_format=layout)
    joined = x.new_empty(0) if residual is None else torch.empty_like(x, memory_format=layout)
    return y, joined, x.new_empty((batch, groups, 2), dtype=torch.float32)


operation = define(SCHEMA, _reference, _fake, order=("triton", "cpu"), checked=("cpu",))
register_autograd(library)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-6,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    scale: float = 1.0,
    silu: bool = True,
    resample: str = "none",
    taps: Sequence[float] = TAPS,
    implementation: Callable[..., Any] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm of (x + shift + residual) * scale, SiLU, and resampling by two; carries gradients and tangents.

    Args:
        x: (B, C, H, W) float32, bfloat16 or float16, contiguous or channels_last; float64 runs in the reference.
        weight, bias: (C,) in any of these dtypes.
        groups: the number of groups, a divisor of C.
        eps: added to the variance.
        shift: (B, C) or (C,), added to every pixel.
        residual: like ``x``, dtype and memory format included.
        scale: the factor of the sum.
        silu: False leaves the activation out.
        resample: "none", "up" or, of even H and W, "down".
        taps: the FIR filter of "up" and "down", 2 to 12 numbers.
        implementation: what ``operation.choose`` returned, which carries no gradients; None chooses now.

    Returns:
        y: (B, C, H', W') in the dtype and memory format of ``x``; H' is H, 2H or H/2.
        h: the joined tensor, like ``x``, rounded to its dtype, which is what the norm sees; (0,) without ``residual``.
        statistics: (B, groups, 2) float32, mean and reciprocal deviation of each group of h.

    Raises:
        TypeError, ValueError: a dtype, shape, stride, device, ``groups``, ``resample`` or ``taps`` is not as above.
    """
    taps = [] if resample == "none" else list(taps)
    arguments = (x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps)
    required = (x, weight, bias, groups, shift, residual, resample, taps)
    recording = False
    if implementation is None and not goes_through_dispatcher():
        backend = operation.default(x.device)
        implementation = backend.function
        recording = needs_derivatives(x, weight, bias, shift, residual)
        if (
            backend.checks
            and resample == "none"
            and not recording
            and _reaches_kernel(x, weight, bias, shift, residual)
        ):
            # It looks at its arguments in a tenth of the time that it takes here; the sentence comes from here.
            try:
                return implementation(*arguments)
            except RuntimeError:
                _require(*required)
                raise
    _require(*required)
    if x.dtype == torch.float64:
        return _reference(*arguments)
    if implementation is None:
        implementation = torch.ops.scoresde_fast.group_norm_silu.default
    return recorded(implementation, *arguments) if recording else implementation(*arguments)


def _reaches_kernel(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, residual: Tensor | None) -> bool:
    """Whether the C++ kernel will see what is on x's CPU: float64 is the reference's, and where a tensor is of the
    device "meta" the dispatcher takes the fake."""
    vectors = weight.is_cpu and bias.is_cpu and (shift is None or shift.is_cpu)
    return vectors and (residual is None or residual.is_cpu) and x.dtype != torch.float64


def _require(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    shift: Tensor | None,
    residual: Tensor | None,
    resample: str,
    taps: Sequence[float],
) -> None:
    dtypes = (*checks.NETWORK_DTYPES, torch.float64) if x.dtype == torch.float64 else checks.NETWORK_DTYPES
    checks.require_dtype("x", x, dtypes)
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (B, C, H, W)")
    if not x.is_contiguous() and not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"x has strides {tuple(x.stride())} for shape {tuple(x.shape)}; it must be contiguous (NCHW) or "
            "channels_last: call .contiguous(memory_format=torch.channels_last)"
        )
    batch, channels, height, width = x.shape
    if groups < 1 or channels % groups:
        raise ValueError(f"groups is {groups}; it must be a positive divisor of the {channels} channels of x")
    for name, vector in (("weight", weight), ("bias", bias), ("shift", shift)):
        if vector is None:
            continue
        shapes = [(channels,), (batch, channels)] if name == "shift" else [(channels,)]
        checks.require_dtype(name, vector, dtypes)
        if tuple(vector.shape) not in shapes:
            allowed = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"{name} has shape {tuple(vector.shape)}; for x of shape {tuple(x.shape)} it is {allowed}")
        checks.require_device(name, vector, "x", x)
        checks.require_contiguous(name, vector)
    if residual is not None:
        checks.require_dtype("residual", residual, [x.dtype])
        checks.require_like("residual", residual, "x", x)
        if not residual.is_contiguous(memory_format=memory_format(x)):
            raise ValueError(
                f"residual has strides {tuple(residual.stride())}; it must have the memory format of x, whose strides "
                f"are {tuple(x.stride())}: call .contiguous(memory_format=...)"
            )
    checks.require_choice("resample", resample, RESAMPLES)
    if resample != "none" and (not 2 <= len(taps) <= 12 or sum(taps) == 0):
        raise ValueError(f"taps are {list(taps)}; a filter has 2 to 12 values and a sum other than 0")
    if resample == "down" and (height % 2 or width % 2):
        raise ValueError(f"x has shape {tuple(x.shape)}; only even heights and widths can be halved: pad or crop it")
