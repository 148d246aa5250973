# SPDX-License-Identifier: Apache-2.0
"""The Runge-Kutta pair of Dormand and Prince, of orders 5 and 4, and its continuous extension of order 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Slope = Callable[[Tensor, Tensor], Tensor]
"""``slope(y, t)``: (B, N), (B,) float64 -> (B, N) float64."""

ORDER, ERROR_ORDER = 5, 4
STAGES = 6
"""Evaluations a step: the seventh stage is the next step's first."""

# Dormand & Prince 1980, table 2.
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
COUPLING = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
#: Of order 5 less those of order 4.
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
#: Shampine 1986: y(t + theta h) = y + h sum_ij k_i DENSE[i][j] theta^(j + 1).
DENSE = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)


class Step(NamedTuple):
    """A step that was tried.

    Attributes:
        y: (B, N), where it leads.
        slope: (B, N), there.
        error: (B, N), the difference of the two orders.
        stages: (7, B, N).
    """

    y: Tensor
    slope: Tensor
    error: Tensor
    stages: Tensor


class Tableau:
    """The pair's coefficients on a device."""

    def __init__(self, device: torch.device) -> None:
        def on_device(values: tuple[object, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(device)

        self._coupling = [on_device(row) for row in COUPLING]
        self._weights, self._error, self._dense = on_device(WEIGHTS), on_device(ERROR), on_device(DENSE)

    def step(self, slope: Slope, y: Tensor, first: Tensor, t: Tensor, h: Tensor) -> Step:
        """From ``y`` (B, N) with the slope ``first`` there, at times ``t`` (B,) by steps ``h`` (B,), of either sign."""
        stages = y.new_empty(STAGES + 1, *y.shape)
        stages[0] = first
        for stage in range(1, STAGES):
            at = y + h[:, None] * _combine(self._coupling[stage], stages[:stage])
            stages[stage] = slope(at, t + NODES[stage] * h)
        new = y + h[:, None] * _combine(self._weights, stages[:STAGES])
        stages[STAGES] = slope(new, t + h)
        return Step(new, stages[STAGES], h[:, None] * _combine(self._error, stages), stages)

    def between(self, y: Tensor, step: Step, h: Tensor, theta: Tensor) -> Tensor:
        """The state (B, N) at the shares ``theta`` (B,) of a step from ``y``."""
        powers = torch.stack([theta, theta**2, theta**3, theta**4])  # (4, B)
        shares = h * (self._dense @ powers)  # (7, B)
        return y + (shares[:, :, None] * step.stages).sum(0)


def _combine(weights: Tensor, stages: Tensor) -> Tensor:
    return (weights[None] @ stages.flatten(1)).view(stages.shape[1:])
