# SPDX-License-Identifier: Apache-2.0
"""Operations: the schema, PyTorch reference and backends of each.  No other layer knows about backends.

Each file defines an operation and its variants, and a wrapper that checks the arguments and calls the selected backend.
"""

from scoresde_fast.ops import (
    affine_step,
    convolution,
    fir_resample,
    group_norm_attention,
    group_norm_silu,
    hutchinson_dot,
    langevin,
    normal,
    project,
    winograd_convolution,
)
from scoresde_fast.ops.registration import BACKENDS, Operation, operations

__all__ = [
    "BACKENDS",
    "Operation",
    "affine_step",
    "convolution",
    "fir_resample",
    "group_norm_attention",
    "group_norm_silu",
    "hutchinson_dot",
    "langevin",
    "normal",
    "operations",
    "project",
    "winograd_convolution",
]
