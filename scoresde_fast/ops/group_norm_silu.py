# SPDX-License-Identifier: Apache-2.0
"""``group_norm_silu``: the operations of an NCSN++ residual block between two convolutions, in one pass over memory.

``h = (x + shift + residual) * scale``, GroupNorm (Wu & He, 2018), SiLU and, if the block resamples, the FIR filter of
`scoresde_fast.ops.fir_resample`.  ``shift`` is the time bias of a sample's channels.  ``residual`` and ``scale`` are
those of the block's residual sum; the sum h is returned too, because the network needs it.

Derivatives: let n = (h - mean) r, z = weight n + bias, y = silu(z) and <.> the mean over a group.  A tangent t of h
gives the tangent ``silu'(z) weight r (t - <t> - n <n t>)`` of y.  A gradient g of y, with d = g silu'(z), gives the
gradient ``r (weight d - <weight d> - n <n weight d>)`` of h.  With a residual (``joined``), ``source`` is the stored h.
Without a residual, ``source`` is x, from which h = (x + shift) * scale is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import (
    SingleLevelFunction,
    below_autograd,
    goes_through_dispatcher,
    needs_derivatives,
)
from scoresde_fast.ops.fir_resample import centred_offset, fir_down, fir_up
from scoresde_fast.ops.registration import define, library

RESAMPLES = ("none", "up", "down")
TAPS = (1.0, 3.0, 3.0, 1.0)
Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]


class _Arguments(NamedTuple):
    """Arguments of ``group_norm_silu``, in the order of its schema."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    shift: Tensor | None
    residual: Tensor | None
    scale: float
    silu: bool
    resample: str
    taps: Sequence[float]


