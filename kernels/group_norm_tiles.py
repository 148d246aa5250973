# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the GroupNorm kernels: tiles of a slab, moments, normalisation, SiLU and rounding."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def narrow(values, dtype: tl.constexpr):
    """Round float32 ``values`` to ``dtype``, to nearest with ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:  # the interpreter would round towards zero
        bits = values.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
        values = tl.where(values == values, rounded, values)
    return values.to(dtype)


@triton.jit
def silu(z, PRECISE: tl.constexpr):
    """Return z / (1 + e^-z).

    Unless PRECISE, a squared reciprocal square root replaces the division; it is faster and loses two bits.
    """
    one_more = 1.0 + tl.exp2(z * -LOG2_E)
    if PRECISE:
        return z / one_more
    else:
        root = tl.rsqrt(one_more)
        return z * root * root


@triton.jit
def group_mean(values, GROUP: tl.constexpr):
    """Return for each channel of a slab the mean of ``values`` over its group of GROUP channels."""
    BLOCK: tl.constexpr = values.shape[0]
    if GROUP & (GROUP - 1) == 0:
        sums = tl.sum(tl.reshape(values, [BLOCK // GROUP, GROUP]), 1)  # [BLOCK / GROUP]
        sums = tl.reshape(tl.broadcast_to(sums[:, None], [BLOCK // GROUP, GROUP]), [BLOCK])
    else:
        group = tl.arange(0, BLOCK) // GROUP
        same = group[:, None] == group[None, :]  # [BLOCK, BLOCK]
        sums = tl.sum(tl.where(same, values[None, :], 0.0), 1)
    return sums * (1.0 / GROUP)


@triton.jit
def packed(values):
    """Return ``values``; if they have 16 bits, keep the compiler from storing their float32 conversion.

    A slab fits into registers in 16 bits, but not in float32.
    """
    if not INTERPRETED and values.dtype.primitive_bitwidth == 16:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [values], values.dtype, is_pure=False, pack=2)
    return values


@triton.jit
def tile_mask(pixel, i_tile: tl.constexpr, count, channel_mask):
    """Return the mask of the existing elements of a tile."""
    return (pixel + i_tile * pixel.shape[0] < count)[:, None] & channel_mask[None, :]


@triton.jit
def load(pointers, mask, FULL: tl.constexpr):
    """Load a tile, with zeros outside the mask; a FULL tile ignores the mask."""
    if FULL:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def store(pointers, values, mask, FULL: tl.constexpr):
    """Store a tile; a FULL tile ignores the mask."""
    if FULL:
        tl.store(pointers, values)
    else:
        tl.store(pointers, values, mask=mask)


@triton.jit
def load_tiles(
    p_x, p_residual, p_joined, b_shift, offset, pixel, count, channel_mask,
    JOIN: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, PIXEL_STRIDE: tl.constexpr, TILES: tl.constexpr,
    FULL: tl.constexpr,
):  # fmt: skip
    """Return a slab of x as a tuple of TILES tiles of pixels; with a residual (JOIN) store and return h instead.

    The kernels work on one tile at a time, so that few values are in float32 at once.
    """
    tiles = ()
    for i_tile in tl.static_range(TILES):
        mask = tile_mask(pixel, i_tile, count, channel_mask)
        tiles = tiles + (load(p_x + offset + i_tile * pixel.shape[0] * PIXEL_STRIDE, mask, FULL),)  # noqa: RUF005
    if not JOIN:
        return tiles
    joined = ()
    for i_tile in tl.static_range(TILES):
        mask = tile_mask(pixel, i_tile, count, channel_mask)
        b_r = load(p_residual + offset + i_tile * pixel.shape[0] * PIXEL_STRIDE, mask, FULL)
        b_h = packed(tiles[i_tile]).to(tl.float32) + b_r.to(tl.float32)
        if SHIFT:
            b_h += b_shift[None, :]
        joined = joined + (packed(narrow(b_h * SCALE, p_joined.dtype.element_ty)),)  # noqa: RUF005
    # Stores follow the last load, so that no load waits for a store.
    for i_tile in tl.static_range(TILES):
        mask = tile_mask(pixel, i_tile, count, channel_mask)
        store(p_joined + offset + i_tile * pixel.shape[0] * PIXEL_STRIDE, joined[i_tile], mask, FULL)
    return joined


@triton.jit
def two_sum(a, b):
    """Return a + b rounded, and the rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
