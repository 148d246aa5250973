# SPDX-License-Identifier: Apache-2.0
"""Likelihoods, bits per dimension and CLD's bound, against closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.evaluation import bits_per_dimension, position_log_density_bound
from scoresde_fast.flow.codes import data_states
from scoresde_fast.flow.likelihood import LikelihoodEstimator, dequantized
from scoresde_fast.sdes import CLDSDE, VPSDE
from tests.support.chance import SIGMAS, standard_error_of_mean
from tests.support.flow_models import LONG_SDES, mixture

DIMENSIONS = 12
SDE = CLDSDE()
VARIANCE = SDE.gamma * SDE.mass


def log_normal(squares: Tensor, variance: float) -> Tensor:
    return -0.5 * (squares / variance + math.log(2 * math.pi * variance))


@pytest.mark.parametrize("centered", [True, False], ids=["[-1, 1]", "[0, 1]"])
def test_uniform_density_has_eight_bits(centered: bool) -> None:
    """The uniform density over images has 8 bits per dimension, in either range."""
    span = 2.0 if centered else 1.0
    log_density = torch.tensor([-DIMENSIONS * math.log(span)])
    assert float(bits_per_dimension(log_density, DIMENSIONS, span)) == pytest.approx(8.0)


def test_bound_is_tight_for_an_independent_velocity() -> None:
    """If the model's velocity is independent and N(0, gamma M), the bound equals log p(x)."""
    x = torch.randn(5, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_position = log_normal(x**2, 0.25).sum(1)
    # E[log p(x, v)] over v, in closed form
    joint = log_position + DIMENSIONS * log_normal(torch.tensor(VARIANCE, dtype=torch.float64), VARIANCE)
    bound = position_log_density_bound(joint, SDE, DIMENSIONS)
    assert torch.allclose(bound, log_position, rtol=1e-12)


def test_too_few_fixed_steps_warn_once() -> None:
    """Likelihoods whose fixed steps are too few to trust warn once, with the estimated error; accurate ones do not.

    The error of 2 steps on a narrow Gaussian was 5 bits per dimension, of 8 steps 0.03, and of 30 steps 2e-5.
    """
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.5, 0.01, (1, 2, 2))
    data = torch.full((1, 1, 2, 2), 128, dtype=torch.uint8)
    exact = sf.likelihood(model, data, probe="exact", rtol=1e-8, atol=1e-8).bits_per_dim
    assert exact is not None
    for steps, warned in ((2, True), (8, True), (30, False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator = LikelihoodEstimator(model, probe="exact", steps=steps)
            bits = estimator.estimate(data).bits_per_dim
            estimator.estimate(data)
        assert bits is not None and (abs(float(bits - exact)) > 0.01) == warned
        assert len(caught) == warned and all(warning.filename == __file__ for warning in caught)
        begin = f"{steps} fixed steps are too few: the estimated error of the likelihoods is "
        assert all(str(warning.message).startswith(begin) for warning in caught)
    images = torch.full((1, 1, 2, 2), 0.51)
    with pytest.warns(RuntimeWarning, match="2 fixed steps are too few: the estimated error of the codes is"):
        codes = sf.encode(model, images, steps=2)
    with pytest.warns(RuntimeWarning, match="2 fixed steps are too few: the estimated error of the decoded samples"):
        sf.decode(model, codes, steps=2)


def test_gap_of_the_bound() -> None:
    """If velocity and position are correlated, the bound is below log p(x) by KL(q(v) | p(v | x)), by Jensen."""
    covariance = np.array([[0.25, 0.03], [0.03, 0.012]])
    slope = covariance[0, 1] / covariance[0, 0]
    variance = covariance[1, 1] - slope * covariance[0, 1]
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    log_position = log_normal(x**2, covariance[0, 0])
    # p(v | x) = N(slope x, variance); its log is averaged over v ~ N(0, gamma M)
    joint = log_position + log_normal(VARIANCE + (slope * x) ** 2, variance)
    divergence = 0.5 * (math.log(variance / VARIANCE) + (VARIANCE + (slope * x) ** 2) / variance - 1)
    bound = position_log_density_bound(joint, SDE, 1)
    assert (bound < log_position).all()
    assert torch.allclose(log_position - bound, divergence, rtol=1e-10)


EPS = 1e-5


def exact_log_density(model: sf.GaussianMixture, data: Tensor, run_seed: int = 0) -> Tensor:
    """Return the log density of the data; on CLD the joint log density plus the velocity's entropy, as in the bound."""
    states = data_states(model, data, list(range(len(data))), run_seed)
    density = model.log_density(states, torch.full((len(data),), EPS, dtype=torch.float64))
    sde = model.sde
    return density + sde.velocity_entropy(data[0].numel()) if isinstance(sde, CLDSDE) else density


@pytest.mark.parametrize(
    ("name", "shape", "components"),
    [
        ("ve", (2, 1, 1), 3),
        ("vp", (2, 1, 1), 3),
        ("subvp", (2, 1, 1), 1),
        ("cld", (2, 1, 1), 3),
        ("ve", (3, 4, 4), 1),
        ("vp", (3, 4, 4), 3),
        ("vp", (3, 16, 16), 3),
        ("cld", (3, 4, 4), 3),
    ],
)
def test_exact_trace(name: str, shape: tuple[int, ...], components: int) -> None:
    """For Gaussians and mixtures in 2 to 768 dimensions the error is within 1e-3 bits per dimension."""
    model, data = mixture(name, shape, components)
    if math.prod(shape) > 100:
        data = data[:1]
    likelihood = sf.likelihood(model, data, probe="exact")
    error = (likelihood.log_density - exact_log_density(model, data)) / (math.prod(shape) * math.log(2))
    assert error.abs().max() <= 1e-3
    assert likelihood.standard_error is None and likelihood.bits_per_dim is None


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "probe"),
    [("ve", "rademacher"), ("vp", "rademacher"), ("vp", "normal"), ("subvp", "normal"), ("cld", "rademacher")],
)
def test_hutchinson(name: str, probe: str, run_seed: int) -> None:
    """The mean error of 128 estimates with two probes is 0; the mean squared error is as estimated.

    A single estimate cannot be tested, because a product of sums of probes is far from normally distributed.
    """
    model, data = mixture(name, (2, 3, 3))
    data = data.repeat(32, 1, 1, 1)
    likelihood = sf.likelihood(model, data, probes=2, probe=probe, run_seed=run_seed)
    assert likelihood.standard_error is not None and (likelihood.standard_error > 0).all()
    error = likelihood.log_density - exact_log_density(model, data, run_seed)
    for values in (error, error**2 - likelihood.standard_error**2):
        assert values.mean().abs() <= SIGMAS * standard_error_of_mean(float(values.std()), len(values))


