# SPDX-License-Identifier: Apache-2.0
"""``affine_step``: one row of a step table, the only arithmetic of a fixed-step solver."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def derive(state: Tensor, network_output: Tensor, coefficients: Tensor) -> Tensor:
    """The newest derived output: coefficients[0] state + coefficients[1] network_output.

    Args:
        state: (B, ...) float32.
        network_output: as ``state``, any floating dtype.
        coefficients: (2,) float32.
    """
    return coefficients[0] * state + coefficients[1] * network_output


def affine_step(
    state: Tensor, saved: Tensor | None, outputs: Sequence[Tensor], noise: Tensor | None, coefficients: Tensor
) -> Tensor:
    """The next state: the linear combination of the registers with the row's coefficients.

    Args:
        state: (B, ...) float32.
        saved: the saved state, or None where the run never saved one.
        outputs: derived outputs, newest first, at most four.
        noise: a normal field, or None where the row has none.
        coefficients: (7,) float32, [state, saved, outputs (4), noise].
    """
    result = coefficients[0] * state
    if saved is not None:
        result = result.addcmul(saved, coefficients[1])
    for output, coefficient in zip(outputs, coefficients[2:6], strict=False):
        result = result.addcmul(output, coefficient)
    return result if noise is None else result.addcmul(noise, coefficients[6])
