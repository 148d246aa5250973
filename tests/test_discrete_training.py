# SPDX-License-Identifier: Apache-2.0
"""Models trained at discrete times: solvers other than the published ones evaluate them as they were trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.model import ScoreFunction
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import SMLD, VESDE, VPSDE, ScalarSDE
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.chance import assert_moments

MEAN, STD = 0.3, 0.5
BETAS = sf.Betas(VPSDE().discrete_betas(1000))
LEVELS = VESDE().noise_levels(1000)[:-1]


class IdealNetwork(nn.Module):
    """The exact output for N(MEAN, STD^2) at the index of DDPM (noise after i + 1 steps) or of SMLD (largest first)."""

    def __init__(self, ddpm: bool) -> None:
        super().__init__()
        self.ddpm = ddpm
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: set[float] = set()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        self.seen |= set(labels.tolist())
        index = labels.numpy().round().astype(int)
        marginal = BETAS.marginal((index + 1) / 1000) if self.ddpm else (np.ones(len(index)), LEVELS[999 - index])
        scale, std = (torch.from_numpy(value).float().view(-1, 1, 1, 1) for value in marginal)
        score = -(x - scale * MEAN) / (scale**2 * STD**2 + std**2)
        return (-std * score if self.ddpm else score) + self.weight


def ideal(sde: ScalarSDE) -> tuple[ScoreFunction, IdealNetwork]:
    """Return the model of an `IdealNetwork`."""
    network = IdealNetwork(isinstance(sde, VPSDE))
    return ScoreFunction(network, OfficialParametrisation(sde, continuous=False), (1, 4, 4), None), network


@pytest.mark.statistical
@pytest.mark.parametrize("solver", ["sa", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["ddpm", "smld"])
def test_indices_of_training(sde: ScalarSDE, solver: str, run_seed: int) -> None:
    """Labels are indices, and samples have the distribution that the table gives at the noise of these indices."""
    model, network = ideal(sde)
    options = SolverOptions(solver, 50, grid="uniform" if isinstance(sde, VPSDE) else "karras")
    samples = sf.Sampler(model, options, run_seed=run_seed, batch_size=1000).sample(range(1000))
    trained = BETAS if isinstance(sde, VPSDE) else SMLD()
    expected = propagate(build_table(trained, options), trained, (MEAN, STD), prior(trained))
    assert_moments(samples, expected.mean[0], math.sqrt(expected.covariance[0, 0]))
    assert all(label == round(label) for label in network.seen) and max(network.seen) == 999


def test_published_solvers_keep_the_official_labels() -> None:
    """The sampler of DDPM evaluates t (n - 1), as the official code does."""
    model, network = ideal(VPSDE())
    sf.Sampler(model, "ancestral", 50).sample([0])
    expected = np.linspace(1, 1e-3, 50)
    np.testing.assert_allclose(sorted(network.seen), sorted(999 * expected), rtol=1e-5)


def test_changed_network_is_used() -> None:
    """A new network, and new weights, take effect although the runner has the model of the indices."""
    model, network = ideal(VPSDE())
    sampler = sf.Sampler(model, "ddim", 5)
    first = sampler.sample([0])
    with torch.no_grad():
        network.weight.fill_(0.5)
    second = sampler.sample([0])
    model.network = IdealNetwork(True)
    assert not torch.equal(first, second) and torch.equal(sampler.sample([0]), first)
