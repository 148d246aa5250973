# SPDX-License-Identifier: Apache-2.0
"""``fir_resample``: polyphase resampling by two with a separable filter, in one pass.

Along an axis, output N i + n reads input M i + s with tap A n + OFFSET - B s, if that tap exists.  A = 1 and B = 2 for
"up", A = 2 and B = 1 for "down", and M = A N / B.  A thread computes N neighbouring outputs of each axis, which share
their inputs; inputs shared between threads are read from the L1 cache.  Sums are float32, or float64 for float64.
"""

# ruff: noqa: RUF005 - Triton's tuples have no unpacking

import triton
import triton.language as tl
from scoresde_fast.kernels.group_norm_tiles import narrow


@triton.jit
def _weighted(b_sums, b_values, TAPS: tl.constexpr, A: tl.constexpr, FIRST: tl.constexpr):
    """Add tap A n + FIRST times the values to the n-th group of sums, if that tap exists."""
    b_new = ()
    for k in tl.static_range(len(b_sums)):
        if A * (k // len(b_values)) + FIRST >= 0 and A * (k // len(b_values)) + FIRST < len(TAPS):
            b_term = b_values[k % len(b_values)] * TAPS[A * (k // len(b_values)) + FIRST]
            b_new = b_new + (b_sums[k] + b_term,)
        else:
            b_new = b_new + (b_sums[k],)
    return b_new


@triton.jit
def _lanes(b_x, BLOCK: tl.constexpr, V: tl.constexpr):
    """Split [BLOCK, V] into a tuple of V tensors [BLOCK]."""
    b_lanes = (b_x,)
    for level in tl.static_range(V.bit_length() - 1):
        b_even, b_odd = (), ()
        for k in tl.static_range(len(b_lanes)):
            b_first, b_second = tl.split(tl.reshape(b_lanes[k], [BLOCK, (V >> level) // 2, 2]))
            b_even, b_odd = b_even + (b_first,), b_odd + (b_second,)
        b_lanes = b_even + b_odd
    b_flat = ()
    for k in tl.static_range(V):
        b_flat = b_flat + (tl.reshape(b_lanes[k], [BLOCK]),)
    return b_flat


@triton.jit
def _joined(b_lanes, FIRST: tl.constexpr, BLOCK: tl.constexpr, V: tl.constexpr):
    """Join the V lanes from FIRST on to [BLOCK, V]."""
    b_parts = ()
    for k in tl.static_range(V):
        b_parts = b_parts + (tl.reshape(b_lanes[FIRST + k], [BLOCK, 1]),)
    for level in tl.static_range(V.bit_length() - 1):
        b_wider = ()
        for k in tl.static_range((V >> level) // 2):
            b_pair = tl.join(b_parts[k], b_parts[k + (V >> level) // 2])
            b_wider = b_wider + (tl.reshape(b_pair, [BLOCK, 2 << level]),)
        b_parts = b_wider
    return b_parts[0]


@triton.jit
def fir_resample_channels_last_kernel(
    p_x,
    p_out,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    UP: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    ROW_TAPS: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    WIDE: tl.constexpr,
):
    A: tl.constexpr = 1 if UP else 2
    B: tl.constexpr = 2 if UP else 1
    COLUMNS: tl.constexpr = 2 if UP else 1
    OUT_H: tl.constexpr = 2 * H if UP else H // 2
    OUT_W: tl.constexpr = 2 * W if UP else W // 2
    GRID_W: tl.constexpr = OUT_W // COLUMNS
    PIXELS: tl.constexpr = (OUT_H + 1) // 2 * GRID_W
    LOW: tl.constexpr = -((len(ROW_TAPS) - 1 - OFFSET) // B)
    accumulate = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32

    pid = tl.program_id(0)
    i_c = pid % tl.cdiv(C, BLOCK_C)
    i_p = pid // tl.cdiv(C, BLOCK_C) % tl.cdiv(PIXELS, BLOCK_P)
    i_image = (pid // (tl.cdiv(C, BLOCK_C) * tl.cdiv(PIXELS, BLOCK_P))).to(tl.int64)
    p_x += i_image * H * W * C
    p_out += i_image * OUT_H * OUT_W * C

    c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]  # [1, BLOCK_C]
    pixel = i_p * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]  # [BLOCK_P, 1]
    if WIDE:
        pixel = pixel.to(tl.int64)
    i, j = pixel // GRID_W, pixel % GRID_W
    inside = (pixel < PIXELS) & (c < C)

    b_zero = tl.zeros([BLOCK_P, BLOCK_C], accumulate)
    b_out = (b_zero,) * (2 * COLUMNS)  # two rows
    for r in tl.static_range(LOW, (A + OFFSET) // B + 1):
        b_row = (b_zero,) * COLUMNS
        for s in tl.static_range(LOW, (A * (COLUMNS - 1) + OFFSET) // B + 1):
            y, x = 2 * A // B * i + r, COLUMNS * A // B * j + s
            mask = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
            b_x = tl.load(p_x + (y * W + x) * C + c, mask, other=0.0).to(accumulate)
            b_row = _weighted(b_row, (b_x,), ROW_TAPS, A, OFFSET - B * s)
        b_out = _weighted(b_out, b_row, COLUMN_TAPS, A, OFFSET - B * r)
    for k in tl.static_range(2 * COLUMNS):
        y, x = 2 * i + k // COLUMNS, COLUMNS * j + k % COLUMNS
        tl.store(p_out + (y * OUT_W + x) * C + c, narrow(b_out[k], p_out.dtype.element_ty), inside & (y < OUT_H))


@triton.jit(do_not_specialize=["planes"])
def fir_resample_kernel(
    p_x,
    p_out,
    planes: tl.int64,
    H: tl.constexpr,
    W: tl.constexpr,
    UP: tl.constexpr,
    COLUMN_TAPS: tl.constexpr,
    ROW_TAPS: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    V: tl.constexpr,
    WIDE: tl.constexpr,
):
    A: tl.constexpr = 1 if UP else 2
    B: tl.constexpr = 2 if UP else 1
    OUT_H: tl.constexpr = 2 * H if UP else H // 2
    OUT_W: tl.constexpr = 2 * W if UP else W // 2
    GRID_H: tl.constexpr = (OUT_H + 1) // 2
    GRID_W: tl.constexpr = OUT_W // COLUMNS
    LOW: tl.constexpr = -((len(ROW_TAPS) - 1 - OFFSET) // B)
    HIGH: tl.constexpr = (A * (COLUMNS - 1) + OFFSET) // B
    accumulate = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32

    if WIDE:
        group = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    else:
        group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j, row = group % GRID_W, group // GRID_W
    i, plane = row % GRID_H, row // GRID_H
    lane = tl.arange(0, V)[None, :]  # [1, V]

    b_zero = tl.zeros([BLOCK], accumulate)
    b_out = (b_zero,) * (2 * COLUMNS)  # two rows
    for r in tl.static_range(LOW, (A + OFFSET) // B + 1):
        y = 2 * A // B * i + r
        b_row = (b_zero,) * COLUMNS
        for v in tl.static_range(LOW // V, HIGH // V + 1):
            x = COLUMNS * A // B * j + v * V
            mask = (plane < planes) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
            b_x = tl.load(p_x + ((plane * H + y) * W + x)[:, None] + lane, mask[:, None], other=0.0)  # [BLOCK, V]
            b_lanes = _lanes(b_x.to(accumulate), BLOCK, V)
            for k in tl.static_range(V):
                b_row = _weighted(b_row, (b_lanes[k],), ROW_TAPS, A, OFFSET - B * (v * V + k))
        b_out = _weighted(b_out, b_row, COLUMN_TAPS, A, OFFSET - B * r)
    for n in tl.static_range(2):
        y = 2 * i + n
        at = ((plane * OUT_H + y) * OUT_W + COLUMNS * j)[:, None] + lane
        mask = ((plane < planes) & (y < OUT_H))[:, None]
        for v in tl.static_range(COLUMNS // V):
            b_part = _joined(b_out, n * COLUMNS + v * V, BLOCK, V)
            tl.store(p_out + at + v * V, narrow(b_part, p_out.dtype.element_ty), mask)


def fir_resample(x, taps, direction, offset, gain):
    """Launch the kernel of x's memory format; see the schema of ``scoresde_fast.ops.fir_resample``."""
    batch, channels, height, width = x.shape
    up, channels_last = direction == "up", x.stride(1) == 1 and x.stride(3) != 1
    out_height, out_width = (2 * height, 2 * width) if up else (height // 2, width // 2)
    if channels_last:
        out = x.new_empty((batch, out_height, out_width, channels)).permute(0, 3, 1, 2)
    else:
        out = x.new_empty((batch, channels, out_height, out_width))
    if not out.numel():
        return out
    row_taps = tuple(tap / sum(taps) for tap in taps)
    filters = {"COLUMN_TAPS": tuple(gain * tap for tap in row_taps), "ROW_TAPS": row_taps, "OFFSET": offset}
    size = x.element_size()
    if channels_last:
        constants, programs = channels_last_launch(channels, height, width, up, size)
        fir_resample_channels_last_kernel[(batch * programs,)](
            x, out, **constants, **filters, num_warps=WARPS, maxnreg=max_registers(up, size), enable_fp_fusion=True
        )  # fmt: skip
    else:
        planes = batch * channels
        constants, programs = contiguous_launch(planes, height, width, up, size)
        fir_resample_kernel[(programs,)](
            x, out, planes, **constants, **filters, num_warps=WARPS, enable_fp_fusion=True
        )  # fmt: skip
    return out


WARPS = 4


def max_registers(up, size):
    """Return the register limit of the channels_last kernel, or None.

    Downsampling has 64 float32 values in flight; without a limit, Triton 3.8 and later spill some of them.
    """
    return 128 if not up and size == 4 else None


def channels_last_launch(channels, height, width, up, size):
    """Return the constants of the channels_last kernel and its programs per image.

    A thread moves 16 bytes at a time, and neighbouring threads 64 contiguous bytes if there are enough channels.
    """
    elements, most_c = WARPS * 32 * 16 // size, triton.next_power_of_2(channels)
    pixels = height * width if up else (height // 2 + 1) // 2 * (width // 2)
    block_p = min(elements // min(64 // size, most_c), triton.next_power_of_2(pixels))
    block_c = min(elements // block_p, most_c)
    constants = {"C": channels, "H": height, "W": width, "UP": up, "BLOCK_P": block_p, "BLOCK_C": block_c}
    constants["WIDE"] = channels * (2 * height + 12) * (2 * width + 12) >= 2**31
    return constants, triton.cdiv(channels, block_c) * triton.cdiv(pixels, block_p)


def contiguous_launch(planes, height, width, up, size):
    """Return the constants of the NCHW kernel and its programs.

    A thread writes two rows of up to 32 bytes, or of up to 64 bytes when upsampling.
    """
    out_width, most = (2 * width, 64 // size) if up else (width // 2, 32 // size)
    columns = min(most, out_width & -out_width)
    vector = min(16 // size, columns // 2 if up else columns)
    groups = planes * (height if up else (height // 2 + 1) // 2) * (out_width // columns)
    block = min(WARPS * 32, triton.next_power_of_2(groups))
    wide = 4 * (groups + block) * columns * 4 >= 2**31
    constants = {"H": height, "W": width, "UP": up, "BLOCK": block, "COLUMNS": columns, "V": vector, "WIDE": wide}
    return constants, triton.cdiv(groups, block)
