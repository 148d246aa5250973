# SPDX-License-Identifier: Apache-2.0
"""``langevin_norms``: sums of squares of the score and of noise that is made, added up and forgotten.

A program takes 4096 elements of a sample; where a sample has more, a second kernel adds the partial sums in order.
The order depends on the sample's size alone: not on the batch, and never on timing.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import form, normal4, passes, row_index


@triton.jit
def _square(z, i_element, ELEMENTS: tl.constexpr, SPAN: tl.constexpr):
    """z^2, and 0 past the sample's end."""
    if ELEMENTS % SPAN == 0:
        return z * z
    else:
        return tl.where(i_element < ELEMENTS, z * z, 0.0)


@triton.jit(do_not_specialize=["offset", "rows", "run_seed"])
def langevin_norms_kernel(
    p_sums,
    p_output,
    p_ids,
    p_coefficients,
    p_control,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    run_seed: tl.int64,
    ELEMENTS: tl.constexpr,
    PRECISE: tl.constexpr,
    PASSES: tl.constexpr,
    CALLS: tl.constexpr = 256,
):
    SPAN: tl.constexpr = 4 * CALLS * PASSES
    PARTS: tl.constexpr = (ELEMENTS + SPAN - 1) // SPAN
    i_program = tl.program_id(0).to(tl.int64)
    i_sample = i_program // PARTS
    row = row_index(p_counter, offset, rows)
    wide = p_sums.dtype.element_ty
    factor = tl.load(p_coefficients + row * 10 + 8).to(wide)
    draw = tl.load(p_control + row * 3).to(tl.uint32)
    sample_id = tl.load(p_ids + i_sample)
    # The two sums do not meet, so each takes its elements in the order that suits it: eight values of 16 bits are one
    # access, and noise stays as it was made, four to a lane.
    score_squares = tl.zeros([4 * CALLS], wide)
    noise_squares = tl.zeros([CALLS], wide)
    for i_pass in range(PASSES):
        i_block = i_program % PARTS * PASSES + i_pass
        i_element = i_block * (4 * CALLS) + tl.arange(0, 4 * CALLS)  # [4 CALLS]
        mask = tl.full([4 * CALLS], True, tl.int1) if ELEMENTS % SPAN == 0 else i_element < ELEMENTS
        b_score = factor * tl.load(p_output + i_sample * ELEMENTS + i_element, mask, other=0.0).to(wide)
        score_squares += b_score * b_score
        i_call = i_block * CALLS + tl.arange(0, CALLS)  # [CALLS]
        z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw, sample_id, run_seed, PRECISE)
        noise_squares += _square(z0.to(wide), i_call * 4, ELEMENTS, SPAN)
        noise_squares += _square(z1.to(wide), i_call * 4 + 1, ELEMENTS, SPAN)
        noise_squares += _square(z2.to(wide), i_call * 4 + 2, ELEMENTS, SPAN)
        noise_squares += _square(z3.to(wide), i_call * 4 + 3, ELEMENTS, SPAN)
    tl.store(p_sums + 2 * i_program, tl.sum(score_squares))
    tl.store(p_sums + 2 * i_program + 1, tl.sum(noise_squares))


@triton.jit
def add_parts_kernel(p_norms, p_sums, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    i_sample = tl.program_id(0).to(tl.int64)
    scores = tl.zeros([BLOCK], tl.float64)
    noises = tl.zeros([BLOCK], tl.float64)
    for start in range(0, PARTS, BLOCK):
        i_part = start + tl.arange(0, BLOCK)  # [BLOCK]
        p_part = p_sums + 2 * (i_sample * PARTS + i_part)
        scores += tl.load(p_part, i_part < PARTS, other=0.0).to(tl.float64)
        noises += tl.load(p_part + 1, i_part < PARTS, other=0.0).to(tl.float64)
    tl.store(p_norms + 2 * i_sample, tl.sum(scores).to(p_norms.dtype.element_ty))
    tl.store(p_norms + 2 * i_sample + 1, tl.sum(noises).to(p_norms.dtype.element_ty))


def langevin_norms(network_output, sample_ids, coefficients, control, counter, offset, run_seed, precise):
    """Launch the kernels; arguments and result as in the schema of ``scoresde_fast.ops.langevin_norms``."""
    batch = len(sample_ids)
    like = network_output if network_output.element_size() == 8 else coefficients
    if not network_output.numel():
        return like.new_zeros((batch, 2))
    norms = like.new_empty((batch, 2))
    elements = network_output.numel() // batch
    count, parts = passes(elements)
    sums = norms if parts == 1 else like.new_empty((batch, parts, 2))
    langevin_norms_kernel[(batch * parts,)](
        sums, network_output, sample_ids, coefficients, control, counter, offset, len(coefficients), run_seed,
        ELEMENTS=elements, PRECISE=precise, PASSES=count, enable_fp_fusion=True,
    )  # fmt: skip
    if parts > 1:
        add_parts_kernel[(batch,)](norms, sums, PARTS=parts, BLOCK=64, num_warps=1)
    return norms


def specialisations():
    """CIFAR-10's 3x32x32, a sample of many programs, and an odd size."""
    forms = [("fp32", 3072, False), ("bf16", 3072, False), ("bf16", 3 * 256 * 256, True), ("bf16", 3 * 7 * 5, False)]
    return [_form(*options) for options in forms] + [
        form(
            "langevin_norms, sum of parts",
            add_parts_kernel,
            {"p_norms": "*fp32", "p_sums": "*fp32"},
            {"PARTS": 48, "BLOCK": 64},
            elements=2,
            aligned=False,
            warps=1,
        )
    ]


def _form(dtype, elements, precise):
    count, _parts = passes(elements)
    return form(
        f"langevin_norms, {dtype} score, {elements} elements{', precise' * precise}",
        langevin_norms_kernel,
        {
            "p_sums": "*fp32",
            "p_output": f"*{dtype}",
            "p_ids": "*i64",
            "p_coefficients": "*fp32",
            "p_control": "*i32",
            "p_counter": "*i64",
        },
        {"ELEMENTS": elements, "PRECISE": precise, "PASSES": count, "CALLS": 256},
        elements=1024 * count,
        aligned=elements % 4 == 0,
    )
