# SPDX-License-Identifier: Apache-2.0
"""``langevin_step``: the Langevin corrector's step, with the noise that ``langevin_norms`` added up made once more."""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import form, join4, normal4, row_index, sample_block, tile


@triton.jit(do_not_specialize=["batch"])
def mean_norms_kernel(p_means, p_norms, batch: tl.int64, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """The squares of the batch's mean norms: a sample's own, |.|^2, mean the same to `langevin_step_kernel`."""
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
    p_row = p_coefficients + row * 10
    dtype = p_state.dtype.element_ty
    b_state = tl.load(p_state + at, mask, other=0.0)
    b_output = tl.load(p_output + at, mask, other=0.0).to(dtype)

    p_own = p_norms + 2 * i_sample if PER_SAMPLE else p_norms
    ratio = tl.load(p_own + 1).to(dtype) / tl.load(p_own).to(dtype)
    size = tl.load(p_row + 9).to(dtype) * ratio
    draw = tl.load(p_control + row * 3).to(tl.uint32)
    z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw, tl.load(p_ids + i_sample), run_seed, PRECISE)
    b_noise = join4(z0, z1, z2, z3).to(dtype)
    b_next = b_state + size * (tl.load(p_row + 8).to(dtype) * b_output) + tl.sqrt(2 * size) * b_noise
    tl.store(p_state + at, b_next, mask)


def langevin_step(
    state, network_output, norms, sample_ids, coefficients, control, counter, offset, per_sample, run_seed, precise
):  # fmt: skip
    """Launch the kernels; arguments as in the schema of ``scoresde_fast.ops.langevin_step``."""
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


def specialisations():
    """Both kinds of norm on CIFAR-10's 3x32x32, an odd size, and the batch's means."""
    forms = [
        ("fp32 score", "*fp32", 3072, True, False, 45.0),
        ("bf16 score", "*bf16", 3072, True, False, 48.0),
        ("bf16 score, batch norm", "*bf16", 3072, False, False, 48.0),
        ("bf16 score, precise", "*bf16", 3072, True, True, None),
        ("bf16 score, 3x7x5", "*bf16", 3 * 7 * 5, True, False, None),
    ]
    return [_form(*options) for options in forms] + [
        form(
            "langevin_step, means",
            mean_norms_kernel,
            {"p_means": "*fp32", "p_norms": "*fp32"},
            {"ROUNDS": 2, "BLOCK": 512},
            elements=2,
            aligned=False,
        )
    ]


def _form(label, output, elements, per_sample, precise, budget):
    calls, _blocks, warps = tile(elements)
    return form(
        f"langevin_step, {label}",
        langevin_step_kernel,
        {
            "p_state": "*fp32",
            "p_output": output,
            "p_norms": "*fp32",
            "p_ids": "*i64",
            "p_coefficients": "*fp32",
            "p_control": "*i32",
            "p_counter": "*i64",
        },
        {"ELEMENTS": elements, "PER_SAMPLE": per_sample, "PRECISE": precise, "CALLS": calls},
        elements=4 * calls,
        aligned=elements % 4 == 0,
        warps=warps,
        budget=budget,
    )
