# SPDX-License-Identifier: Apache-2.0
"""``group_norm_silu``: h = (x + shift + residual) * scale, GroupNorm and SiLU of NCHW or channels_last images.

A slab consists of all pixels of a few whole groups of one sample.  If it fits into registers, one kernel reads it once.
Otherwise three kernels work on pieces of slabs: moments of the pieces, statistics of the groups, normalisation.  All
sums have a fixed order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import triton
import triton.language as tl
from scoresde_fast.kernels.fir_resample import fir_resample
from scoresde_fast.kernels.group_norm_plan import MAX_WARPS, PIECE, Plan, empty_image, plan_of
from scoresde_fast.kernels.group_norm_tiles import (
    affine,
    load,
    load_statistics,
    load_tiles,
    moments,
    narrow,
    normalised,
    packed,
    silu,
    slab_channels,
    store,
    store_statistics,
    tile_mask,
)
from scoresde_fast.kernels.launch import Form, empty_float32

REGISTERS = 128
"""Registers per thread with which two of the largest slabs fit into a multiprocessor."""
KEPT = 9
"""Maximum tiles that a thread keeps in registers: with one more, a variant spills on sm_100."""


@cache
def form_of(plan: Plan, join: bool, shift: int, scale: float, eps: float, silu: bool) -> Form | None:
    """Return the kernel form that keeps a slab in registers, or None if it does not fit.

    ``shift`` is the SHIFT of `slab_channels`.  Slabs with fewer than MAX_WARPS warps have no register limit: several
    fit into a multiprocessor anyway, and with a limit, float32 slabs with a residual (two images) would spill.
    """
    if not plan.fits(plan.slab):
        return None
    tiles, warps = plan.tiles(plan.pixels)
    of_shape = {**plan.image, **tiles, "KEPT": min(tiles["TILES"], KEPT)}
    constants = {**of_shape, "JOIN": join, "SHIFT": shift, "SCALE": scale, "EPS": eps, "SILU": silu}
    registers = REGISTERS if warps == MAX_WARPS else None
    return Form(group_norm_silu_kernel, constants, num_warps=warps, maxnreg=registers, enable_fp_fusion=True)


def group_norm_silu(x, weight, bias, groups, eps, shift, residual, scale, silu, resample, taps):
    """Launch the kernels; arguments and results as in the schema of ``scoresde_fast.ops.group_norm_silu``."""
    batch, channels, height, width = x.shape
    join = residual is not None
    plan = plan_of(channels, height * width, groups, x.element_size(), not x.is_contiguous(), 2 if join else 1)
    y = empty_image(x, plan.channels_last)
    joined = empty_image(x, plan.channels_last) if join else x.new_empty(0)
    statistics = empty_float32(x, (batch, groups, 2))
    shift_kind = 0 if shift is None else shift.ndim
    if not x.numel():
        statistics.zero_()
    elif (form := form_of(plan, join, shift_kind, scale, eps, silu)) is not None:
        form.launch(
            batch * (channels // plan.slab),
            x, residual if join else x, x if shift is None else shift, weight, bias, y, joined, statistics,
        )  # fmt: skip
    else:
        normalise_in_pieces(plan, x, weight, bias, y, joined, statistics, shift, residual, scale, eps, silu)
    if resample == "none":
        return y, joined, statistics
    offset = len(taps) - 2 - (len(taps) - 1) // 2 if resample == "up" else len(taps) // 2
    return fir_resample(y, taps, resample, offset, 4.0 if resample == "up" else 1.0), joined, statistics


def normalise_in_pieces(plan, x, weight, bias, y, joined, statistics, shift, residual, scale, eps, silu):
    """Launch the three kernels; they fill ``y``, ``statistics`` and, if there is a residual, ``joined``."""
    slabs, join = x.shape[0] * (plan.channels // plan.slab), residual is not None
    of_pieces, of_groups, of_images = launch_forms(plan, join, 0 if shift is None else shift.ndim, scale, eps, silu)
    pieces = triton.cdiv(plan.pixels, plan.piece(PIECE))
    moments_of_pieces = statistics.new_empty((x.shape[0], plan.groups, pieces, 2))
    constants, warps = of_pieces
    group_moments_kernel[(slabs * pieces,)](
        x, residual if join else x, x if shift is None else shift, joined, moments_of_pieces,
        **constants, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip
    constants, warps = of_groups
    group_statistics_kernel[(x.shape[0] * plan.groups,)](
        moments_of_pieces, statistics, **constants, num_warps=warps, enable_fp_fusion=True
    )
    constants, warps = of_images
    group_apply_kernel[(slabs * triton.cdiv(plan.pixels, constants["ROWS"]),)](
        joined if join else x, x if shift is None else shift, weight, bias, y, statistics,
        **constants, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


def launch_forms(
    plan: Plan, join: bool, shift: int, scale: float, eps: float, silu: bool
) -> tuple[tuple[dict[str, Any], int], ...]:
    """Return (constants, warps) of each of the three kernels; ``shift`` is the SHIFT of `slab_channels`."""
    piece = plan.piece(PIECE)
    tiles, warps = plan.tiles(piece)
    moments_of_pieces = {**plan.image, **tiles, "JOIN": join, "SHIFT": shift, "SCALE": scale}
    if join:  # the stored h includes shift and scale
        shift, scale = 0, 1.0
    block = triton.next_power_of_2(triton.cdiv(plan.pixels, piece))
    statistics = {"PIXELS": plan.pixels, "SCALE": scale, "EPS": eps, "PIECE": piece, "BLOCK": block}
    rows = plan.piece(PIECE // 2)
    apply = {**plan.image, "SHIFT": shift, "SCALE": scale, "SILU": silu, "ROWS": rows}
    return (moments_of_pieces, warps), (statistics, 4), (apply, 4)


@triton.jit
def group_norm_silu_kernel(
    p_x,
    p_residual,
    p_shift,
    p_weight,
    p_bias,
    p_y,
    p_joined,
    p_statistics,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    SLAB: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    JOIN: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    EPS: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute y, h and the statistics of a slab of SLAB channels, kept in registers."""
    SLABS: tl.constexpr = CHANNELS // SLAB
    FULL: tl.constexpr = ROWS * TILES == PIXELS and BLOCK_C == SLAB
    i_program = tl.program_id(0).to(tl.int64)
    sample = i_program // SLABS
    channel, channel_mask, b_shift = slab_channels(p_shift, sample, i_program % SLABS, SLAB, CHANNELS, SHIFT, BLOCK_C)
    start = sample * (CHANNELS * PIXELS)
    p_x += start
    p_residual += start
    p_joined += start
    pixel = tl.arange(0, ROWS)
    origin = channel * CHANNEL_STRIDE
    offset = pixel[:, None] * PIXEL_STRIDE + origin[None, :]
    tiles = load_tiles(
        p_x, p_residual, p_joined, b_shift, offset, pixel, PIXELS, channel_mask,
        JOIN, SHIFT, SCALE, PIXEL_STRIDE, TILES, FULL,
    )  # fmt: skip
    # Without a residual these are the moments of x + shift; the scale and the shift go into the norm's coefficients.
    RESCALE: tl.constexpr = 1.0 if JOIN else SCALE
    b_shift = b_shift * 0.0 if JOIN else b_shift
    mean, rest, variance = moments(tiles, b_shift, pixel, PIXELS, channel_mask, FULL, GROUP)
    reciprocal = 1.0 / tl.sqrt_rn(variance * (RESCALE * RESCALE) + EPS)
    store_statistics(p_statistics, sample, channel, channel_mask, (mean + rest) * RESCALE, reciprocal, CHANNELS, GROUP)
    factor, addend = affine(p_weight, p_bias, channel, channel_mask, reciprocal * RESCALE)
    sources = ()
    for i_tile in tl.static_range(TILES):
        if i_tile < KEPT:
            sources = sources + (packed(tiles[i_tile]),)  # noqa: RUF005
    for i_tile in tl.static_range(TILES):
        mask = tile_mask(pixel, i_tile, PIXELS, channel_mask)
        if i_tile == KEPT:
            # The remaining tiles do not fit into registers (see KEPT) and are read again, from the cache.
            for i_again in tl.static_range(KEPT, TILES):
                again = tile_mask(pixel, i_again, PIXELS, channel_mask)
                at = offset + i_again * ROWS * PIXEL_STRIDE
                sources = sources + (load(p_joined + at if JOIN else p_x + at, again, FULL),)  # noqa: RUF005
        b_y = normalised(packed(sources[i_tile]), mean, rest, b_shift, factor, addend, SILU)  # [ROWS, BLOCK_C]
        b_y = narrow(b_y, p_y.dtype.element_ty)
        store(p_y + start + offset + i_tile * ROWS * PIXEL_STRIDE, b_y, mask, FULL)


