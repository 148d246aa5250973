# SPDX-License-Identifier: Apache-2.0
"""``group_norm_silu_backward`` and ``group_norm_silu_tangent``: derivatives of GroupNorm and SiLU.

Schemas and formulas are in ``scoresde_fast/ops/group_norm_silu.py``.  One kernel sums over pieces of a slab; the other
computes the gradient or the tangent from the sums.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.group_norm_plan import PIECE, empty_image, plan_of
from scoresde_fast.kernels.group_norm_tiles import LOG2_E, group_mean, load_statistics, narrow, slab_channels


def group_norm_silu_backward(grad_y, grad_h, *saved):
    """Launch the kernels and return the gradients of x, weight, bias and the shift (B, C)."""
    source, _shift, statistics, weight, _bias, groups, scale, _joined, _silu = saved
    batch, channels, height, width = source.shape
    if not source.numel():
        zeros = statistics.new_zeros((batch, channels))
        return source.new_empty(source.shape), weight.new_zeros(channels), weight.new_zeros(channels), zeros
    grad_x, sums = differentiate(grad_y, grad_h, *saved, True)
    d, products, n, of_h = (sums[:, row].view(batch, groups, -1) for row in range(4))
    by_channel = weight.to(sums.dtype).view(1, groups, -1)
    elements = height * width
    mean_d, mean_product = ((by_channel * part).mean(2, keepdim=True) / elements for part in (d, products))
    grad = statistics[:, :, 1:] * (by_channel * d - mean_d * elements - n * mean_product) + of_h
    grad_shift = (grad * scale).reshape(batch, channels)
    return grad_x, products.sum(0).flatten().to(weight.dtype), d.sum(0).flatten().to(weight.dtype), grad_shift


def group_norm_silu_tangent(tangent, source, *saved):
    """Launch the kernels and return the tangent of y for a tangent of h."""
    if not source.numel():
        return source.new_empty(source.shape)
    return differentiate(tangent, None, source, *saved, False)[0]


def differentiate(change, grad_h, source, shift, statistics, weight, bias, groups, scale, joined, silu, backward):
    """Launch both kernels and return the gradient of x or the tangent of y, and the sums (B, 4, C) float32."""
    batch, channels, height, width = source.shape
    plan = plan_of(channels, height * width, groups, source.element_size(), not source.is_contiguous(), 0)
    out = empty_image(source, plan.channels_last)
    rows = plan.piece(PIECE // 2)
    pieces = triton.cdiv(plan.pixels, rows)
    sums = statistics.new_empty((batch, pieces, 4, channels))
    if not (backward and grad_h is not None):
        # The kernel does not write these sums.
        sums[:, :, 3 if backward else 2 :].zero_()
    options = {
        **plan.image,
        "SHIFT": 0 if joined or shift is None else shift.ndim,
        "SCALE": 1.0 if joined else scale,
        "SILU": silu,
        "BACKWARD": backward,
        "GRAD_H": grad_h is not None,
        "ROWS": rows,
        "num_warps": 4,
        "enable_fp_fusion": True,
    }
    grid = (batch * (channels // plan.slab) * pieces,)
    inputs = (
        source, change, source if grad_h is None else grad_h, source if shift is None else shift, statistics, weight,
        bias,
    )  # fmt: skip
    gradient_sums_kernel[grid](*inputs, sums, **options)
    totals = sums.sum(1)
    gradient_apply_kernel[grid](*inputs, totals, out, OUT_SCALE=scale, **options)
    return out, totals


@triton.jit
def silu_slope(z):
    """Return the derivative of SiLU."""
    sigmoid = 1.0 / (1.0 + tl.exp2(z * -LOG2_E))
    return sigmoid * (1.0 + z * (1.0 - sigmoid))


@triton.jit
def piece(
    p_source, p_change, p_shift, p_statistics, p_weight, p_bias,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, GROUP: tl.constexpr, SLAB: tl.constexpr, PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Load a piece for both kernels: its position, n, the slope of the activation, and the change (t or g)."""
    SLABS: tl.constexpr = CHANNELS // SLAB
    PIECES: tl.constexpr = (PIXELS + ROWS - 1) // ROWS
    i_program = tl.program_id(0).to(tl.int64)
    sample, i_slab, i_piece = i_program // (SLABS * PIECES), i_program // PIECES % SLABS, i_program % PIECES
    channel, channel_mask, b_shift = slab_channels(p_shift, sample, i_slab, SLAB, CHANNELS, SHIFT, BLOCK_C)
    mean, reciprocal = load_statistics(p_statistics, sample, channel, channel_mask, CHANNELS, GROUP)
    b_weight = tl.load(p_weight + channel, mask=channel_mask, other=0.0).to(tl.float32)
    pixel = tl.arange(0, ROWS)
    offset = sample * (CHANNELS * PIXELS) + i_piece * (ROWS * PIXEL_STRIDE)
    offset += pixel[:, None] * PIXEL_STRIDE + channel[None, :].to(tl.int64) * CHANNEL_STRIDE
    mask = (pixel < PIXELS - i_piece * ROWS)[:, None] & channel_mask[None, :]
    b_h = tl.load(p_source + offset, mask=mask, other=0.0).to(tl.float32)  # [ROWS, BLOCK_C]
    if SHIFT:
        b_h += b_shift[None, :]
    b_n = tl.where(mask, (b_h * SCALE - mean[None, :]) * reciprocal[None, :], 0.0)
    b_slope = tl.full([ROWS, BLOCK_C], 1.0, tl.float32)
    if SILU:
        b_bias = tl.load(p_bias + channel, mask=channel_mask, other=0.0).to(tl.float32)
        b_slope = silu_slope(b_n * b_weight[None, :] + b_bias[None, :])
    b_change = tl.load(p_change + offset, mask=mask, other=0.0).to(tl.float32)
    return sample, i_piece, channel, channel_mask, offset, mask, b_n, b_slope, b_change, b_weight, reciprocal


