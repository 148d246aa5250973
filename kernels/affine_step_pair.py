# SPDX-License-Identifier: Apache-2.0
"""``affine_step_pair``: the step of ``affine_step`` for pairs (x, v), every coefficient a 2x2 matrix.

A program takes the same elements of both halves of a sample: x, and v half a sample further on.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import element_mask, form, normals_from, row_index, tile


@triton.jit
def _act(p_matrix, x, v):
    """The 2x2 matrix at ``p_matrix``, row by row, on (x, v)."""
    dtype = x.dtype
    xx, xv = tl.load(p_matrix).to(dtype), tl.load(p_matrix + 1).to(dtype)
    vx, vv = tl.load(p_matrix + 2).to(dtype), tl.load(p_matrix + 3).to(dtype)
    return xx * x + xv * v, vx * x + vv * v


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
    BLOCKS: tl.constexpr = (HALF + 4 * CALLS - 1) // (4 * CALLS)
    i_program = tl.program_id(0)
    i_sample = (i_program // BLOCKS).to(tl.int64)
    i_call = (i_program % BLOCKS).to(tl.int64) * CALLS + tl.arange(0, CALLS)  # [CALLS]
    i_element = i_call[:, None] * 4 + tl.arange(0, 4)[None, :]  # [CALLS, 4]
    mask = element_mask(i_call, i_element, HALF, 4 * CALLS)
    at_x = i_sample * (2 * HALF) + i_element
    at_v = at_x + HALF
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * 31
    p_integers = p_control + row * 3
    dtype = p_state.dtype.element_ty

    b_x, b_v = tl.load(p_state + at_x, mask, other=0.0), tl.load(p_state + at_v, mask, other=0.0)
    next_x, next_v = _act(p_row, b_x, b_v)
    if p_saved is not None:
        saved_x, saved_v = tl.load(p_saved + at_x, mask, other=0.0), tl.load(p_saved + at_v, mask, other=0.0)
        add_x, add_v = _act(p_row + 4, saved_x, saved_v)
        next_x, next_v = next_x + add_x, next_v + add_v
    if p_output is not None:
        b_output = tl.load(p_output + i_sample * HALF + i_element, mask, other=0.0).to(dtype)
        next_x += tl.load(p_row + 8).to(dtype) * b_output
        next_v += tl.load(p_row + 9).to(dtype) * b_output
    if p_history is not None:
        slot = tl.load(p_integers + 1)
        for k in tl.static_range(1, EARLIER + 1):
            p_place = p_history + ((slot - k + 4 * RING) % RING) * batch * (2 * HALF)
            earlier_x, earlier_v = tl.load(p_place + at_x, mask, other=0.0), tl.load(p_place + at_v, mask, other=0.0)
            add_x, add_v = _act(p_row + 6 + 4 * k, earlier_x, earlier_v)
            next_x, next_v = next_x + add_x, next_v + add_v
    if p_ids is not None:
        draw = tl.load(p_integers).to(tl.uint32)
        sample_id = tl.load(p_ids + i_sample)
        z_x = normals_from(i_call, draw, sample_id, run_seed, 0, PRECISE).to(dtype)
        z_v = normals_from(i_call + HALF // 4, draw, sample_id, run_seed, HALF % 4, PRECISE).to(dtype)
        next_x += tl.load(p_row + 22).to(dtype) * z_x
        next_v += tl.load(p_row + 23).to(dtype) * z_x + tl.load(p_row + 24).to(dtype) * z_v

    if p_saved is not None:  # noqa: SIM102 - one is decided when compiled, the other when run
        if tl.load(p_integers + 2) != 0:
            tl.store(p_saved + at_x, b_x, mask)
            tl.store(p_saved + at_v, b_v, mask)
    if p_history is not None and p_output is not None:
        p_place = p_history + slot % RING * batch * (2 * HALF)
        derived_x, derived_v = _act(p_row + 25, b_x, b_v)
        tl.store(p_place + at_x, derived_x + tl.load(p_row + 29).to(dtype) * b_output, mask)
        tl.store(p_place + at_v, derived_v + tl.load(p_row + 30).to(dtype) * b_output, mask)
    tl.store(p_state + at_x, next_x, mask)
    tl.store(p_state + at_v, next_v, mask)


def affine_step_pair(
    state, saved, history, network_output, sample_ids, coefficients, control, counter, offset, earlier, run_seed,
    precise,
):  # fmt: skip
    """Launch `affine_step_pair_kernel`; arguments as in the schema of ``scoresde_fast.ops.affine_step_pair``."""
    if not state.numel():
        return
    batch = len(state)
    half = state.numel() // batch // 2
    calls, blocks, warps = _tile(half)
    affine_step_pair_kernel[(batch * blocks,)](
        state, saved, history, network_output, sample_ids, coefficients, control, counter,
        offset, len(coefficients), batch, run_seed,
        HALF=half, RING=1 if history is None else len(history), EARLIER=0 if history is None else earlier,
        PRECISE=precise, CALLS=calls, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


def _tile(half):
    """(calls a program, programs a sample, warps): half as many pairs a thread as `tile`'s elements."""
    calls, blocks, warps = tile(half)
    return calls, blocks, 2 * warps if calls > 64 else warps


def specialisations():
    """Critically-damped Langevin diffusion on CIFAR-10's 3x32x32; every register at once; an odd size."""
    score, ids = {"p_output": "*bf16"}, {"p_ids": "*i64"}
    registers = {"p_saved": "*fp32", "p_history": "*fp32", **score, **ids}
    return [
        _form("no noise", {"p_output": "*fp32"}, budget=8.0),
        _form("fp32 score", {"p_output": "*fp32", **ids}, budget=45.0),
        _form("bf16 score", score | ids, budget=48.0),
        _form("bf16 score, precise", score | ids, precise=True),
        _form("noise alone", ids, budget=45.0),
        _form("every register", registers, earlier=3),
        _form("bf16 score, 3x7x5", score | ids, half=3 * 7 * 5),
    ]


def _form(label, registers, *, half=3072, earlier=0, precise=False, budget=None):
    calls, _blocks, warps = _tile(half)
    return form(
        f"affine_step_pair, {label}",
        affine_step_pair_kernel,
        {"p_state": "*fp32", "p_coefficients": "*fp32", "p_control": "*i32", "p_counter": "*i64", **registers},
        {"HALF": half, "RING": max(earlier, 1), "EARLIER": earlier, "PRECISE": precise, "CALLS": calls},
        elements=8 * calls,
        aligned=half % 4 == 0,
        warps=warps,
        budget=budget,
    )
