# SPDX-License-Identifier: Apache-2.0
"""``project``: moves known blocks of a state to their noised means; the noise is generated in the kernel.

A program handles the means of several calls of Philox for one sample (four each) and all elements of their blocks.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import normals_from, sample_block, tile
from scoresde_fast.kernels.step_table import (
    CONTROL_DRAW,
    CONTROL_WIDTH,
    LEVEL_NOISE,
    LEVEL_SCALE,
    LEVEL_VELOCITY_NOISE_V,
    LEVEL_VELOCITY_NOISE_X,
    LEVEL_VELOCITY_SCALE,
    LEVEL_WIDTH,
    row_index,
)


@triton.jit
def _move(p_state, at, mask, moves, b_mean, KC: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
          PLANE: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Set the mean of each block to ``b_mean`` where ``moves``; ``at`` is the offset of the block's first element."""
    if KC * KH * KW == 1:
        # Store all elements of a vector, because a partly masked store writes element by element.
        tl.store(p_state + at, tl.where(moves, b_mean, tl.load(p_state + at, mask, other=0.0)), mask)
    else:
        b_sum = tl.zeros_like(b_mean)
        for c in tl.static_range(KC):
            for h in tl.static_range(KH):
                for w in tl.static_range(KW):
                    b_sum += tl.load(p_state + at + (c * PLANE + h * WIDTH + w), moves, other=0.0)
        b_change = b_mean - b_sum * (1.0 / (KC * KH * KW))
        for c in tl.static_range(KC):
            for h in tl.static_range(KH):
                for w in tl.static_range(KW):
                    p_element = p_state + at + (c * PLANE + h * WIDTH + w)
                    tl.store(p_element, tl.load(p_element, moves, other=0.0) + b_change, moves)


@triton.jit(do_not_specialize=["offset", "rows", "run_seed"])
def project_kernel(
    p_state,
    p_known,
    p_mask,
    p_ids,
    p_coefficients,
    p_control,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    run_seed: tl.int64,
    MEANS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    KC: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    PAIRS: tl.constexpr,
    PRECISE: tl.constexpr,
    CALLS: tl.constexpr,
):
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), MEANS, CALLS)  # [CALLS, 4]
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * LEVEL_WIDTH
    dtype = p_state.dtype.element_ty
    moves = mask & (tl.load(p_mask + at, mask, other=0) != 0)
    b_known = tl.load(p_known + at, mask, other=0.0)

    draw, sample_id = tl.load(p_control + row * CONTROL_WIDTH + CONTROL_DRAW).to(tl.uint32), tl.load(p_ids + i_sample)
    z_x = normals_from(i_call, draw, sample_id, run_seed, 0, PRECISE).to(dtype)
    b_mean = tl.load(p_row + LEVEL_SCALE).to(dtype) * b_known + tl.load(p_row + LEVEL_NOISE).to(dtype) * z_x

    HALF: tl.constexpr = MEANS * KC * KH * KW
    i_mean = at - i_sample * MEANS
    first = i_sample * (HALF * 2 if PAIRS else HALF)
    if KC * KH * KW == 1:
        first += i_mean
    else:
        COLUMNS: tl.constexpr = WIDTH // KW
        LINES: tl.constexpr = HEIGHT // KH
        i_mean = i_mean.to(tl.int32)
        i_line = i_mean // COLUMNS
        first += ((i_line // LINES) * KC * HEIGHT + (i_line % LINES) * KH) * WIDTH + (i_mean % COLUMNS) * KW
    _move(p_state, first, mask, moves, b_mean, KC, KH, KW, HEIGHT * WIDTH, WIDTH)
    if PAIRS:
        z_v = normals_from(i_call + MEANS // 4, draw, sample_id, run_seed, MEANS % 4, PRECISE).to(dtype)
        b_mean = tl.load(p_row + LEVEL_VELOCITY_SCALE).to(dtype) * b_known
        b_mean += tl.load(p_row + LEVEL_VELOCITY_NOISE_X).to(dtype) * z_x
        b_mean += tl.load(p_row + LEVEL_VELOCITY_NOISE_V).to(dtype) * z_v
        _move(p_state, first + HALF, mask, moves, b_mean, KC, KH, KW, HEIGHT * WIDTH, WIDTH)


def project(state, known, mask, sample_ids, coefficients, control, counter, offset, pairs, run_seed, precise):
    """Launch `project_kernel`; arguments as in the schema of ``scoresde_fast.ops.project``."""
    if not state.numel():
        return
    batch, channels, height, width = state.shape
    means = known.numel() // batch
    block = (channels // (1 + pairs) // known.shape[1], height // known.shape[2], width // known.shape[3])
    calls, blocks, warps = tile(means)
    project_kernel[(batch * blocks,)](
        state, known, mask, sample_ids, coefficients, control, counter, offset, len(coefficients), run_seed,
        MEANS=means, HEIGHT=height, WIDTH=width, KC=block[0], KH=block[1], KW=block[2], PAIRS=pairs, PRECISE=precise,
        CALLS=calls, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip
