# SPDX-License-Identifier: Apache-2.0
"""GroupNorm and SiLU of slabs that registers do not hold, in three kernels: moments of pieces, statistics, the norm."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from scoresde_fast.kernels.group_norm_plan import PIECE, Plan, plan_of
from scoresde_fast.kernels.group_norm_tiles import (
    affine,
    load_statistics,
    load_tiles,
    moments,
    narrow,
    silu,
    slab_channels,
)
from scoresde_fast.kernels.specialisation import Specialisation


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
    """Mean and variance of x + shift, or of h, of a group in ROWS x TILES pixels: (B, G, pieces, 2)."""
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
    """Statistics of one group of h from the moments of its pieces."""
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
    """ROWS pixels of a slab of x or, with neither shift nor scale, of the stored h."""
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


def normalise_in_pieces(
    plan: Plan,
    x: Any,
    weight: Any,
    bias: Any,
    y: Any,
    joined: Any,
    statistics: Any,
    shift: Any,
    residual: Any,
    scale: float,
    eps: float,
    silu: bool,
) -> None:
    """Launch the three kernels; fills ``y``, ``statistics`` and, where there is a residual, ``joined``."""
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
    """(constants, warps) of each of the three kernels; ``shift`` is that of `slab_channels`."""
    piece = plan.piece(PIECE)
    tiles, warps = plan.tiles(piece)
    moments_of_pieces = {**plan.image, **tiles, "JOIN": join, "SHIFT": shift, "SCALE": scale}
    if join:  # what is stored has both
        shift, scale = 0, 1.0
    block = triton.next_power_of_2(triton.cdiv(plan.pixels, piece))
    statistics = {"PIXELS": plan.pixels, "SCALE": scale, "EPS": eps, "PIECE": piece, "BLOCK": block}
    rows = plan.piece(PIECE // 2)
    apply = {**plan.image, "SHIFT": shift, "SCALE": scale, "SILU": silu, "ROWS": rows}
    return (moments_of_pieces, warps), (statistics, 4), (apply, 4)


def specialisations() -> list[Specialisation]:
    """The images of NCSN++ that registers do not hold, channels_last: the widest of CIFAR-10, and those of FFHQ."""
    kernels = (group_moments_kernel, group_statistics_kernel, group_apply_kernel)
    images = {"p_x", "p_residual", "p_joined", "p_source", "p_y"}
    forms = []
    for channels, size in ((384, 32), (256, 64), (128, 256)):
        for dtype, itemsize in (("bf16", 2), ("fp32", 4)):
            for join in (False, True):
                plan = plan_of(channels, size * size, min(channels // 4, 32), itemsize, True, 2 if join else 1)
                if plan.fits(plan.slab):
                    continue
                kind, shift, scale = ("join", 0, 0.5**0.5) if join else ("shift", 2, 1.0)
                made = plan.piece(PIECE) * plan.slab, 1, plan.piece(PIECE // 2) * plan.slab
                launched = launch_forms(plan, join, shift, scale, 1e-6, True)
                for kernel, (constants, warps), elements in zip(kernels, launched, made, strict=True):
                    pointers = [name for name in kernel.arg_names if name.startswith("p_")]
                    forms.append(
                        Specialisation(
                            f"group_norm_silu, {kernel.fn.__name__}: {channels} @ {size}^2, {kind}, {dtype}",
                            kernel,
                            {name: f"*{dtype}" if name in images else "*fp32" for name in pointers},
                            constants,
                            elements,
                            aligned=tuple(pointers) if images & set(pointers) else (),
                            warps=warps,
                        )
                    )
    return forms
