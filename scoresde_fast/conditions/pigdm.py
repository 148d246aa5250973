# SPDX-License-Identifier: Apache-2.0
"""Pseudo-inverse guidance (Song, Vahdat, Mardani, Kautz 2023).

    score + scale (d x0_hat / d x)^T A^T (r^2 A A^T + noise^2 I)^-1 (y - A x0_hat)

r(t)^2 is the variance of x(0) given x(t), were the data N(0, data_std^2 I): with data of that variance it is exact.

Where the noise is large d x0_hat / d x is a network's small derivative times a large number, and mostly error; but a
measurement cannot change what is expected of x(0) by much more than the data is spread.  So the guidance is shortened
to what does no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.conditions.measurement import BoundMeasurement, Measurement, span_of
from scoresde_fast.conditions.operators import LinearOperator, ridge_inverse
from scoresde_fast.loop.condition import Data, RunContext, row_table

SPREAD = 2.0
"""How many deviations of the data guidance may move x0_hat, in root mean square."""


class PiGDM(Measurement):
    """Pseudo-inverse guidance (Song, Vahdat, Mardani, Kautz 2023): the score of y, were x(0) Gaussian given x(t).

    Args:
        operator: A; see `scoresde_fast.conditions.operators`.
        measured: (K, ...), A of images in [0, 1], or of points, plus noise.
        noise: the deviation of that noise, in the units of ``measured``.
        scale: of the guidance; 1 is what the data would have it.
        data_std: the deviation of the data's pixels about 0, in the range of the model's; None: 1 of models whose data
            is in [-1, 1] and of points, as published, and 0.5 of those in [0, 1].
        seeds: as in `DPS`.

    Raises:
        ValueError: as `DPS`.
    """

    kind = "pigdm"

    def __init__(
        self,
        operator: LinearOperator,
        measured: Tensor,
        *,
        noise: float = 0.0,
        scale: float = 1.0,
        data_std: float | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        super().__init__(operator, measured, scale=scale, seeds=seeds)
        if not (noise >= 0 and math.isfinite(noise)):
            raise ValueError(f"noise is {noise}; it must be a finite number, 0 or greater")
        if data_std is not None and not (data_std > 0 and math.isfinite(data_std)):
            raise ValueError(f"data_std is {data_std}; it must be a finite number greater than 0")
        self.noise, self.data_std = noise, data_std

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {**super().describe(), "noise": self.noise, "data_std": self.data_std}

    def bind(self, run: RunContext) -> BoundPiGDM:
        """The guidance in the loop of ``run``.

        Raises:
            ValueError: the operator is none, or does not fit the images or the measurements.
        """
        model = run.model
        data_std = self.data_std or (1.0 if model.centered or not model.is_image else 0.5)
        std = model.sde.observation(run.table.times).std
        variance, noise = 1 / (1 / data_std**2 + 1 / std**2), self.noise * span_of(run)
        weights = np.stack([noise**2 / variance, self.scale / variance], axis=1)
        moves = np.abs(model.sde.denoised(run.table.times).score) / (SPREAD * data_std)
        return BoundPiGDM(
            **self.bound_attributes(run), weights=row_table(weights, run.device), moves=row_table(moves, run.device)
        )


@dataclass(frozen=True, eq=False)
class BoundPiGDM(BoundMeasurement):
    """`PiGDM` in the loop of one sampler.

    Attributes:
        weights: (rows, 2), noise^2 / r^2 and scale / r^2.
        moves: (rows,), how far a score of 1 moves x0_hat, over the most that it may.
    """

    weights: Tensor
    moves: Tensor
    pushes: ClassVar[bool] = False

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Something whose gradient is PiGDM's guidance, (B,)."""
        ridge, weight = self.weights.index_select(0, counter)[0].unbind()
        estimate = self.denoised(x, output, counter)
        with torch.no_grad():
            inverse = ridge_inverse(self.operator_for(data), self.residual(estimate, data), ridge)
            direction = weight * inverse
        return (direction * estimate).flatten(1).sum(1)

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """So short that it moves x0_hat by no more than `SPREAD` deviations of the data."""
        of_score = gradient.chunk(self.recovery.shape[1] - 1, dim=1)[-1]
        moves = self.moves.index_select(0, counter) * of_score.flatten(1).square().mean(1).sqrt()
        return gradient * (1 / moves.clamp_min(1)).view(-1, *[1] * (gradient.ndim - 1))
