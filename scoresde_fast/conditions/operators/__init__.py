# SPDX-License-Identifier: Apache-2.0
"""Linear operators that measure images, for guidance."""

from scoresde_fast.conditions.operators.gray import Gray
from scoresde_fast.conditions.operators.linear import (
    LinearOperator,
    operator_for_batch,
    parameters_of,
    require_adjoint,
    ridge_inverse,
)
from scoresde_fast.conditions.operators.mask import Mask
from scoresde_fast.conditions.operators.separable import Blur, Separable, SuperResolution

__all__ = [
    "Blur",
    "Gray",
    "LinearOperator",
    "Mask",
    "Separable",
    "SuperResolution",
    "operator_for_batch",
    "parameters_of",
    "require_adjoint",
    "ridge_inverse",
]
