# SPDX-License-Identifier: Apache-2.0
"""Sampling, likelihoods and codes with noise schedules other than the papers' SDEs, on data with an exact score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import ScalarSDE, Time
from scoresde_fast.sdes.scalar import Marginal
from scoresde_fast.solvers import SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import marginal, prior, propagate
from tests.support.chance import assert_moments

MEAN, STD = 0.3, 0.5


@dataclass(frozen=True)
class Cosine(ScalarSDE):
    """An SDE that a user defines by its marginals alone."""

    def marginal(self, t: Time) -> Marginal:
        angle = 1.56 * np.asarray(t)
        return Marginal(np.cos(angle), np.sin(angle))


SCHEDULES: dict[str, ScalarSDE] = {
    "edm": sf.EDM(),
    "rectified_flow": sf.RectifiedFlow(),
    "functions": sf.Schedule(lambda t: 1 - t**2, lambda t: t, T=0.998),
    "marginals": Cosine(),
    "betas": sf.Betas.linear(),
}


FIXED_STEP = (
    SolverOptions("sa", 50, grid="logsnr"),
    SolverOptions("reverse_diffusion", 200, "ald", grid="logsnr"),
)


def gaussian(name: str) -> sf.GaussianMixture:
    """Return the exact score model of points (1, 4, 4) with independent elements N(MEAN, STD^2)."""
    return sf.GaussianMixture(SCHEDULES[name], [1.0], torch.full((1, 1, 4, 4), MEAN), [STD], is_image=False)


@pytest.mark.statistical
@pytest.mark.parametrize("options", FIXED_STEP, ids=lambda options: options.solver)
@pytest.mark.parametrize("name", SCHEDULES)
def test_fixed_steps(name: str, options: SolverOptions, run_seed: int) -> None:
    """Samples have the distribution that the table gives on Gaussian data."""
    sde = SCHEDULES[name]
    expected = propagate(build_table(sde, options), sde, (MEAN, STD), prior(sde))
    samples = sf.Sampler(gaussian(name), options, run_seed=run_seed, batch_size=1000).sample(range(1000))
    assert_moments(samples, expected.mean[0], math.sqrt(expected.covariance[0, 0]))


@pytest.mark.statistical
@pytest.mark.parametrize("solver", ["rk45", "ggf"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_adaptive_steps(name: str, solver: str, run_seed: int) -> None:
    """Samples have the mean and standard deviation of the data, within the solver's relative tolerance."""
    sampler = sf.Sampler(gaussian(name), solver, run_seed=run_seed, batch_size=1000)
    assert isinstance(sampler.options, sf.AdaptiveOptions) and sampler.options.rtol is not None
    assert_moments(sampler.sample(range(1000)), MEAN, STD, bias=max(sampler.options.rtol, 1e-3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_likelihood_and_codes(name: str) -> None:
    """Log densities are those of the exact flow, which is affine on Gaussian data; decoded codes are the images."""
    model, sde, eps = gaussian(name), SCHEDULES[name], 1e-5
    images = torch.linspace(0, 1, 32, dtype=torch.float64).view(2, 1, 4, 4)
    start, end = marginal(sde, eps, MEAN, STD), marginal(sde, sde.T, MEAN, STD)
    growth = math.sqrt(end.covariance[0, 0] / start.covariance[0, 0])
    ends = end.mean[0] + growth * (images.numpy() - start.mean[0])
    exact = sde.prior_log_density(ends) + 16 * math.log(growth)
    density = sf.likelihood(model, images, probe="exact", dequantize=False, eps=eps, rtol=1e-6, atol=1e-6).log_density
    np.testing.assert_allclose(density, exact, rtol=0, atol=16 * 1e-3)
    torch.testing.assert_close(sf.decode(model, sf.encode(model, images)), images.float(), rtol=0, atol=1e-3)


def test_unknown_labels() -> None:
    """The official parametrisation is refused for other schedules; the message says what to define."""
    with pytest.raises(ValueError, match=r"networks on the SDE 'edm' are not known: use scoresde_fast\.wrap"):
        OfficialParametrisation(sf.EDM())


def test_functions_of_torch() -> None:
    """A schedule with functions of torch is refused with the remedy."""
    with pytest.raises(TypeError, match=r"alpha fails for a NumPy array of times: .*; use functions of NumPy"):
        sf.Schedule(torch.cos, torch.sin)  # type: ignore[arg-type]


def test_default_steps() -> None:
    """By default the number of steps fits a table of betas."""
    model = sf.GaussianMixture.gaussian(sf.Betas.linear(50, 0.01, 0.4), MEAN, STD, (1, 4, 4))
    sampler = sf.Sampler(model)
    assert isinstance(sampler.options, SolverOptions) and sampler.options.steps == 49
    assert sampler.sample([0]).shape == (1, 1, 4, 4)
