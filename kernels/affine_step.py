# SPDX-License-Identifier: Apache-2.0
"""``affine_step`` and ``affine_step_pair``: the next state from states, network output and noise, in one pass.

The term of a tensor that is None is not compiled.  For pairs (x, v) every coefficient is a 2x2 matrix.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import element_mask, join4, normal4, normals_from, sample_block, tile
from scoresde_fast.kernels.step_table import (
    CONTROL_DRAW,
    CONTROL_SAVE,
    CONTROL_SLOT,
    CONTROL_WIDTH,
    DERIVE_OUTPUT,
    DERIVE_STATE,
    EARLIER1,
    NOISE,
    OUTPUT,
    PAIR_DERIVE_OUTPUT,
    PAIR_DERIVE_STATE,
    PAIR_EARLIER1,
    PAIR_NOISE,
    PAIR_OUTPUT,
    PAIR_SAVED,
    PAIR_STATE,
    PAIR_WIDTH,
    SAVED,
    STATE,
    WIDTH,
    row_index,
)


def affine_step(
    state, saved, history, network_output, sample_ids, coefficients, control, counter, offset, earlier, run_seed,
    precise,
):  # fmt: skip
    """Launch `affine_step_kernel`; arguments as in the schema of ``scoresde_fast.ops.affine_step``."""
    if not state.numel():
        return
    batch = len(state)
    elements = state.numel() // batch
    calls, blocks, warps = tile(elements)
    affine_step_kernel[(batch * blocks,)](
        state, saved, history, network_output, sample_ids, coefficients, control, counter,
        offset, len(coefficients), batch, run_seed,
        ELEMENTS=elements, RING=1 if history is None else len(history), EARLIER=0 if history is None else earlier,
        PRECISE=precise, CALLS=calls, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


def affine_step_pair(
    state, saved, history, network_output, sample_ids, coefficients, control, counter, offset, earlier, run_seed,
    precise,
):  # fmt: skip
    """Launch `affine_step_pair_kernel`; arguments as in the schema of ``scoresde_fast.ops.affine_step``."""
    if not state.numel():
        return
    batch = len(state)
    half = state.numel() // batch // 2
    calls, blocks, warps = pair_tile(half)
    affine_step_pair_kernel[(batch * blocks,)](
        state, saved, history, network_output, sample_ids, coefficients, control, counter,
        offset, len(coefficients), batch, run_seed,
        HALF=half, RING=1 if history is None else len(history), EARLIER=0 if history is None else earlier,
        PRECISE=precise, CALLS=calls, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


def pair_tile(half):
    """Return (calls per program, programs per sample, warps); a thread has half as many pairs as elements in `tile`."""
    calls, blocks, warps = tile(half)
    return calls, blocks, 2 * warps if calls > 64 else warps


@triton.jit(do_not_specialize=["offset", "rows", "batch", "run_seed"])
def affine_step_kernel(
    p_state,
    p_saved,
    p_history,
    p_output,
    p_ids,
    p_coefficients,
    p_control,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    batch: tl.int64,
    run_seed: tl.int64,
    ELEMENTS: tl.constexpr,
    RING: tl.constexpr,
    EARLIER: tl.constexpr,
    PRECISE: tl.constexpr,
    CALLS: tl.constexpr,
):
    """Take the step for the elements of one sample in CALLS calls of Philox."""
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), ELEMENTS, CALLS)  # [CALLS, 4]
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * WIDTH
    p_integers = p_control + row * CONTROL_WIDTH
    dtype = p_state.dtype.element_ty

    b_state = tl.load(p_state + at, mask, other=0.0)
    b_next = tl.load(p_row + STATE).to(dtype) * b_state
    if p_saved is not None:
        b_next += tl.load(p_row + SAVED).to(dtype) * tl.load(p_saved + at, mask, other=0.0)
    if p_output is not None:
        b_output = tl.load(p_output + at, mask, other=0.0).to(dtype)
        b_next += tl.load(p_row + OUTPUT).to(dtype) * b_output
    if p_history is not None:
        slot = tl.load(p_integers + CONTROL_SLOT)
        for k in tl.static_range(1, EARLIER + 1):
            place = (slot - k + 4 * RING) % RING
            b_earlier = tl.load(p_history + place * batch * ELEMENTS + at, mask, other=0.0)
            b_next += tl.load(p_row + (EARLIER1 - 1 + k)).to(dtype) * b_earlier
    if p_ids is not None:
        draw = tl.load(p_integers + CONTROL_DRAW).to(tl.uint32)
        z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw, tl.load(p_ids + i_sample), run_seed, PRECISE)
        b_next += tl.load(p_row + NOISE).to(dtype) * join4(z0, z1, z2, z3).to(dtype)

    # Stores come last: the compiler cannot move a load above a store that may overlap it.
    if p_saved is not None:  # noqa: SIM102 - the outer condition is decided at compile time, the inner at run time
        if tl.load(p_integers + CONTROL_SAVE) != 0:
            tl.store(p_saved + at, b_state, mask)
    if p_history is not None and p_output is not None:
        b_derived = tl.load(p_row + DERIVE_STATE).to(dtype) * b_state
        b_derived += tl.load(p_row + DERIVE_OUTPUT).to(dtype) * b_output
        tl.store(p_history + slot % RING * batch * ELEMENTS + at, b_derived, mask)
    tl.store(p_state + at, b_next, mask)


@triton.jit(do_not_specialize=["offset", "rows", "batch", "run_seed"])
def affine_step_pair_kernel(
    p_state,
    p_saved,
    p_history,
    p_output,
    p_ids,
    p_coefficients,
    p_control,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    batch: tl.int64,
    run_seed: tl.int64,
    HALF: tl.constexpr,
    RING: tl.constexpr,
    EARLIER: tl.constexpr,
    PRECISE: tl.constexpr,
    CALLS: tl.constexpr,
):
    """Take the step for the elements of x in CALLS calls of Philox, and for those of v, HALF elements further on."""
    BLOCKS: tl.constexpr = (HALF + 4 * CALLS - 1) // (4 * CALLS)
    i_program = tl.program_id(0)
    i_sample = (i_program // BLOCKS).to(tl.int64)
    i_call = (i_program % BLOCKS).to(tl.int64) * CALLS + tl.arange(0, CALLS)  # [CALLS]
    i_element = i_call[:, None] * 4 + tl.arange(0, 4)[None, :]  # [CALLS, 4]
    mask = element_mask(i_call, i_element, HALF, 4 * CALLS)
    at_x = i_sample * (2 * HALF) + i_element
    at_v = at_x + HALF
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * PAIR_WIDTH
    p_integers = p_control + row * CONTROL_WIDTH
    dtype = p_state.dtype.element_ty

    b_x, b_v = tl.load(p_state + at_x, mask, other=0.0), tl.load(p_state + at_v, mask, other=0.0)
    next_x, next_v = _act(p_row + PAIR_STATE, b_x, b_v)
    if p_saved is not None:
        saved_x, saved_v = tl.load(p_saved + at_x, mask, other=0.0), tl.load(p_saved + at_v, mask, other=0.0)
        add_x, add_v = _act(p_row + PAIR_SAVED, saved_x, saved_v)
        next_x, next_v = next_x + add_x, next_v + add_v
    if p_output is not None:
        b_output = tl.load(p_output + i_sample * HALF + i_element, mask, other=0.0).to(dtype)
        next_x += tl.load(p_row + PAIR_OUTPUT).to(dtype) * b_output
        next_v += tl.load(p_row + (PAIR_OUTPUT + 1)).to(dtype) * b_output
    if p_history is not None:
        slot = tl.load(p_integers + CONTROL_SLOT)
        for k in tl.static_range(1, EARLIER + 1):
            p_place = p_history + ((slot - k + 4 * RING) % RING) * batch * (2 * HALF)
            earlier_x, earlier_v = tl.load(p_place + at_x, mask, other=0.0), tl.load(p_place + at_v, mask, other=0.0)
            add_x, add_v = _act(p_row + (PAIR_EARLIER1 + 4 * (k - 1)), earlier_x, earlier_v)
            next_x, next_v = next_x + add_x, next_v + add_v
    if p_ids is not None:
        draw = tl.load(p_integers + CONTROL_DRAW).to(tl.uint32)
        sample_id = tl.load(p_ids + i_sample)
        z_x = normals_from(i_call, draw, sample_id, run_seed, 0, PRECISE).to(dtype)
        z_v = normals_from(i_call + HALF // 4, draw, sample_id, run_seed, HALF % 4, PRECISE).to(dtype)
        next_x += tl.load(p_row + PAIR_NOISE).to(dtype) * z_x
        next_v += tl.load(p_row + (PAIR_NOISE + 1)).to(dtype) * z_x + tl.load(p_row + (PAIR_NOISE + 2)).to(dtype) * z_v

    if p_saved is not None:  # noqa: SIM102 - the outer condition is decided at compile time, the inner at run time
        if tl.load(p_integers + CONTROL_SAVE) != 0:
            tl.store(p_saved + at_x, b_x, mask)
            tl.store(p_saved + at_v, b_v, mask)
    if p_history is not None and p_output is not None:
        p_place = p_history + slot % RING * batch * (2 * HALF)
        derived_x, derived_v = _act(p_row + PAIR_DERIVE_STATE, b_x, b_v)
        tl.store(p_place + at_x, derived_x + tl.load(p_row + PAIR_DERIVE_OUTPUT).to(dtype) * b_output, mask)
        tl.store(p_place + at_v, derived_v + tl.load(p_row + (PAIR_DERIVE_OUTPUT + 1)).to(dtype) * b_output, mask)
    tl.store(p_state + at_x, next_x, mask)
    tl.store(p_state + at_v, next_v, mask)


@triton.jit
def _act(p_matrix, x, v):
    """Return the 2x2 matrix at ``p_matrix``, stored row by row, times (x, v)."""
    dtype = x.dtype
    xx, xv = tl.load(p_matrix).to(dtype), tl.load(p_matrix + 1).to(dtype)
    vx, vv = tl.load(p_matrix + 2).to(dtype), tl.load(p_matrix + 3).to(dtype)
    return xx * x + xv * v, vx * x + vv * v
