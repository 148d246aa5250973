# SPDX-License-Identifier: Apache-2.0
"""Columns of step tables, named as in ``scoresde_fast.ops.step_table``, and the row index of a step.

Kernels import these names one by one, because Triton's cache key misses constants accessed as module attributes.
"""

import triton
import triton.language as tl

# affine_step and the Langevin operations
STATE = tl.constexpr(0)
SAVED = tl.constexpr(1)
OUTPUT = tl.constexpr(2)
EARLIER1 = tl.constexpr(3)
EARLIER2 = tl.constexpr(4)
EARLIER3 = tl.constexpr(5)
NOISE = tl.constexpr(6)
DERIVE_STATE = tl.constexpr(7)
DERIVE_OUTPUT = tl.constexpr(8)
LANGEVIN = tl.constexpr(9)
WIDTH = tl.constexpr(10)

# affine_step_pair: first column of each 2x2 matrix (stored row by row), of each vector, and of the noise (xx, vx, vv)
PAIR_STATE = tl.constexpr(0)
PAIR_SAVED = tl.constexpr(4)
PAIR_OUTPUT = tl.constexpr(8)
PAIR_EARLIER1 = tl.constexpr(10)
PAIR_EARLIER2 = tl.constexpr(14)
PAIR_EARLIER3 = tl.constexpr(18)
PAIR_NOISE = tl.constexpr(22)
PAIR_DERIVE_STATE = tl.constexpr(25)
PAIR_DERIVE_OUTPUT = tl.constexpr(29)
PAIR_WIDTH = tl.constexpr(31)

# project
LEVEL_SCALE = tl.constexpr(0)
LEVEL_NOISE = tl.constexpr(1)
LEVEL_VELOCITY_SCALE = tl.constexpr(2)
LEVEL_VELOCITY_NOISE_X = tl.constexpr(3)
LEVEL_VELOCITY_NOISE_V = tl.constexpr(4)
LEVEL_WIDTH = tl.constexpr(5)

# hutchinson_dot
DOT_CONSTANT = tl.constexpr(0)
DOT_FACTOR = tl.constexpr(1)
DOT_WIDTH = tl.constexpr(2)

# control columns (int32)
CONTROL_DRAW = tl.constexpr(0)
CONTROL_SLOT = tl.constexpr(1)
CONTROL_SAVE = tl.constexpr(2)
CONTROL_WIDTH = tl.constexpr(3)


@triton.jit
def row_index(p_counter, offset, rows):
    """Return min(counter[0] + offset, rows - 1) as int64."""
    row = offset.to(tl.int64)
    if p_counter is not None:
        row += tl.load(p_counter).to(tl.int64)
    return tl.minimum(row, rows - 1)
