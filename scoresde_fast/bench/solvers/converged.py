# SPDX-License-Identifier: Apache-2.0
"""Where the probability flow really leads: integrated in float64 with many steps, by two methods that must agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.solvers import make_grid

STEPS = 256
PARTICLES = 1024
"""How many seeds, the first ones, are followed."""


@dataclass(frozen=True)
class Method:
    """An explicit Runge-Kutta method: what every stage but the first takes of those before, and the weights of all."""

    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


RUNGE_KUTTA = Method(((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
KUTTA_3 = Method(((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6))
"""Of orders 4 and 3 (Kutta 1901)."""


@dataclass(frozen=True, eq=False)
class ConvergedFlow:
    """The data parts (N, C, H, W) of the flow's end at eps, from the priors of the first N seeds.

    Attributes:
        end: by `RUNGE_KUTTA`.
        gap: root mean square of its difference to `KUTTA_3` with twice the steps: errors below that mean nothing.
    """

    end: Tensor
    gap: float

    @classmethod
    def of(cls, model: ScoreFunction, samples: int) -> ConvergedFlow:
        """The flow of `PARTICLES` of ``samples`` seeds, or of all where they are fewer."""
        noise = Noise(0, torch.arange(min(samples, PARTICLES)))
        start = model.prior(noise.normal(0, model.state_shape)).double()
        ends = [solve(model, start, method, n) for method, n in ((RUNGE_KUTTA, STEPS), (KUTTA_3, 2 * STEPS))]
        end, other = (states.chunk(model.sde.parts, dim=1)[0] for states in ends)
        return cls(end, root_mean_square(end - other))

    def error(self, end: Tensor) -> float:
        """Root mean square distance of (N, C, H, W)."""
        return root_mean_square(end.to(self.end) - self.end)

    @property
    def seeds(self) -> Sequence[int]:
        return range(len(self.end))


@torch.no_grad()
def solve(model: ScoreFunction, x: Tensor, method: Method, steps: int) -> Tensor:
    """States (N, ...) at T -> at eps; the steps are even in a root of the noise-to-signal ratio."""
    sde = model.sde
    grid = make_grid("karras", sde, steps, sde.sampling_eps)
    fractions = [0.0, *(sum(stage) for stage in method.stages)]
    for t, dt in zip(grid.times, grid.dt, strict=True):
        slopes: list[Tensor] = []
        for fraction, stage in zip(fractions, ((), *method.stages), strict=True):
            here = x - dt * sum((a * slope for a, slope in zip(stage, slopes, strict=True)), torch.zeros_like(x))
            slopes.append(model.probability_flow(here, torch.full((len(x),), t - fraction * dt, dtype=x.dtype)))
        x = x - dt * sum((w * slope for w, slope in zip(method.weights, slopes, strict=True)), torch.zeros_like(x))
    return x


def root_mean_square(x: Tensor) -> float:
    """Of all elements."""
    return float(x.square().mean().sqrt())
