# SPDX-License-Identifier: Apache-2.0
"""``hutchinson_dot``: the dot product of a probe with a tangent; the probe is generated in the kernel.

A program sums 4096 elements of a sample; for larger samples a second kernel adds the partial sums.  The order of
addition depends only on the sample's size, not on the batch or on timing.
"""

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import element_mask, join4, join8, normal4, passes, sign4
from scoresde_fast.kernels.step_table import DOT_CONSTANT, DOT_FACTOR, DOT_WIDTH, row_index


@triton.jit
def _accumulate(p_divergence, dot, p_coefficients, p_counter, offset, rows):
    """Add constant + factor dot to the divergence, in float64."""
    p_row = p_coefficients + DOT_WIDTH * row_index(p_counter, offset, rows)
    term = tl.load(p_row + DOT_CONSTANT).to(tl.float64) + tl.load(p_row + DOT_FACTOR).to(tl.float64) * dot
    tl.store(p_divergence, tl.load(p_divergence) + term)


@triton.jit
def _probe(i_row, draw, sample_id, run_seed, WIDTH: tl.constexpr, SIGNS: tl.constexpr, PRECISE: tl.constexpr):
    """Return the probe's elements [N, WIDTH] for rows [N] of WIDTH elements, 4 or 8."""
    if WIDTH == 4:
        e0, e1, e2, e3 = _probe4(i_row, draw, sample_id, run_seed, SIGNS, PRECISE)
        return join4(e0, e1, e2, e3)
    else:
        e0, e1, e2, e3 = _probe4(2 * i_row, draw, sample_id, run_seed, SIGNS, PRECISE)
        e4, e5, e6, e7 = _probe4(2 * i_row + 1, draw, sample_id, run_seed, SIGNS, PRECISE)
        return join8(e0, e1, e2, e3, e4, e5, e6, e7)


@triton.jit
def _probe4(call, draw, sample_id, run_seed, SIGNS: tl.constexpr, PRECISE: tl.constexpr):
    if SIGNS:
        return sign4(call.to(tl.uint32), draw.to(tl.uint32), sample_id, run_seed)
    else:
        return normal4(call.to(tl.uint32), draw.to(tl.uint32), sample_id, run_seed, PRECISE)


@triton.jit(do_not_specialize=["offset", "rows", "draw", "run_seed"])
def hutchinson_dot_kernel(
    p_divergence,
    p_sums,
    p_tangent,
    p_ids,
    p_coefficients,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    draw: tl.int64,
    run_seed: tl.int64,
    ELEMENTS: tl.constexpr,
    SIGNS: tl.constexpr,
    PRECISE: tl.constexpr,
    PASSES: tl.constexpr,
    BLOCK: tl.constexpr = 1024,
):
    SPAN: tl.constexpr = BLOCK * PASSES
    PARTS: tl.constexpr = (ELEMENTS + SPAN - 1) // SPAN if ELEMENTS > 0 else 1
    # A thread's row is one access of 16 bytes, and one or two calls of Philox.
    WIDTH: tl.constexpr = 8 if p_tangent.dtype.element_ty.primitive_bitwidth == 16 else 4
    ROWS: tl.constexpr = BLOCK // WIDTH
    i_program = tl.program_id(0).to(tl.int64)
    i_sample = i_program // PARTS
    sample_id = tl.load(p_ids + i_sample)
    wide = tl.float64 if p_tangent.dtype.element_ty == tl.float64 else tl.float32
    products = tl.zeros([ROWS, WIDTH], wide)
    for i_pass in range(PASSES):
        i_row = (i_program % PARTS * PASSES + i_pass) * ROWS + tl.arange(0, ROWS)  # [ROWS]
        i_element = i_row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]  # [ROWS, WIDTH]
        mask = element_mask(i_row, i_element, ELEMENTS, SPAN, WIDTH)
        b_tangent = tl.load(p_tangent + i_sample * ELEMENTS + i_element, mask, other=0.0).to(wide)
        products += _probe(i_row, draw, sample_id, run_seed, WIDTH, SIGNS, PRECISE).to(wide) * b_tangent
    dot = tl.sum(products).to(tl.float64)
    if p_sums is None:
        _accumulate(p_divergence + i_sample, dot, p_coefficients, p_counter, offset, rows)
    else:
        tl.store(p_sums + i_program, dot)


@triton.jit(do_not_specialize=["offset", "rows"])
def add_dots_kernel(
    p_divergence,
    p_sums,
    p_coefficients,
    p_counter,
    offset: tl.int64,
    rows: tl.int64,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_sample = tl.program_id(0).to(tl.int64)
    sums = tl.zeros([BLOCK], tl.float64)
    for start in range(0, PARTS, BLOCK):
        i_part = start + tl.arange(0, BLOCK)  # [BLOCK]
        sums += tl.load(p_sums + i_sample * PARTS + i_part, i_part < PARTS, other=0.0)
    _accumulate(p_divergence + i_sample, tl.sum(sums), p_coefficients, p_counter, offset, rows)


def hutchinson_dot(
    divergence, tangent, sample_ids, coefficients, counter, offset, draw, signs, run_seed, precise
):  # fmt: skip
    """Launch the kernels; arguments as in the schema of ``scoresde_fast.ops.hutchinson_dot``."""
    batch = len(divergence)
    if not batch:
        return
    elements = tangent.numel() // batch
    if not elements:
        tangent = divergence  # never read, but its address is valid
    count, parts = passes(elements)
    sums = None if parts == 1 else divergence.new_empty((batch, parts))
    hutchinson_dot_kernel[(batch * parts,)](
        divergence, sums, tangent, sample_ids, coefficients, counter, offset, len(coefficients), draw, run_seed,
        ELEMENTS=elements, SIGNS=signs, PRECISE=precise, PASSES=count, enable_fp_fusion=True,
    )  # fmt: skip
    if sums is not None:
        add_dots_kernel[(batch,)](
            divergence, sums, coefficients, counter, offset, len(coefficients), PARTS=parts, BLOCK=64, num_warps=1
        )
