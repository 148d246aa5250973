# SPDX-License-Identifier: Apache-2.0
"""``langevin``: the norms of score and noise, then the corrector's step; each generates the noise.

For the norms a program sums 4096 elements of a sample; for larger samples a second kernel adds the partial sums.  The
order of addition depends only on the sample's size, not on the batch or on timing.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import join4, normal4, passes, sample_block, tile
from scoresde_fast.kernels.step_table import CONTROL_DRAW, CONTROL_WIDTH, DERIVE_OUTPUT, LANGEVIN, WIDTH, row_index


def langevin(
    state, network_output, sample_ids, coefficients, control, counter, offset, per_sample, run_seed, precise
):  # fmt: skip
    """Launch `langevin_norms` and `langevin_step`; arguments as in the schema of ``scoresde_fast.ops.langevin``."""
    row = (sample_ids, coefficients, control, counter, offset)
    norms = langevin_norms(network_output, *row, run_seed, precise)
    langevin_step(state, network_output, norms, *row, per_sample, run_seed, precise)


def langevin_norms(network_output, sample_ids, coefficients, control, counter, offset, run_seed, precise):
    """Launch the kernels; arguments and result as in the schema of ``scoresde_fast.ops.langevin``."""
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


def langevin_step(
    state, network_output, norms, sample_ids, coefficients, control, counter, offset, per_sample, run_seed, precise
):  # fmt: skip
    """Launch the kernels; arguments as in the schema of ``scoresde_fast.ops.langevin``."""
    if not state.numel():
        return
    batch = len(state)
    elements = state.numel() // batch
    if not per_sample:
        means = norms.new_empty((1, 2))
        mean_norms_kernel[(1,)](means, norms, batch, ROUNDS=-(-batch // 512), BLOCK=512)
        norms = means
    calls, blocks, warps = tile(elements)
    langevin_step_kernel[(batch * blocks,)](
        state, network_output, norms, sample_ids, coefficients, control, counter, offset, len(coefficients), run_seed,
        ELEMENTS=elements, PER_SAMPLE=per_sample, PRECISE=precise, CALLS=calls, num_warps=warps, enable_fp_fusion=True,
    )  # fmt: skip


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
    factor = tl.load(p_coefficients + row * WIDTH + DERIVE_OUTPUT).to(wide)
    draw = tl.load(p_control + row * CONTROL_WIDTH + CONTROL_DRAW).to(tl.uint32)
    sample_id = tl.load(p_ids + i_sample)
    # Each sum uses the best order: eight 16-bit scores per access, and noise as generated, four values per lane.
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


@triton.jit
def _square(z, i_element, ELEMENTS: tl.constexpr, SPAN: tl.constexpr):
    """Return z^2, or 0 past the sample's end."""
    if ELEMENTS % SPAN == 0:
        return z * z
    else:
        return tl.where(i_element < ELEMENTS, z * z, 0.0)


@triton.jit(do_not_specialize=["batch"])
def mean_norms_kernel(p_means, p_norms, batch: tl.int64, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Store the squared mean norms of the batch, which `langevin_step_kernel` uses in place of a sample's |.|^2."""
    scores = tl.zeros([BLOCK], tl.float64)
    noises = tl.zeros([BLOCK], tl.float64)
    for i_round in range(ROUNDS):
        i_sample = i_round * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
        mask = i_sample < batch
        scores += tl.sqrt(tl.load(p_norms + 2 * i_sample, mask, other=0.0)).to(tl.float64)
        noises += tl.sqrt(tl.load(p_norms + 2 * i_sample + 1, mask, other=0.0)).to(tl.float64)
    score, noise = tl.sum(scores) / batch, tl.sum(noises) / batch
    tl.store(p_means, (score * score).to(p_means.dtype.element_ty))
    tl.store(p_means + 1, (noise * noise).to(p_means.dtype.element_ty))


@triton.jit(do_not_specialize=["offset", "rows", "run_seed"])
def langevin_step_kernel(
    p_state,
    p_output,
    p_norms,
    p_ids,
    p_coefficients,
    p_control,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    run_seed: tl.int64,
    ELEMENTS: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    PRECISE: tl.constexpr,
    CALLS: tl.constexpr,
):
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), ELEMENTS, CALLS)  # [CALLS, 4]
    row = row_index(p_counter, offset, rows)
    p_row = p_coefficients + row * WIDTH
    dtype = p_state.dtype.element_ty
    b_state = tl.load(p_state + at, mask, other=0.0)
    b_output = tl.load(p_output + at, mask, other=0.0).to(dtype)

    p_own = p_norms + 2 * i_sample if PER_SAMPLE else p_norms
    ratio = tl.load(p_own + 1).to(dtype) / tl.load(p_own).to(dtype)
    size = tl.load(p_row + LANGEVIN).to(dtype) * ratio
    draw = tl.load(p_control + row * CONTROL_WIDTH + CONTROL_DRAW).to(tl.uint32)
    z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw, tl.load(p_ids + i_sample), run_seed, PRECISE)
    b_noise = join4(z0, z1, z2, z3).to(dtype)
    b_next = b_state + size * (tl.load(p_row + DERIVE_OUTPUT).to(dtype) * b_output) + tl.sqrt(2 * size) * b_noise
    tl.store(p_state + at, b_next, mask)
