# SPDX-License-Identifier: Apache-2.0
"""``convolution``: convolution, bias and scaled residual as an implicit GEMM.

The rows are the B H W pixels and the columns the K output channels.  The reduction runs over taps and input channels
in the memory order of the weight.  The matrix of patches is never stored: each tap reads a shifted tile of pixels, with
zeros outside the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from scoresde_fast.kernels.group_norm_tiles import INTERPRETED, narrow

ENOUGH_PROGRAMS = 120
"""Minimum programs for which a larger tile is chosen: nine tenths of Hopper's 132 multiprocessors."""


@triton.jit
def matmul(a, b, accumulator, PRECISION: tl.constexpr):
    """Return accumulator + a b in float32."""
    if INTERPRETED:  # the interpreter would multiply the bit patterns of bfloat16 as integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def convolution_kernel(
    p_y,
    p_x,
    p_weight,
    p_bias,
    p_residual,
    pixels,
    height,
    width,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    JOIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute BLOCK_N output channels of BLOCK_M pixels; ``pixels`` is the number of pixels of all images."""
    TILES_N: tl.constexpr = (OUTPUTS + BLOCK_N - 1) // BLOCK_N
    SLABS: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    # Output channels vary fastest, so that pixels are read from memory once; the weights stay in the L2 cache anyway.
    i_m = (tl.program_id(0) // TILES_N).to(tl.int64)
    i_n = tl.program_id(0) % TILES_N
    first = i_m * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    position = (first % (height * width)).to(tl.int32) + row
    row_mask = row < pixels - first
    vertical = position // width % height
    horizontal = position % width
    output = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    output_mask = output < OUTPUTS if OUTPUTS % BLOCK_N else tl.full([BLOCK_N], True, tl.int1)
    in_slab = tl.arange(0, BLOCK_C)

    p_rows = p_x + first * CHANNELS + row[:, None] * CHANNELS + in_slab[None, :]  # [BLOCK_M, BLOCK_C]
    p_columns = p_weight + output[None, :] * (SIDE * SIDE * CHANNELS) + in_slab[:, None]  # [BLOCK_C, BLOCK_N]
    accumulator = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if BIAS:
        accumulator += tl.load(p_bias + output, mask=output_mask, other=0.0).to(tl.float32)[None, :]
    for i in range(SIDE * SIDE * SLABS):
        tap, channel = i // SLABS, i % SLABS * BLOCK_C
        down, right = tap // SIDE - SIDE // 2, tap % SIDE - SIDE // 2
        mask = row_mask
        if SIDE > 1:
            y, x = vertical + down, horizontal + right
            mask = mask & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        channel_mask = channel + in_slab < CHANNELS if CHANNELS % BLOCK_C else tl.full([BLOCK_C], True, tl.int1)
        shift = (down * width + right) * CHANNELS + channel
        b_x = tl.load(p_rows + shift, mask=mask[:, None] & channel_mask[None, :], other=0.0)
        b_weight = tl.load(
            p_columns + (tap * CHANNELS + channel), mask=channel_mask[:, None] & output_mask[None, :], other=0.0
        )
        accumulator = matmul(b_x, b_weight, accumulator, PRECISION)

    # Store two halves, because the residual and the accumulator do not both fit into registers.
    PART: tl.constexpr = BLOCK_N // 2
    b_parts = tl.split(tl.permute(tl.reshape(accumulator, [BLOCK_M, 2, PART]), (0, 2, 1)))
    for part in tl.static_range(2):
        b_y = b_parts[part]  # [BLOCK_M, PART]
        output = i_n * BLOCK_N + part * PART + tl.arange(0, PART)
        mask = row_mask[:, None] & (output < OUTPUTS)[None, :] if OUTPUTS % BLOCK_N else row_mask[:, None]
        offset = first * OUTPUTS + (row[:, None] * OUTPUTS + output[None, :])
        if JOIN:
            b_y += SCALE * tl.load(p_residual + offset, mask=mask, other=0.0).to(tl.float32)
        tl.store(p_y + offset, narrow(b_y, p_y.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Tile:
    """Block sizes (m pixels, n output channels, c input channels) and launch options."""

    m: int
    n: int
    c: int
    warps: int
    stages: int


# For each precision of the products, largest first; all fit the shared memory of sm_80.  The part "convolutions" of the
# GPU benchmarks measures whether this order is the best.
TILES = {
    "16 bits": (
        Tile(128, 256, 64, 8, 3),
        Tile(256, 128, 64, 8, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 64, 64, 4, 4),
    ),
    "tf32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
    "ieee": (Tile(64, 64, 16, 8, 2), Tile(32, 32, 16, 4, 2)),
}


def candidates(channels: int, outputs: int, itemsize: int, tf32: bool) -> list[Tile]:
    """Return the tiles that divide the output channels, or all if none does, cut to the convolution's channels."""
    precision_of_float32 = "tf32" if tf32 else "ieee"
    tiles = TILES["16 bits" if itemsize == 2 else precision_of_float32]
    most_n, most_c = (max(16, triton.next_power_of_2(size)) for size in (outputs, channels))
    fitting = [tile for tile in tiles if outputs % tile.n == 0] or tiles
    cut = [Tile(tile.m, min(tile.n, most_n), min(tile.c, most_c), tile.warps, tile.stages) for tile in fitting]
    return list(dict.fromkeys(cut))