class _Saved(NamedTuple):
    """Arguments that follow the gradient or tangent in the schemas of the derivatives, in their order."""

    source: Tensor
    shift: Tensor | None
    statistics: Tensor
    weight: Tensor
    bias: Tensor
    groups: int
    scale: float
    joined: bool
    silu: bool


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
) -> Triple:
    """Return y = SiLU(GroupNorm(h)), resampled if asked, h = (x + shift + residual) * scale and the statistics of h.

    Gradients and tangents are supported, unless ``implementation`` is given.

    Args:
        x: (B, C, H, W) float32, bfloat16 or float16, contiguous or channels_last; float64 runs the reference.
        weight, bias: (C,) in any of these dtypes.
        groups: number of groups, a divisor of C.
        eps: added to the variance.
        shift: (B, C) or (C,), added to every pixel.
        residual: same shape, dtype and memory format as ``x``.
        scale: factor of the sum.
        silu: whether to apply the activation.
        resample: "none", "up" or, for even H and W, "down".
        taps: FIR filter of "up" and "down", 2 to 12 numbers.
        implementation: a result of ``operation.choose``; None uses the default backend.

    Returns:
        y: (B, C, H', W') in the dtype and memory format of ``x``; H' is H, 2H or H/2.
        h: like ``x``, rounded to its dtype before normalisation; (0,) without ``residual``.
        statistics: (B, groups, 2) float32, mean and reciprocal standard deviation of each group of h.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    taps = [] if resample == "none" else list(taps)
    arguments = (x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps)
    recording = False
    if implementation is None and not goes_through_dispatcher():
        backend = operation.default(x.device)
        implementation = backend.function
        recording = needs_derivatives(x, weight, bias, shift, residual)
        plain = resample == "none" and not recording
        if backend.checks and plain and _reaches_kernel(x, weight, bias, shift, residual):
            # The kernel checks its arguments ten times faster than `_require`, which has better messages.
            try:
                return implementation(*arguments)
            except RuntimeError:
                _require(*arguments)
                raise
    _require(*arguments)
    if x.dtype == torch.float64:
        return _reference(*arguments)
    if implementation is None:
        implementation = torch.ops.scoresde_fast.group_norm_silu.default
    return _GroupNormSilu.record(implementation, *arguments) if recording else implementation(*arguments)


def _reaches_kernel(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None, residual: Tensor | None) -> bool:
    """Return whether the C++ kernel runs on these arguments: they are CPU tensors and x is not float64."""
    vectors = weight.is_cpu and bias.is_cpu and (shift is None or shift.is_cpu)
    return vectors and (residual is None or residual.is_cpu) and x.dtype != torch.float64


def _require(*arguments: Any) -> None:
    x, weight, bias, groups, _, shift, residual, _, _, resample, taps = arguments  # faster than `_Arguments`
    dtypes = checks.FLOAT_DTYPES if x.dtype == torch.float64 else checks.NETWORK_DTYPES
    checks.require_image("x", x, dtypes)
    checks.require_groups(groups, x)
    batch, channels, height, width = x.shape
    checks.require_parameter("weight", weight, dtypes, [(channels,)], "x", x)
    checks.require_parameter("bias", bias, dtypes, [(channels,)], "x", x)
    if shift is not None:
        checks.require_parameter("shift", shift, dtypes, [(channels,), (batch, channels)], "x", x)
    if residual is not None:
        checks.require_residual(residual, x, tuple(x.shape), memory_format(x))
    checks.require_choice("resample", resample, RESAMPLES)
    if resample != "none" and (not 2 <= len(taps) <= 12 or sum(taps) == 0):
        raise ValueError(f"taps is {list(taps)}; a filter has 2 to 12 values and a sum other than 0")
    if resample == "down" and (height % 2 or width % 2):
        raise ValueError(f"x has shape {tuple(x.shape)}; only even heights and widths can be halved: pad or crop it")


def _reference(*arguments: Any) -> Triple:
    a = _Arguments(*arguments)
    y, joined, statistics = _fake(*arguments)
    if a.x.numel() == 0:
        return y, joined, statistics.zero_()
    layout = memory_format(a.x)
    h = joined_input(a.x, a.shift, a.residual, a.scale)
    if a.residual is not None:
        # Normalise the rounded h.
        joined = h.to(a.x.dtype).contiguous(memory_format=layout)
        h = joined.to(h.dtype)
    variance, mean = torch.var_mean(h.reshape(len(h), a.groups, -1), dim=-1, correction=0)
    statistics = torch.stack([mean, (variance + a.eps).rsqrt()], dim=-1)
    y = F.group_norm(h, a.groups, a.weight.to(h.dtype), a.bias.to(h.dtype), a.eps)
    if a.silu:
        y = F.silu(y)
    if a.resample != "none":
        y = fir_up(y, a.taps) if a.resample == "up" else fir_down(y, a.taps)
    return y.to(a.x.dtype).contiguous(memory_format=layout), joined, statistics


def _fake(*arguments: Any) -> Triple:
    a = _Arguments(*arguments)
    layout = memory_format(a.x)
    batch, channels, height, width = a.x.shape
    if a.resample == "up":
        height, width = 2 * height, 2 * width
    elif a.resample == "down":
        height, width = height // 2, width // 2
    y = torch.empty((batch, channels, height, width), dtype=a.x.dtype, device=a.x.device, memory_format=layout)
    joined = a.x.new_empty(0) if a.residual is None else torch.empty_like(a.x, memory_format=layout)
    return y, joined, a.x.new_empty((batch, a.groups, 2), dtype=torch.float32)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format of the outputs: contiguous if ``x`` is, else channels_last."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def joined_input(x: Tensor, shift: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    """Return (x + shift + residual) * scale in float32, or in float64 if x is float64."""
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    if shift is not None:
        h = h + shift.to(h.dtype)[..., None, None]
    if residual is not None:
        h = h + residual.to(h.dtype)
    return h * scale if scale != 1 else h


def _normalised(a: _Saved) -> Triple:
    """Return n (B, G, C/G, HW), the derivative of the activation in the same shape, and r."""
    h = joined_input(a.source, None if a.joined else a.shift, None, 1.0 if a.joined else a.scale)
    h = h.reshape(len(h), a.groups, h.shape[1] // a.groups, -1)
    mean, reciprocal = a.statistics.to(h.dtype)[:, :, None, None].unbind(-1)
    n = (h - mean) * reciprocal
    if not a.silu:
        return n, torch.ones_like(n), reciprocal
    z = n * a.weight.to(h.dtype).view(a.groups, -1, 1) + a.bias.to(h.dtype).view(a.groups, -1, 1)
    sigmoid = z.sigmoid()
    return n, sigmoid * (1 + z * (1 - sigmoid)), reciprocal


def _backward_reference(grad_y: Tensor, grad_h: Tensor | None, *saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a = _Saved(*saved)
    if a.source.numel() == 0:
        grad_x, grad_weight, grad_bias, grad_shift = _backward_fake(grad_y, grad_h, *saved)
        return grad_x, grad_weight.zero_(), grad_bias.zero_(), grad_shift.zero_()
    n, slope, reciprocal = _normalised(a)
    d = grad_y.to(n.dtype).reshape(n.shape) * slope
    grad_weight, grad_bias = (d * n).sum((0, 3)).flatten(), d.sum((0, 3)).flatten()
    d = d * a.weight.to(n.dtype).view(a.groups, -1, 1)
    grad = (d - d.mean((2, 3), keepdim=True) - n * (n * d).mean((2, 3), keepdim=True)) * reciprocal
    grad = grad.reshape(a.source.shape)
    if grad_h is not None:
        grad = grad + grad_h.to(n.dtype)
    grad = grad * a.scale
    grad_x = grad.to(a.source.dtype).contiguous(memory_format=memory_format(a.source))
    return grad_x, grad_weight.to(a.weight.dtype), grad_bias.to(a.weight.dtype), grad.sum((2, 3)).float()


def _backward_fake(grad_y: Tensor, grad_h: Tensor | None, *saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a = _Saved(*saved)
    grad_x = torch.empty_like(a.source, memory_format=memory_format(a.source))
    grad_shift = a.source.new_empty(a.source.shape[:2], dtype=torch.float32)
    return grad_x, torch.empty_like(a.weight), torch.empty_like(a.weight), grad_shift


def _tangent_reference(tangent: Tensor, *saved: Any) -> Tensor:
    a = _Saved(*saved)
    if a.source.numel() == 0:
        return _tangent_fake(tangent, a.source)
    n, slope, reciprocal = _normalised(a)
    t = tangent.to(n.dtype).reshape(n.shape)
    t = (t - t.mean((2, 3), keepdim=True) - n * (n * t).mean((2, 3), keepdim=True)) * reciprocal
    t = t * a.weight.to(n.dtype).view(a.groups, -1, 1) * slope
    return t.reshape(a.source.shape).to(a.source.dtype).contiguous(memory_format=memory_format(a.source))


def _tangent_fake(tangent: Tensor, source: Tensor, *_saved: Any) -> Tensor:
    return torch.empty_like(source, memory_format=memory_format(source))


class _GroupNormSilu(SingleLevelFunction):
    """The operation with its derivatives; the derivatives of the linear filter are the filter and its adjoint."""

    @staticmethod
    def forward(implementation: Callable[..., Any], *arguments: Any) -> Any:
        return implementation(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
        a = _Arguments(*inputs[1:])
        _, h, statistics = output
        ctx.joined, ctx.scale, ctx.resample, ctx.taps = a.residual is not None, a.scale, a.resample, a.taps
        ctx.constants = a.groups, a.scale, ctx.joined, a.silu
        ctx.shift_dims = 0 if a.shift is None else a.shift.ndim
        ctx.shift_dtype = None if a.shift is None else a.shift.dtype
        saved = (h if ctx.joined else a.x, None if ctx.joined else a.shift, statistics, a.weight, a.bias)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.mark_non_differentiable(*([statistics] if ctx.joined else [h, statistics]))
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_h: Tensor | None, _statistics: None) -> Any:
        source, *_, bias = saved = ctx.saved_tensors
        layout = memory_format(source)
        if grad_y is None:
            grad_y = torch.zeros_like(source, memory_format=layout)
        elif ctx.resample != "none":
            grad_y = _filter(grad_y.contiguous(memory_format=layout), ctx.resample, ctx.taps, adjoint=True)
        grad_x, grad_weight, grad_bias, grad_shift = torch.ops.scoresde_fast.group_norm_silu_backward(
            grad_y.contiguous(memory_format=layout),
            None if grad_h is None or not ctx.joined else grad_h.contiguous(memory_format=layout),
            *saved,
            *ctx.constants,
        )
        if ctx.shift_dims == 1:
            grad_shift = grad_shift.sum(0)
        shift_grad = grad_shift.to(ctx.shift_dtype) if ctx.shift_dims else None
        grad_bias = grad_bias.to(bias.dtype)
        grad_residual = grad_x if ctx.joined else None
        return None, grad_x, grad_weight, grad_bias, None, None, shift_grad, grad_residual, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        _, x, weight, bias, _, _, shift, residual, *_ = tangents
        if weight is not None or bias is not None:
            raise NotImplementedError(
                "group_norm_silu has no tangent in weight or bias: pass tangents of x, shift or residual only"
            )
        source, *rest = ctx.saved_tensors
        layout = memory_format(source)
        x = torch.zeros_like(source) if x is None else x
        t = joined_input(x, shift, residual, ctx.scale).to(source.dtype).contiguous(memory_format=layout)
        y = torch.ops.scoresde_fast.group_norm_silu_tangent(t, source, *rest, *ctx.constants)
        if ctx.resample != "none":
            y = _filter(y, ctx.resample, ctx.taps).contiguous(memory_format=layout)
        return y, t if ctx.joined else None, None


def _filter(x: Tensor, resample: str, taps: Sequence[float], *, adjoint: bool = False) -> Tensor:
    """Apply `fir_resample` with its defaults, or its adjoint, below autograd."""
    direction, gain = resample, 4.0 if resample == "up" else 1.0
    offset = centred_offset(len(taps), resample)
    if adjoint:
        taps, offset, direction = taps[::-1], len(taps) - 1 - offset, "down" if resample == "up" else "up"
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.scoresde_fast.fir_resample.default(x, taps, direction, offset, gain)


def _autograd(*arguments: Any) -> Triple:
    x, weight, bias, _, _, shift, residual, *_ = arguments
    implementation = torch.ops.scoresde_fast.group_norm_silu.default
    if needs_derivatives(x, weight, bias, shift, residual):
        return _GroupNormSilu.record(below_autograd(implementation), *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return implementation(*arguments)


_SAVED = "Tensor source, Tensor? shift, Tensor statistics, Tensor weight, Tensor bias, int groups, float scale, "
operation = define(
    "group_norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? shift, Tensor? residual, "
    "float scale, bool silu, str resample, float[] taps) -> (Tensor, Tensor, Tensor)",
    _reference,
    _fake,
    order=("triton", "cpu"),
    checked=("cpu",),
)
backward = define(
    f"group_norm_silu_backward(Tensor grad_y, Tensor? grad_h, {_SAVED}bool joined, bool silu) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _backward_reference,
    _backward_fake,
    order=("triton", "cpu"),
)
tangent = define(
    f"group_norm_silu_tangent(Tensor tangent, {_SAVED}bool joined, bool silu) -> Tensor",
    _tangent_reference,
    _tangent_fake,
    order=("triton", "cpu"),
)
library.impl("group_norm_silu", _autograd, "Autograd")
