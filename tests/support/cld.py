# SPDX-License-Identifier: Apache-2.0
"""CLD SDEs, toy models and runs, for the tests of CLD's solvers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE
from scoresde_fast.solvers import StepTable

CONSTANT, LINEAR = CLDSDE(), CLDSDE(beta0=0.1, beta1=6.9, numerical_eps=1e-6)
CLDS = {"const": CONSTANT, "linear": LINEAR}
DAMPINGS = {"critical": None, "under": 0.4, "over": 2.0}  # values of `CLDSDE.friction`
MEAN, STD = 0.3, 0.5  # of Gaussian data


class GoldenNetwork(nn.Module):
    """The function that replaced the network in the golden runs."""

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        x, v = u.chunk(2, dim=1)
        return 0.2 * x - 0.3 * v + t.view(-1, 1, 1, 1)


def mixture(sde: SDE) -> GaussianMixture:
    """Return a mixture of three narrow modes on a line."""
    means = torch.tensor([-0.8, -0.1, 0.6]).view(3, 1, 1, 1)
    return GaussianMixture(sde, [0.3, 0.5, 0.2], means, [0.05] * 3)


def run(model: ScoreFunction, table: StepTable, u: Tensor, backend: str = "auto", seed: int = 0) -> Tensor:
    """Run the loop from the states ``u``."""
    program = Program.of_model(model, table, "cpu")
    loop = Loop(program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu", backend), seed)
    return loop.run(u, Noise(seed, torch.arange(len(u))))
