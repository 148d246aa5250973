# SPDX-License-Identifier: Apache-2.0
"""Deblurring: a Gaussian blur."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.conditions.operators.separable import CUTOFF, AnySize, require_cutoff
from scoresde_fast.conditions.operators.sizes import require_whole


class Blur(AnySize):
    """The Gaussian blur of deviation ``std``, with the image mirrored at its borders, the last pixel included.

    The kernel is exp(-d^2 / (2 std^2)) at the distances d = -radius .. radius, and sums to 1.

    Args:
        std: in pixels.
        radius: in pixels; None: 4 std, to the nearest pixel, but at least 1.
        cutoff: as in `Separable`: what is blurred more than by this factor is not sharpened.

    Raises:
        ValueError: the deviation is not above 0, the radius not a whole number of at least 1, or the cutoff not in
            (0, 1e-3].
    """

    def __init__(self, std: float, radius: int | None = None, cutoff: float = CUTOFF) -> None:
        super().__init__()
        if not 0 < std < math.inf:
            raise ValueError(f"std is {std!r}; it must be a finite number of pixels above 0")
        self.std = float(std)
        self.radius = max(1, int(4 * std + 0.5)) if radius is None else radius
        require_whole("radius", self.radius, 1)
        require_cutoff(cutoff)
        self.cutoff = cutoff

    def __repr__(self) -> str:
        return f"Blur(std={self.std:g}, radius={self.radius})"

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {"kind": "blur", "std": self.std, "radius": self.radius, "cutoff": self.cutoff}

    def matrix(self, pixels: int) -> Tensor:
        """(n, n) float64."""
        distances = torch.arange(-self.radius, self.radius + 1)
        kernel = torch.softmax(-(distances.double() / self.std).square() / 2, dim=0)
        place = (torch.arange(pixels)[:, None] + distances) % (2 * pixels)
        mirrored = torch.minimum(place, 2 * pixels - 1 - place)
        return torch.zeros(pixels, pixels, dtype=torch.float64).scatter_add(1, mirrored, kernel.expand(pixels, -1))

    def image_pixels(self, measured: int) -> int:
        """As many."""
        return measured
