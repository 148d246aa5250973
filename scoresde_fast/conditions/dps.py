# SPDX-License-Identifier: Apache-2.0
"""Diffusion posterior sampling: x <- x - scale grad ||y - A x0_hat|| after rows (Chung et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scoresde_fast.conditions.measurement import BoundMeasurement, Measurement
from scoresde_fast.conditions.operators import LinearOperator
from scoresde_fast.loop.condition import Data, RunContext

TINY = 1e-12
"""Below this a residual has no direction."""


class DPS(Measurement):
    """Diffusion posterior sampling (Chung et al. 2023): after each row a step down the residual's norm.

    Args:
        operator: A; see `scoresde_fast.conditions.operators`.
        measured: (K, ...), A of images in [0, 1], or of points.
        scale: the length of a step where the residual's gradient is 1, in the range of the model's data; 0.3 to 1 with
            1000 steps are usual, and more with fewer.
        seeds: the seeds that belong to the K measurements, as many to each, those of the first first; None where K is
            1: all seeds do.

    Raises:
        ValueError: a number is not finite or out of range, or there are not as many seeds as measurements.
    """

    kind = "dps"

    def __init__(
        self, operator: LinearOperator, measured: Tensor, *, scale: float = 1.0, seeds: Sequence[int] | None = None
    ) -> None:
        super().__init__(operator, measured, scale=scale, seeds=seeds)

    def bind(self, run: RunContext) -> BoundDPS:
        """The guidance in the loop of ``run``.

        Raises:
            ValueError: the operator is none, or does not fit the images or the measurements.
        """
        return BoundDPS(**self.bound_attributes(run))


@dataclass(frozen=True, eq=False)
class BoundDPS(BoundMeasurement):
    """`DPS` in the loop of one sampler."""

    pushes: ClassVar[bool] = True

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """-scale ||y - A x0_hat||, (B,)."""
        residual = self.residual(self.denoised(x, output, counter), data).flatten(1)
        # The norm is not differentiable at 0: its gradient is written out, and is 0 there.
        direction = residual.detach() / residual.detach().norm(dim=1, keepdim=True).clamp_min(TINY)
        return -self.scale * (direction * residual).sum(1)

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """As it is."""
        return gradient
