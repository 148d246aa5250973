# SPDX-License-Identifier: Apache-2.0
"""What decides the length of a step: tolerances, by the error of each sample or of the whole batch; or a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.flow.dormand_prince import ERROR_ORDER, Slope
from scoresde_fast.sdes import Array
from scoresde_fast.solvers.options import Norm, require_norm

SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0
"""Of the change of a step's length (Hairer, Norsett & Wanner, "Solving ODEs I", II.4)."""


@dataclass(frozen=True)
class Tolerances:
    """Steps as long as an estimated error below ``atol`` + ``rtol`` |y| allows, in the root mean square.

    Args:
        rtol, atol: positive numbers, rtol at least 1e-13.
        norm: "sample": each sample has an error and steps of its own; "batch": the mean is over the whole batch, which
            goes in one step, as SciPy's ``solve_ivp`` does with a batch that it sees as one vector.
        most_steps: steps tried, the refused ones included, after which a sample is given up.

    Raises:
        ValueError: a number is out of its range, or the norm is unknown.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    norm: Norm = "sample"
    most_steps: int = 10_000

    def __post_init__(self) -> None:
        for name, least in (("rtol", 1e-13), ("atol", 0.0)):
            value = getattr(self, name)
            if not (value >= least and value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be a finite number greater than {least:g}")
        require_norm("error norm", self.norm)
        if self.most_steps < 1:
            raise ValueError(f"most_steps is {self.most_steps}; it must be at least 1")

    def measure(self, values: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """(B,) the root mean square of values (B, N) in units of what is allowed at both ends of a step."""
        allowed = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        squares = (values / allowed).square()
        if self.norm == "batch":
            return squares.mean().sqrt().expand(len(values))
        return squares.mean(1).sqrt()

    def first_length(self, slope: Slope, y: Tensor, first: Tensor, t: Tensor, end: Tensor) -> Tensor:
        """(B,) the length of a first step (Hairer, Norsett & Wanner, II.4); it costs one evaluation."""
        span, direction = (end - t).abs(), torch.sign(end - t)
        size, rate = self.measure(y, y, y), self.measure(first, y, y)
        small = (size < 1e-5) | (rate < 1e-5)
        trial = torch.where(small, 1e-6, 0.01 * size / rate.clamp(min=1e-300)).minimum(span)
        ahead = slope(y + (trial * direction)[:, None] * first, t + trial * direction)
        change = self.measure(ahead - first, y, y) / trial
        flat = (rate <= 1e-15) & (change <= 1e-15)
        steepest = torch.maximum(rate, change).clamp(min=1e-300)
        length = torch.where(flat, (1e-3 * trial).clamp(min=1e-6), (0.01 / steepest) ** (1 / (ERROR_ORDER + 1)))
        # Where the trial went too far there is nothing to learn from it.
        length = torch.where(change.isfinite(), length, 1e-3 * trial)
        return torch.minimum(100 * trial, length).minimum(span)

    def next_length(self, length: Tensor, error: Tensor, accepted: Tensor, refused_before: Tensor) -> Tensor:
        """(B,) after a step of that length and error; one that follows a refusal does not grow."""
        factor = SAFETY * error.clamp(min=1e-300) ** (-1 / (ERROR_ORDER + 1))
        grown = torch.where(refused_before, factor.clamp(max=1.0), factor.clamp(max=LARGEST))
        shrunk = torch.where(error.isfinite(), factor, SMALLEST).clamp(min=SMALLEST)
        return length * torch.where(accepted, grown, shrunk)


@dataclass(frozen=True, eq=False)
class Fixed:
    """Steps between given times, which every sample takes; no error is looked at.

    Args:
        times: (n + 1,) strictly increasing or decreasing.

    Raises:
        ValueError: they are not.
    """

    times: Array

    def __post_init__(self) -> None:
        lengths = np.diff(self.times)
        if len(lengths) < 1 or not ((lengths > 0).all() or (lengths < 0).all()):
            raise ValueError(f"times are {self.times}; give at least two that only increase or only decrease")
