# SPDX-License-Identifier: Apache-2.0
"""Operations: schema, PyTorch reference, fake and faster backends of each; the only place that knows backends.

One file an operation; the wrapper in it calls the backend that was chosen, and says what is wrong with an argument.
"""

from scoresde_fast.ops import (
    affine_step,
    affine_step_pair,
    convolution,
    fir_resample,
    group_norm_attention,
    group_norm_silu,
    hutchinson_dot,
    langevin,
    langevin_norms,
    langevin_step,
    normal,
    project,
    rademacher,
    winograd_convolution,
)
from scoresde_fast.ops.backends import BACKENDS, Operation, operations

__all__ = [
    "BACKENDS",
    "Operation",
    "affine_step",
    "affine_step_pair",
    "convolution",
    "fir_resample",
    "group_norm_attention",
    "group_norm_silu",
    "hutchinson_dot",
    "langevin",
    "langevin_norms",
    "langevin_step",
    "normal",
    "operations",
    "project",
    "rademacher",
    "winograd_convolution",
]