@triton.jit
def group_moments_kernel(
    p_x,
    p_residual,
    p_shift,
    p_joined,
    p_moments,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    SLAB: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    JOIN: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store mean and variance of x + shift, or of h, over ROWS x TILES pixels of each group: (B, G, pieces, 2)."""
    SLABS: tl.constexpr = CHANNELS // SLAB
    PIECE: tl.constexpr = ROWS * TILES
    PIECES: tl.constexpr = (PIXELS + PIECE - 1) // PIECE
    i_program = tl.program_id(0).to(tl.int64)
    sample, i_slab, i_piece = i_program // (SLABS * PIECES), i_program // PIECES % SLABS, i_program % PIECES
    channel, channel_mask, b_shift = slab_channels(p_shift, sample, i_slab, SLAB, CHANNELS, SHIFT, BLOCK_C)
    start = sample * (CHANNELS * PIXELS) + i_piece * (PIECE * PIXEL_STRIDE)
    count = tl.minimum(PIXELS - i_piece * PIECE, PIECE).to(tl.int32)
    p_x += start
    p_residual += start
    p_joined += start
    pixel = tl.arange(0, ROWS)
    origin = channel.to(tl.int64) * CHANNEL_STRIDE
    offset = pixel[:, None] * PIXEL_STRIDE + origin[None, :]
    tiles = load_tiles(
        p_x, p_residual, p_joined, b_shift, offset, pixel, count, channel_mask,
        JOIN, SHIFT, SCALE, PIXEL_STRIDE, TILES, False,
    )  # fmt: skip
    b_shift = b_shift * 0.0 if JOIN else b_shift
    mean, rest, variance = moments(tiles, b_shift, pixel, count, channel_mask, False, GROUP)
    p_group = p_moments + ((sample * (CHANNELS // GROUP) + channel // GROUP) * PIECES + i_piece) * 2
    channel_mask &= channel % GROUP == 0
    tl.store(p_group, mean + rest, mask=channel_mask)
    tl.store(p_group + 1, variance, mask=channel_mask)


@triton.jit
def group_statistics_kernel(
    p_moments,
    p_statistics,
    PIXELS: tl.constexpr,
    SCALE: tl.constexpr,
    EPS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute the statistics of one group of h from the moments of its pieces."""
    PIECES: tl.constexpr = (PIXELS + PIECE - 1) // PIECE
    i_group = tl.program_id(0).to(tl.int64)
    i_piece = tl.arange(0, BLOCK)
    p_piece = p_moments + (i_group * PIECES + i_piece) * 2
    means = tl.load(p_piece, mask=i_piece < PIECES, other=0.0)
    variances = tl.load(p_piece + 1, mask=i_piece < PIECES, other=0.0)
    pivot = tl.load(p_moments + i_group * PIECES * 2)
    share = tl.maximum(tl.minimum(PIXELS - i_piece * PIECE, PIECE), 0).to(tl.float32) * (1.0 / PIXELS)
    mean = pivot + tl.sum((means - pivot) * share, 0)
    variance = tl.sum((variances + (means - mean) * (means - mean)) * share, 0)
    tl.store(p_statistics + i_group * 2, mean * SCALE)
    tl.store(p_statistics + i_group * 2 + 1, 1.0 / tl.sqrt_rn(variance * (SCALE * SCALE) + EPS))


@triton.jit
def group_apply_kernel(
    p_source,
    p_shift,
    p_weight,
    p_bias,
    p_y,
    p_statistics,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP: tl.constexpr,
    SLAB: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    SHIFT: tl.constexpr,
    SCALE: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Normalise ROWS pixels of a slab of x, or of the stored h (with SHIFT 0 and SCALE 1)."""
    SLABS: tl.constexpr = CHANNELS // SLAB
    PIECES: tl.constexpr = (PIXELS + ROWS - 1) // ROWS
    i_program = tl.program_id(0).to(tl.int64)
    sample, i_slab, i_piece = i_program // (SLABS * PIECES), i_program // PIECES % SLABS, i_program % PIECES
    channel, channel_mask, b_shift = slab_channels(p_shift, sample, i_slab, SLAB, CHANNELS, SHIFT, BLOCK_C)
    mean, reciprocal = load_statistics(p_statistics, sample, channel, channel_mask, CHANNELS, GROUP)
    factor, addend = affine(p_weight, p_bias, channel, channel_mask, reciprocal)
    start = sample * (CHANNELS * PIXELS) + i_piece * (ROWS * PIXEL_STRIDE)
    pixel = tl.arange(0, ROWS)
    offset = pixel[:, None] * PIXEL_STRIDE + channel[None, :].to(tl.int64) * CHANNEL_STRIDE
    mask = (pixel < PIXELS - i_piece * ROWS)[:, None] & channel_mask[None, :]
    b_h = tl.load(p_source + start + offset, mask=mask, other=0.0).to(tl.float32)  # [ROWS, BLOCK_C]
    if SHIFT:
        b_h += b_shift[None, :]
    b_z = (b_h * SCALE - mean[None, :]) * factor[None, :] + addend[None, :]
    if SILU:
        b_z = silu(b_z, p_y.dtype.element_ty == tl.float32)
    tl.store(p_y + start + offset, narrow(b_z, p_y.dtype.element_ty), mask=mask)
