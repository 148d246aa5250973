# SPDX-License-Identifier: Apache-2.0
"""The step that a competent user of Triton would write: one element a lane, noise by ``tl.randn``."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def randn_step_kernel(p_state, p_score, p_coefficients, elements, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = i < elements
    x = tl.load(p_state + i, mask=inside, other=0.0)
    score = tl.load(p_score + i, mask=inside, other=0.0).to(tl.float32)
    a, b, c = tl.load(p_coefficients), tl.load(p_coefficients + 2), tl.load(p_coefficients + 6)
    tl.store(p_state + i, a * x + b * score + c * tl.randn(seed, i), mask=inside)


def randn_step(state: Tensor, score: Tensor, coefficients: Tensor) -> None:
    """state <- a state + b score + c noise, in place, with the first row's coefficients of an `affine_step` table."""
    elements = state.numel()
    randn_step_kernel[(triton.cdiv(elements, 1024),)](state, score, coefficients, elements, 7, BLOCK=1024)