@pytest.mark.parametrize(("name", "steps"), [("vp", 40), ("cld", 60)])
def test_fixed_steps_agree(name: str, steps: int) -> None:
    """Fixed and adaptive steps agree to 1e-3 bits per dimension; with the exact trace, either error was below 4e-4."""
    model, data = mixture(name, (2, 1, 1))
    adaptive = sf.likelihood(model, data)
    fixed = sf.likelihood(model, data, steps=steps)
    assert (fixed.evaluations == 6 * steps + 1).all()
    assert ((fixed.log_density - adaptive.log_density).abs() / (2 * math.log(2))).max() <= 1e-3


def test_bits_per_dimension_of_both_ranges() -> None:
    """Equal models of data in [0, 1] and in [-1, 1] give the same bits, for uint8 and for floats."""
    pixels = torch.tensor([[0, 3, 128, 255], [255, 17, 90, 1]], dtype=torch.uint8).view(2, 1, 2, 2)
    models = []
    for centered in (False, True):
        mean, std = (0.0, 0.8) if centered else (0.5, 0.4)
        model = sf.GaussianMixture.gaussian(LONG_SDES["vp"], mean, std, (1, 2, 2))
        model.data_range = (-1.0 if centered else 0.0, 1.0)
        models.append(model)
    unit, centered_unit = (sf.likelihood(model, pixels, probe="exact") for model in models)
    assert unit.bits_per_dim is not None and centered_unit.bits_per_dim is not None
    torch.testing.assert_close(unit.bits_per_dim, centered_unit.bits_per_dim, rtol=0, atol=1e-3)
    x = dequantized(pixels / 255, [0, 1], 0)
    exact = 8 - torch.distributions.Normal(0.5, 0.4).log_prob(x).flatten(1).sum(1) / (4 * math.log(2))
    torch.testing.assert_close(unit.bits_per_dim, exact, rtol=0, atol=1e-3)
    floats = sf.likelihood(models[0], pixels / 255, probe="exact")
    assert torch.equal(floats.log_density, unit.log_density)


@pytest.mark.statistical
def test_dequantization_depends_on_the_seed(run_seed: int) -> None:
    """The noise is uniform within one 8-bit step, and depends only on seed and run seed."""
    pixels = torch.full((300, 3, 8, 8), 200 / 255)
    noise = dequantized(pixels, range(300), run_seed) * 256 - 200
    assert noise.min() > 0 and noise.max() < 1
    assert abs(float(noise.mean()) - 0.5) < SIGMAS * standard_error_of_mean(math.sqrt(1 / 12), noise.numel())
    assert torch.equal(dequantized(pixels[:2], [7, 3], run_seed)[1] * 256 - 200, noise[3])
    assert not torch.equal(dequantized(pixels[:1], [0], run_seed + 1), dequantized(pixels[:1], [0], run_seed))
