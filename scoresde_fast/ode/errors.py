# SPDX-License-Identifier: Apache-2.0
"""What ends an integration early, with everything that it had reached."""

from __future__ import annotations

from torch import Tensor


class IntegrationError(ArithmeticError):
    """A sample cannot be integrated to the end; says which, where it stopped and why.

    Attributes:
        y: (B, N) float64, the last accepted state of every sample.
        t: (B,) float64, the time of each.
    """

    def __init__(self, sentence: str, y: Tensor, t: Tensor) -> None:
        super().__init__(sentence)
        self.y, self.t = y, t