def moments(tiles, b_shift, pixel, count, channel_mask, FULL: tl.constexpr, GROUP: tl.constexpr):
    """Return for each channel the mean and variance of source + shift over its group and ``count`` pixels.

    Sums of differences from the channel's mean in the first tile are accurate even if the mean is far from zero.  Two
    passes would convert everything twice.  The mean is returned as an unevaluated sum of two numbers.
    """
    ROWS: tl.constexpr = pixel.shape[0]
    first = tl.sum(packed(tiles[0]).to(tl.float32), 0)
    pivot = first * (1.0 / ROWS) if FULL else first / tl.minimum(count, ROWS)  # [BLOCK_C]
    sums = tl.zeros([ROWS, pivot.shape[0]], tl.float32)
    squares = tl.zeros([ROWS, pivot.shape[0]], tl.float32)
    for i_tile in tl.static_range(len(tiles)):
        deviation = packed(tiles[i_tile]).to(tl.float32) - pivot[None, :]
        if not FULL:
            deviation = tl.where(tile_mask(pixel, i_tile, count, channel_mask), deviation, 0.0)
        sums += deviation
        squares += deviation * deviation
    apart = tl.sum(sums, 0) / count
    within = tl.maximum(tl.sum(squares, 0) / count - apart * apart, 0.0)
    shifted, left = two_sum(pivot, b_shift)
    mean = group_mean(shifted, GROUP)
    apart += (shifted - mean) + left
    rest = group_mean(apart, GROUP)
    return mean, rest, group_mean(within + (apart - rest) * (apart - rest), GROUP)


@triton.jit
def normalised(b_source, mean, rest, b_shift, factor, addend, SILU: tl.constexpr):
    """Return SiLU of (source + shift - mean - rest) factor + addend, in float32.

    For 16-bit sources a shorter formula is accurate enough: cancellation cannot lose digits that they do not have.
    """
    centre, left = two_sum(mean, -b_shift)
    rest += left
    NARROW: tl.constexpr = b_source.dtype.primitive_bitwidth == 16
    if NARROW:
        b_z = b_source.to(tl.float32) * factor[None, :] + (addend - (centre + rest) * factor)[None, :]
    else:
        b_z = ((b_source - centre[None, :]) - rest[None, :]) * factor[None, :] + addend[None, :]
    return silu(b_z, not NARROW) if SILU else b_z


@triton.jit
def store_statistics(
    p_statistics, sample, channel, mask, mean, reciprocal, CHANNELS: tl.constexpr, GROUP: tl.constexpr
):
    """Store mean and reciprocal of each group; the lane of the group's first channel writes them."""
    p_group = p_statistics + (sample * (CHANNELS // GROUP) + channel // GROUP) * 2
    mask &= channel % GROUP == 0
    tl.store(p_group, mean, mask=mask)
    tl.store(p_group + 1, reciprocal, mask=mask)


@triton.jit
def load_statistics(p_statistics, sample, channel, mask, CHANNELS: tl.constexpr, GROUP: tl.constexpr):
    """Return for each channel of a slab the mean and reciprocal standard deviation of its group."""
    BLOCK: tl.constexpr = channel.shape[0]
    p_sample = p_statistics + sample * (CHANNELS // GROUP * 2)
    if GROUP & (GROUP - 1) == 0:
        p_group = p_sample + channel // GROUP * 2
        return tl.load(p_group, mask=mask, other=0.0), tl.load(p_group + 1, mask=mask, other=0.0)
    else:
        # Load per group; per channel, all threads would load the same few numbers.
        GROUPS: tl.constexpr = BLOCK // (2 if GROUP < 4 else 4 if GROUP < 8 else 8 if GROUP < 16 else 16)
        group = tl.min(channel, 0) // GROUP + tl.arange(0, GROUPS)
        member = (channel // GROUP)[:, None] == group[None, :]  # [BLOCK, GROUPS]
        means = tl.load(p_sample + group * 2, mask=group < CHANNELS // GROUP, other=0.0)
        reciprocals = tl.load(p_sample + group * 2 + 1, mask=group < CHANNELS // GROUP, other=0.0)
        mean = tl.sum(tl.where(member, means[None, :], 0.0), 1)
        return mean, tl.sum(tl.where(member, reciprocals[None, :], 0.0), 1)


@triton.jit
def slab_channels(p_shift, sample, i_slab, SLAB: tl.constexpr, CHANNELS: tl.constexpr, SHIFT: tl.constexpr,
                  BLOCK_C: tl.constexpr):  # fmt: skip
    """Return the channels of a slab, their mask and their shifts.  SHIFT: 0 for no shift, 1 for (C,), 2 for (B, C)."""
    in_slab = tl.arange(0, BLOCK_C)
    channel, mask = i_slab.to(tl.int32) * SLAB + in_slab, in_slab < SLAB
    b_shift = tl.zeros([BLOCK_C], tl.float32)
    if SHIFT:
        row = sample * CHANNELS if SHIFT == 2 else 0
        b_shift = tl.load(p_shift + row + channel, mask=mask, other=0.0).to(tl.float32)
    return channel, mask, b_shift


@triton.jit
def affine(p_weight, p_bias, channel, mask, reciprocal):
    """Return the norm's factor and addend of each channel."""
    b_weight = tl.load(p_weight + channel, mask=mask, other=0.0).to(tl.float32)
    return reciprocal * b_weight, tl.load(p_bias + channel, mask=mask, other=0.0).to(tl.float32)