def choose_tile(pixels: int, channels: int, outputs: int, itemsize: int, tf32: bool) -> Tile:
    """Return the largest tile with enough programs to occupy the GPU, or else the smallest."""
    tiles = candidates(channels, outputs, itemsize, tf32)
    enough = (tile for tile in tiles if _programs(tile, pixels, outputs) >= ENOUGH_PROGRAMS)
    return next(enough, tiles[-1])


def _programs(tile: Tile, pixels: int, outputs: int) -> int:
    return triton.cdiv(pixels, tile.m) * triton.cdiv(outputs, tile.n)


def constants(tile: Tile, channels: int, outputs: int, side: int, tf32: bool) -> dict[str, int | str]:
    """Return the constants of the kernel that depend on the shape and the tile."""
    return {
        "CHANNELS": channels,
        "OUTPUTS": outputs,
        "SIDE": side,
        "PRECISION": "tf32" if tf32 else "ieee",
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_C": tile.c,
    }


def convolution(
    x: Any, weight: Any, bias: Any, residual: Any, scale: float, tf32: bool = False, tile: Tile | None = None
) -> Any:
    """Launch the kernel, by default with the tile of `choose_tile`.

    Raises:
        ValueError: a tensor is not channels_last, or the dtype is float64.
    """
    for name, tensor in {"x": x, "weight": weight, "residual": residual}.items():
        if tensor is not None and not tensor.permute(0, 2, 3, 1).is_contiguous():
            raise ValueError(
                f"the convolution kernel reads channels_last memory, but {name} has strides {tuple(tensor.stride())} "
                f"for shape {tuple(tensor.shape)}: call .contiguous(memory_format=torch.channels_last)"
            )
    if x.element_size() == 8:
        raise ValueError("the convolution kernel takes float32, bfloat16 and float16, not float64: use the reference")
    batch, channels, height, width = x.shape
    outputs, side, pixels = weight.shape[0], weight.shape[2], batch * height * width
    y = x.new_empty((batch, height, width, outputs)).permute(0, 3, 1, 2)
    if not y.numel():
        return y
    tile = tile or choose_tile(pixels, channels, outputs, x.element_size(), tf32)
    convolution_kernel[(_programs(tile, pixels, outputs),)](
        y,
        x,
        weight,
        y if bias is None else bias,
        y if residual is None else residual,
        pixels,
        height,
        width,
        SCALE=scale,
        BIAS=bias is not None,
        JOIN=residual is not None,
        **constants(tile, channels, outputs, side, tf32),
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,
    )
    return y