@triton.jit
def gradient_sums_kernel(
    p_source,
    p_change,
    p_grad_h,
    p_shift,
    p_statistics,
    p_weight,
    p_bias,
    p_sums,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    SLAB: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    SILU: tl.constexpr,
    BACKWARD: tl.constexpr,
    GRAD_H: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store the sums of d, n d and, for a gradient, n and the gradient of h over a piece: (B, pieces, 4, C)."""
    PIECES: tl.constexpr = (PIXELS + ROWS - 1) // ROWS
    sample, i_piece, channel, channel_mask, offset, mask, b_n, b_slope, b_d, _weight, _reciprocal = piece(
        p_source, p_change, p_shift, p_statistics, p_weight, p_bias, PIXELS, CHANNELS, GROUP, SLAB, PIXEL_STRIDE,
        CHANNEL_STRIDE, SHIFT, SCALE, SILU and BACKWARD, ROWS, BLOCK_C,
    )  # fmt: skip
    b_d *= b_slope
    p_row = p_sums + (sample * PIECES + i_piece) * (4 * CHANNELS) + channel
    tl.store(p_row, tl.sum(b_d, 0), mask=channel_mask)
    tl.store(p_row + CHANNELS, tl.sum(b_n * b_d, 0), mask=channel_mask)
    if BACKWARD:
        tl.store(p_row + 2 * CHANNELS, tl.sum(b_n, 0), mask=channel_mask)
    if GRAD_H:
        b_grad_h = tl.load(p_grad_h + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(p_row + 3 * CHANNELS, tl.sum(b_grad_h, 0), mask=channel_mask)


@triton.jit
def gradient_apply_kernel(
    p_source,
    p_change,
    p_grad_h,
    p_shift,
    p_statistics,
    p_weight,
    p_bias,
    p_sums,
    p_out,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    SLAB: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    OUT_SCALE: tl.constexpr,
    SILU: tl.constexpr,
    BACKWARD: tl.constexpr,
    GRAD_H: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute the gradient of x, or the tangent of y, of a piece from the sums over all pieces, (B, 4, C)."""
    sample, _i_piece, channel, channel_mask, offset, mask, b_n, b_slope, b_d, b_weight, reciprocal = piece(
        p_source, p_change, p_shift, p_statistics, p_weight, p_bias, PIXELS, CHANNELS, GROUP, SLAB, PIXEL_STRIDE,
        CHANNEL_STRIDE, SHIFT, SCALE, SILU, ROWS, BLOCK_C,
    )  # fmt: skip
    p_row = p_sums + sample * (4 * CHANNELS) + channel
    sums = tl.load(p_row, mask=channel_mask, other=0.0)
    products = tl.load(p_row + CHANNELS, mask=channel_mask, other=0.0)
    if BACKWARD:
        b_d *= b_slope * b_weight[None, :]
        sums *= b_weight
        products *= b_weight
    mean_d, mean_product = group_mean(sums, GROUP) * (1.0 / PIXELS), group_mean(products, GROUP) * (1.0 / PIXELS)
    b_out = (b_d - mean_d[None, :] - b_n * mean_product[None, :]) * reciprocal[None, :]
    if BACKWARD:
        if GRAD_H:
            b_out += tl.load(p_grad_h + offset, mask=mask, other=0.0).to(tl.float32)
        b_out *= OUT_SCALE
    else:
        b_out *= b_slope * b_weight[None, :]
    tl.store(p_out + offset, narrow(b_out, p_out.dtype.element_ty), mask=mask)
