# SPDX-License-Identifier: Apache-2.0
"""``affine_step``: state, saved state, network output, earlier outputs and noise to the next state, in one pass.

Columns are those of ``scoresde_fast.ops.step_table``; a register that is None is compiled away.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import form, join4, normal4, row_index, sample_block, tile


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
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), ELEMENTS, CALLS)  # [CALLS, 4]
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * 10
    p_integers = p_control + row * 3
    dtype = p_state.dtype.element_ty

    b_state = tl.load(p_state + at, mask, other=0.0)
    b_next = tl.load(p_row).to(dtype) * b_state
    if p_saved is not None:
        b_next += tl.load(p_row + 1).to(dtype) * tl.load(p_saved + at, mask, other=0.0)
    if p_output is not None:
        b_output = tl.load(p_output + at, mask, other=0.0).to(dtype)
        b_next += tl.load(p_row + 2).to(dtype) * b_output
    if p_history is not None:
        slot = tl.load(p_integers + 1)
        for k in tl.static_range(1, EARLIER + 1):
            place = (slot - k + 4 * RING) % RING
            b_earlier = tl.load(p_history + place * batch * ELEMENTS + at, mask, other=0.0)
            b_next += tl.load(p_row + 2 + k).to(dtype) * b_earlier
    if p_ids is not None:
        draw = tl.load(p_integers).to(tl.uint32)
        z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw, tl.load(p_ids + i_sample), run_seed, PRECISE)
        b_next += tl.load(p_row + 6).to(dtype) * join4(z0, z1, z2, z3).to(dtype)

    # Stores come last: a load cannot be moved above a store that might overlap it.
    if p_saved is not None:  # noqa: SIM102 - one is decided when compiled, the other when run
        if tl.load(p_integers + 2) != 0:
            tl.store(p_saved + at, b_state, mask)
    if p_history is not None and p_output is not None:
        b_derived = tl.load(p_row + 7).to(dtype) * b_state + tl.load(p_row + 8).to(dtype) * b_output
        tl.store(p_history + slot % RING * batch * ELEMENTS + at, b_derived, mask)
    tl.store(p_state + at, b_next, mask)


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


def specialisations():
    """The forms that samplers use most, on CIFAR-10's 3x32x32; every register at once; the digits; an odd size."""
    score, ids = {"p_output": "*bf16"}, {"p_ids": "*i64"}
    registers = {"p_saved": "*fp32", "p_history": "*fp32", **score, **ids}
    return [
        _form("no noise", {"p_output": "*fp32"}, budget=8.0),
        _form("fp32 score", {"p_output": "*fp32", **ids}, budget=45.0),
        _form("bf16 score", score | ids, budget=48.0),
        _form("bf16 score, precise", score | ids, precise=True),
        _form("noise alone", ids, budget=45.0),
        _form("every register", registers, elements=3 * 256 * 256, earlier=3),
        _form("bf16 score, 3x16x16", score | ids, elements=3 * 16 * 16, budget=48.0),
        _form("bf16 score, 3x7x5", score | ids, elements=3 * 7 * 5),
    ]


def _form(label, registers, *, elements=3072, earlier=0, precise=False, budget=None):
    calls, _blocks, warps = tile(elements)
    return form(
        f"affine_step, {label}",
        affine_step_kernel,
        {"p_state": "*fp32", "p_coefficients": "*fp32", "p_control": "*i32", "p_counter": "*i64", **registers},
        {"ELEMENTS": elements, "RING": max(earlier, 1), "EARLIER": earlier, "PRECISE": precise, "CALLS": calls},
        elements=4 * calls,
        aligned=elements % 4 == 0,
        warps=warps,
        budget=budget,
    )
