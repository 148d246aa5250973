# SPDX-License-Identifier: Apache-2.0
"""Linear measurements of images: what guidance by a measurement needs to know of them."""

from scoresde_fast.conditions.operators.adjoint import require_adjoint
from scoresde_fast.conditions.operators.blur import Blur
from scoresde_fast.conditions.operators.gray import Gray
from scoresde_fast.conditions.operators.linear import LinearOperator, operator_of, parameters_of, ridge_inverse
from scoresde_fast.conditions.operators.mask import Mask
from scoresde_fast.conditions.operators.separable import Separable
from scoresde_fast.conditions.operators.super_resolution import SuperResolution

__all__ = [
    "Blur",
    "Gray",
    "LinearOperator",
    "Mask",
    "Separable",
    "SuperResolution",
    "operator_of",
    "parameters_of",
    "require_adjoint",
    "ridge_inverse",
]
