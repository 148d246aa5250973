# SPDX-License-Identifier: Apache-2.0
"""Wrapped networks: every prediction on every schedule samples as the exact score does, and misuse is explained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import scoresde_fast as sf
from scoresde_fast.solvers import SolverOptions
from scoresde_fast.solvers.noise_schedule import time_of
from tests.support.own_networks import CASES, mixture, wrapped

SOLVERS = (
    SolverOptions("dpmpp_2m", 20, grid="logsnr"),
    SolverOptions("unipc", 12, grid="karras"),
    SolverOptions("heun", 12, grid="karras"),
    SolverOptions("sa", 15, grid="logsnr"),
    SolverOptions("pc", 40, grid="logsnr"),
    SolverOptions("reverse_diffusion", 40, "ald", grid="logsnr"),
)


@pytest.mark.parametrize("options", SOLVERS, ids=lambda options: f"{options.solver}-{options.paired_corrector}")
@pytest.mark.parametrize("name", CASES)
def test_same_samples_as_the_score(name: str, options: SolverOptions) -> None:
    """With the same noise, samples agree to 1e-5 with those of the score model."""
    sde = CASES[name].sde
    if options.paired_corrector == "langevin":
        # The step size needs the score. In float32, a prediction of x(0) does not determine it at very small noise.
        options = replace(options, eps=float(time_of(sde, np.array(0.05), sde.sampling_eps, sde.T)))
    expected = sf.Sampler(mixture(sde), options).sample(range(16))
    samples = sf.Sampler(wrapped(name), options).sample(range(16))
    # Cosine betas end at sigma / alpha = 20 000, which multiplies the rounding of the score.
    amplification = float(sde.noise_to_signal(sde.T))
    tolerance = 1e-5 if amplification <= 1000 else amplification * 2**-24
    assert (samples - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.statistical
@pytest.mark.parametrize("name", CASES)
def test_moments(name: str, run_seed: int) -> None:
    """20 000 samples have the mean and the covariance of the data, within four standard errors of each direction."""
    data = mixture(CASES[name].sde).network
    options = SolverOptions("dpmpp_2m", 60, grid="logsnr")
    samples = sf.Sampler(wrapped(name), options, run_seed=run_seed, batch_size=5000).sample(range(20_000))
    values = samples.flatten(1).double()
    weights, means = data.log_weights.exp(), data.means.flatten(1)
    mean = weights @ means
    # Along the line between the two means, and at right angles to it.
    along = nn.functional.normalize(means[1] - means[0], dim=0)
    across = torch.zeros_like(along)
    across[:2] = nn.functional.normalize(torch.stack([along[1], -along[0]]), dim=0)
    for direction in (along, across):
        projected = (values - mean) @ direction
        centres = (means - mean) @ direction
        variance = float(weights @ (data.stds**2 + centres**2))
        fourth = float(weights @ (3 * data.stds**4 + 6 * data.stds**2 * centres**2 + centres**4))
        assert abs(float(projected.mean())) <= 4 * math.sqrt(variance / 20_000)
        error = float(projected.square().mean()) - variance
        assert abs(error) <= 4 * math.sqrt((fourth - variance**2) / 20_000)
