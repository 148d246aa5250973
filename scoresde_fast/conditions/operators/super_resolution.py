# SPDX-License-Identifier: Apache-2.0
"""Super-resolution: the means over blocks of pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.separable import AnySize
from scoresde_fast.conditions.operators.sizes import require_whole


class SuperResolution(AnySize):
    """The means over factor x factor pixels: A A^T = I / factor^2.

    Args:
        factor: how much smaller what is measured is, in each direction.

    Raises:
        ValueError: the factor is not a whole number of at least 2.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        require_whole("factor", factor, 2)
        self.factor = factor

    def __repr__(self) -> str:
        return f"SuperResolution(factor={self.factor})"

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {"kind": "super_resolution", "factor": self.factor}

    def matrix(self, pixels: int) -> Tensor:
        """(n / factor, n) float64.

        Raises:
            ValueError: the factor does not divide n.
        """
        if pixels % self.factor:
            raise ValueError(
                f"an image of {pixels} pixels in a row or column has no means over {self.factor}; choose a factor that "
                "divides its height and width"
            )
        blocks = torch.eye(pixels // self.factor, dtype=torch.float64)
        return blocks.repeat_interleave(self.factor, dim=1) / self.factor

    def image_pixels(self, measured: int) -> int:
        """As many times the factor."""
        return measured * self.factor
