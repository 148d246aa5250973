# SPDX-License-Identifier: Apache-2.0
"""Reverse- and forward-mode derivatives of `scoresde_fast.ops.group_norm_silu`.

With n = (h - mean) r, z = weight n + bias, y = silu(z) and <.> the mean over a group, a tangent t of h gives
``silu'(z) weight r (t - <t> - n <n t>)``, and a gradient g of y, with d = g silu'(z), gives h the gradient
``r (weight d - <weight d> - n <n weight d>)``.  ``source`` is the stored h where there was a residual (``joined``),
else x, from which h = (x + shift) * scale is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import Library

from scoresde_fast.ops.derivatives import SingleLevelFunction, below_autograd, needs_derivatives
from scoresde_fast.ops.library import define

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]
BACKWARD = (
    "group_norm_silu_backward(Tensor grad_y, Tensor? grad_h, Tensor source, Tensor? shift, Tensor statistics, "
    "Tensor weight, Tensor bias, int groups, float scale, bool joined, bool silu) -> (Tensor, Tensor, Tensor, Tensor)"
)
TANGENT = (
    "group_norm_silu_tangent(Tensor tangent, Tensor source, Tensor? shift, Tensor statistics, Tensor weight, "
    "Tensor bias, int groups, float scale, bool joined, bool silu) -> Tensor"
)


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that outputs take from ``x``: contiguous wherever its strides are."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


def joined_input(x: Tensor, shift: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    """(x + shift + residual) * scale in float32, or float64 where x is."""
    h = x.to(torch.promote_types(x.dtype, torch.float32))
    if shift is not None:
        h = h + shift.to(h.dtype)[..., None, None]
    if residual is not None:
        h = h + residual.to(h.dtype)
    return h * scale if scale != 1 else h


def _normalised(
    source: Tensor,
    shift: Tensor | None,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: float,
    joined: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """n (B, G, C/G, HW), the derivative of the activation in the same shape, and the deviations' reciprocals."""
    h = joined_input(source, None, None, 1.0) if joined else joined_input(source, shift, None, scale)
    h = h.reshape(len(h), groups, h.shape[1] // groups, -1)
    mean, reciprocal = statistics.to(h.dtype)[:, :, None, None].unbind(-1)
    n = (h - mean) * reciprocal
    if not silu:
        return n, torch.ones_like(n), reciprocal
    z = n * weight.to(h.dtype).view(groups, -1, 1) + bias.to(h.dtype).view(groups, -1, 1)
    sigmoid = z.sigmoid()
    return n, sigmoid * (1 + z * (1 - sigmoid)), reciprocal


def _backward_reference(
    grad_y: Tensor,
    grad_h: Tensor | None,
    source: Tensor,
    shift: Tensor | None,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: float,
    joined: bool,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if source.numel() == 0:
        outputs = _backward_fake(grad_y, grad_h, source, shift, statistics, weight)
        return outputs[0], outputs[1].zero_(), outputs[2].zero_(), outputs[3].zero_()
    n, slope, reciprocal = _normalised(source, shift, statistics, weight, bias, groups, scale, joined, silu)
    d = grad_y.to(n.dtype).reshape(n.shape) * slope
    grad_weight, grad_bias = (d * n).sum((0, 3)).flatten(), d.sum((0, 3)).flatten()
    d = d * weight.to(n.dtype).view(groups, -1, 1)
    grad = (d - d.mean((2, 3), keepdim=True) - n * (n * d).mean((2, 3), keepdim=True)) * reciprocal
    grad = grad.reshape(source.shape)
    if grad_h is not None:
        grad = grad + grad_h.to(n.dtype)
    grad = grad * scale
    grad_x = grad.to(source.dtype).contiguous(memory_format=memory_format(source))
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), grad.sum((2, 3)).float()


def _backward_fake(
    grad_y: Tensor,
    grad_h: Tensor | None,
    source: Tensor,
    shift: Tensor | None,
    statistics: Tensor,
    weight: Tensor,
    *_arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(source, memory_format=memory_format(source))
    return (
        grad_x,
        torch.empty_like(weight),
        torch.empty_like(weight),
        source.new_empty(source.shape[:2], dtype=torch.float32),
    )


def _tangent_reference(
    tangent: Tensor,
    source: Tensor,
    shift: Tensor | None,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale: float,
    joined: bool,
    silu: bool,
) -> Tensor:
    if source.numel() == 0:
        return _tangent_fake(tangent, source)
    n, slope, reciprocal = _normalised(source, shift, statistics, weight, bias, groups, scale, joined, silu)
    t = tangent.to(n.dtype).reshape(n.shape)
    t = (t - t.mean((2, 3), keepdim=True) - n * (n * t).mean((2, 3), keepdim=True)) * reciprocal
    t = t * weight.to(n.dtype).view(groups, -1, 1) * slope
    return t.reshape(source.shape).to(source.dtype).contiguous(memory_format=memory_format(source))


def _tangent_fake(tangent: Tensor, source: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(source, memory_format=memory_format(source))


backward = define(BACKWARD, _backward_reference, _backward_fake, order=("triton", "cpu"))
tangent = define(TANGENT, _tangent_reference, _tangent_fake, order=("triton", "cpu"))


class _GroupNormSilu(SingleLevelFunction):
    """The operation with its derivatives; that of the filter, which is linear, is the filter or its adjoint.

    It runs inside the dispatcher's autograd key, which sees one level of nested transforms at a time.
    """

    @staticmethod
    def forward(
        implementation: Callable[..., Any],
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
    ) -> Any:
        return implementation(x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, x, weight, bias, ctx.groups, _, shift, residual, ctx.scale, ctx.silu, ctx.resample, ctx.taps = inputs
        _, h, statistics = output
        ctx.joined = residual is not None
        ctx.shift_dims = 0 if shift is None else shift.ndim
        ctx.shift_dtype = None if shift is None else shift.dtype
        saved = (h if ctx.joined else x, None if ctx.joined else shift, statistics, weight, bias)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.mark_non_differentiable(*([statistics] if ctx.joined else [h, statistics]))
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_h: Tensor | None, _statistics: None) -> Any:
        source, shift, statistics, weight, bias = ctx.saved_tensors
        layout = memory_format(source)
        if grad_y is None:
            grad_y = torch.zeros_like(source, memory_format=layout)
        elif ctx.resample != "none":
            grad_y = _filter(grad_y.contiguous(memory_format=layout), ctx.resample, ctx.taps, adjoint=True)
        grad_x, grad_weight, grad_bias, grad_shift = torch.ops.scoresde_fast.group_norm_silu_backward(
            grad_y.contiguous(memory_format=layout),
            None if grad_h is None or not ctx.joined else grad_h.contiguous(memory_format=layout),
            source, shift, statistics, weight, bias, ctx.groups, ctx.scale, ctx.joined, ctx.silu,
        )  # fmt: skip
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
                "group_norm_silu has no tangent in weight or bias: make only x, shift or residual dual"
            )
        source, saved_shift, *parameters = ctx.saved_tensors
        layout = memory_format(source)
        total = torch.zeros_like(source) if x is None else x
        t = joined_input(total, shift, residual, ctx.scale).to(source.dtype).contiguous(memory_format=layout)
        y = torch.ops.scoresde_fast.group_norm_silu_tangent(
            t, source, saved_shift, *parameters, ctx.groups, ctx.scale, ctx.joined, ctx.silu
        )
        if ctx.resample != "none":
            y = _filter(y, ctx.resample, ctx.taps).contiguous(memory_format=layout)
        return y, t if ctx.joined else None, None


def _filter(x: Tensor, resample: str, taps: Sequence[float], *, adjoint: bool = False) -> Tensor:
    """`fir_resample` with its defaults, or its adjoint, below autograd."""
    up, count = resample == "up", len(taps)
    offset = count - 2 - (count - 1) // 2 if up else count // 2
    if adjoint:
        taps, offset = taps[::-1], count - 1 - offset
    with torch._C._AutoDispatchBelowAutograd():
        direction = "up" if up != adjoint else "down"
        return torch.ops.scoresde_fast.fir_resample.default(x, taps, direction, offset, 4.0 if up else 1.0)


def recorded(implementation: Callable[..., Any], *arguments: Any) -> Triple:
    """``implementation`` of the operation's arguments, with its derivatives."""
    return cast(Triple, _GroupNormSilu.record(implementation, *arguments))


def _autograd(
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
    arguments = (x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps)
    operation = torch.ops.scoresde_fast.group_norm_silu.default
    if needs_derivatives(x, weight, bias, shift, residual):
        return recorded(below_autograd(operation), *arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return cast(Triple, operation(*arguments))


def register_autograd(library: Library) -> None:
    """Gives ``scoresde_fast::group_norm_silu`` its derivatives."""
    library.impl("group_norm_silu", _autograd, "Autograd")
