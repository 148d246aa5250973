# SPDX-License-Identifier: Apache-2.0
"""``normal`` and ``rademacher``: standard normal noise and random signs for each sample."""

import triton
import triton.language as tl
from scoresde_fast.kernels.launch import empty_float32
from scoresde_fast.kernels.noise import join4, normal4, sample_block, sign4, tile


@triton.jit(do_not_specialize=["run_seed", "draw"])
def normal_kernel(
    p_out,
    p_ids,
    run_seed: tl.int64,
    draw: tl.int64,
    ELEMENTS: tl.constexpr,
    PRECISE: tl.constexpr,
    CALLS: tl.constexpr,
):
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), ELEMENTS, CALLS)  # [CALLS, 4]
    sample_id = tl.load(p_ids + i_sample)
    z0, z1, z2, z3 = normal4(i_call.to(tl.uint32), draw.to(tl.uint32), sample_id, run_seed, PRECISE)
    tl.store(p_out + at, join4(z0, z1, z2, z3), mask)


@triton.jit(do_not_specialize=["run_seed", "draw"])
def rademacher_kernel(
    p_out,
    p_ids,
    run_seed: tl.int64,
    draw: tl.int64,
    ELEMENTS: tl.constexpr,
    CALLS: tl.constexpr,
):
    i_sample, i_call, at, mask = sample_block(tl.program_id(0), ELEMENTS, CALLS)  # [CALLS, 4]
    s0, s1, s2, s3 = sign4(i_call.to(tl.uint32), draw.to(tl.uint32), tl.load(p_ids + i_sample), run_seed)
    tl.store(p_out + at, join4(s0, s1, s2, s3), mask)


def normal(sample_ids, run_seed, draw, elements, precise):
    """Launch `normal_kernel`; arguments and result as in the schema of ``scoresde_fast.ops.normal``."""
    out = empty_float32(sample_ids, (len(sample_ids), elements))
    if out.numel():
        calls, blocks, warps = tile(elements)
        normal_kernel[(len(sample_ids) * blocks,)](
            out, sample_ids, run_seed, draw,
            ELEMENTS=elements, PRECISE=precise, CALLS=calls, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def rademacher(sample_ids, run_seed, draw, elements):
    """Launch `rademacher_kernel`; arguments and result as in the schema of ``scoresde_fast.ops.normal``."""
    out = empty_float32(sample_ids, (len(sample_ids), elements))
    if out.numel():
        calls, blocks, warps = tile(elements)
        rademacher_kernel[(len(sample_ids) * blocks,)](
            out, sample_ids, run_seed, draw, ELEMENTS=elements, CALLS=calls, num_warps=warps
        )
    return out
