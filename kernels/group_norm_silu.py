# SPDX-License-Identifier: Apache-2.0
"""(x + shift + residual) * scale, GroupNorm and SiLU of images, NCHW or channels_last.

A slab is every pixel of a few whole groups of one sample.  Where it fits into registers one kernel reads it once; where
it does not, `scoresde_fast.kernels.group_norm_pieces` has three.  All sums have a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import triton
import triton.language as tl
from scoresde_fast.kernels.group_norm_pieces import normalise_in_pieces
from scoresde_fast.kernels.group_norm_plan import MAX_WARPS, Plan, empty_float32, empty_image, plan_of
from scoresde_fast.kernels.group_norm_tiles import (
    affine,
    load,
    load_tiles,
    moments,
    narrow,
    normalised,
    packed,
    slab_channels,
    store,
    store_statistics,
    tile_mask,
)
from scoresde_fast.kernels.launch import Form
from scoresde_fast.kernels.specialisation import Specialisation


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
    """A slab of SLAB channels, held in registers."""
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
            # The rest comes from the cache once more: registers hold no more, see REGISTERS.
            for i_again in tl.static_range(KEPT, TILES):
                again = tile_mask(pixel, i_again, PIXELS, channel_mask)
                at = offset + i_again * ROWS * PIXEL_STRIDE
                sources = sources + (load(p_joined + at if JOIN else p_x + at, again, FULL),)  # noqa: RUF005
        b_y = normalised(packed(sources[i_tile]), mean, rest, b_shift, factor, addend, SILU)  # [ROWS, BLOCK_C]
        b_y = narrow(b_y, p_y.dtype.element_ty)
        store(p_y + start + offset + i_tile * ROWS * PIXEL_STRIDE, b_y, mask, FULL)


REGISTERS, KEPT = 128, 9
"""Registers of a thread with which two of the largest slabs fit into a multiprocessor, and the most tiles that stay in
them beside the work: with one more, a form spills on sm_100."""


@cache
def form_of(plan: Plan, join: bool, shift: int, scale: float, eps: float, silu: bool) -> Form | None:
    """The form of a slab that registers hold; None where they do not.  ``shift`` is that of `slab_channels`.

    Slabs of fewer warps have no register limit: several fit into a multiprocessor in any case, and a float32 join,
    which holds two images, would spill.
    """
    if not plan.fits(plan.slab):
        return None
    tiles, warps = plan.tiles(plan.pixels)
    of_plan = {**plan.image, **tiles, "KEPT": min(tiles["TILES"], KEPT)}
    constants = {**of_plan, "JOIN": join, "SHIFT": shift, "SCALE": scale, "EPS": eps, "SILU": silu}
    registers = REGISTERS if warps == MAX_WARPS else None
    return Form(group_norm_silu_kernel, constants, num_warps=warps, maxnreg=registers, enable_fp_fusion=True)


def group_norm_silu(
    x: Any,
    weight: Any,
    bias: Any,
    groups: int,
    eps: float,
    shift: Any,
    residual: Any,
    scale: float,
    silu: bool,
    resample: str,
    taps: Sequence[float],
) -> tuple[Any, Any, Any]:
    """Launch the kernels; the filter is one of its own."""
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
    filtered = import_module("scoresde_fast.kernels.fir_resample").fir_resample
    offset = len(taps) - 2 - (len(taps) - 1) // 2 if resample == "up" else len(taps) // 2
    return filtered(y, taps, resample, offset, 4.0 if resample == "up" else 1.0), joined, statistics


def specialisations() -> list[Specialisation]:
    """The shapes of NCSN++ on CIFAR-10, channels_last, after a convolution with a time bias and after a join."""
    shapes = [(128, 32), (256, 32), (384, 32), (256, 16), (384, 16), (512, 16), (256, 8), (512, 8), (256, 4), (512, 4)]
    forms = []
    for channels, size in shapes:
        for dtype, itemsize in (("bf16", 2), ("fp32", 4)):
            for join in (False, True):
                plan = plan_of(channels, size * size, min(channels // 4, 32), itemsize, True, 2 if join else 1)
                form = form_of(plan, join, 0 if join else 2, 0.5**0.5 if join else 1.0, 1e-6, True)
                if form is None:
                    continue
                images = ("p_x", "p_residual", "p_y", "p_joined")
                names = ("p_x", "p_residual", "p_shift", "p_weight", "p_bias", "p_y", "p_joined", "p_statistics")
                forms.append(
                    Specialisation(
                        label=f"group_norm_silu: {channels} @ {size}^2, {'join' if join else 'shift'}, {dtype}",
                        kernel=group_norm_silu_kernel,
                        signature={name: f"*{dtype}" if name in images else "*fp32" for name in names},
                        constants=form.constants,
                        elements=plan.pixels * plan.slab,
                        aligned=names,
                        warps=form.options["num_warps"],
                        maxnreg=form.options["maxnreg"],
                    )
                )
    return forms
