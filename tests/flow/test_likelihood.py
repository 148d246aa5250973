# SPDX-License-Identifier: Apache-2.0
"""Likelihoods, bits per dimension and CLD's bound, where the answer is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.evaluation import bits_per_dimension, position_log_density_bound
from scoresde_fast.flow.codes import data_states
from scoresde_fast.flow.likelihood import dequantized
from scoresde_fast.sdes import CLDSDE
from tests.support.chance import SIGMAS, standard_error_of_mean
from tests.support.flow_models import LONG_SDES, mixture

DIMENSIONS = 12
SDE = CLDSDE()
VARIANCE = SDE.gamma * SDE.mass


def log_normal(squares: Tensor, variance: float) -> Tensor:
    return -0.5 * (squares / variance + math.log(2 * math.pi * variance))


@pytest.mark.parametrize("centered", [True, False], ids=["[-1, 1]", "[0, 1]"])
def test_uniform_images_cost_eight_bits(centered: bool) -> None:
    """Noise that is uniform over all images has 8 bits a dimension, in either range."""
    width = 2.0 if centered else 1.0
    log_density = torch.tensor([-DIMENSIONS * math.log(width)])
    assert float(bits_per_dimension(log_density, DIMENSIONS, centered=centered)) == pytest.approx(8.0)


def test_bound_is_tight_for_an_independent_velocity() -> None:
    """Where the model's velocity is N(0, gamma M) and independent the bound is log p(x) itself."""
    x = torch.randn(5, DIMENSIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_position = log_normal(x**2, 0.25).sum(1)
    # E over v of log p(x, v), in closed form
    joint = log_position + DIMENSIONS * log_normal(torch.tensor(VARIANCE, dtype=torch.float64), VARIANCE)
    bound = position_log_density_bound(joint, SDE, DIMENSIONS)
    assert torch.allclose(bound, log_position, rtol=1e-12)


def test_bound_is_below_the_density_and_by_the_divergence() -> None:
    """For a model whose velocity leans on its position the gap is KL(q(v) | p(v | x)), as Jensen's inequality says."""
    covariance = np.array([[0.25, 0.03], [0.03, 0.012]])
    slope = covariance[0, 1] / covariance[0, 0]
    spread = covariance[1, 1] - slope * covariance[0, 1]
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    log_position = log_normal(x**2, covariance[0, 0])
    # p(v | x) = N(slope x, spread), its log averaged over v ~ N(0, gamma M)
    joint = log_position + log_normal(VARIANCE + (slope * x) ** 2, spread)
    divergence = 0.5 * (math.log(spread / VARIANCE) + (VARIANCE + (slope * x) ** 2) / spread - 1)
    bound = position_log_density_bound(joint, SDE, 1)
    assert (bound < log_position).all()
    assert torch.allclose(log_position - bound, divergence, rtol=1e-10)


EPS = 1e-5


def exact_log_density(model: sf.GaussianMixture, data: Tensor, run_seed: int = 0) -> Tensor:
    """Return the log density of the data; on CLD that of the pair plus the velocity's entropy, as in the bound."""
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
    """In 2 to 768 dimensions, a Gaussian or a mixture: within 1e-3 bits per dimension."""
    model, data = mixture(name, shape, components)
    if math.prod(shape) > 100:
        data = data[:1]
    got = sf.likelihood(model, data, probe="exact")
    error = (got.log_density - exact_log_density(model, data)) / (math.prod(shape) * math.log(2))
    assert error.abs().max() <= 1e-3
    assert got.standard_error is None and got.bits_per_dim is None


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("name", "probe"),
    [("ve", "rademacher"), ("vp", "rademacher"), ("vp", "normal"), ("subvp", "normal"), ("cld", "rademacher")],
)
def test_hutchinson(name: str, probe: str, run_seed: int) -> None:
    """Over 128 estimates of two probes neither the errors nor their squares, beyond the standard errors', are biased.

    One estimate tells little of its own error: what is summed, a square of a sum of probes, is far from normal.
    """
    model, data = mixture(name, (2, 3, 3))
    data = data.repeat(32, 1, 1, 1)
    got = sf.likelihood(model, data, probes=2, probe=probe, run_seed=run_seed)
    assert got.standard_error is not None and (got.standard_error > 0).all()
    error = got.log_density - exact_log_density(model, data, run_seed)
    for values in (error, error**2 - got.standard_error**2):
        assert values.mean().abs() <= SIGMAS * standard_error_of_mean(float(values.std()), len(values))


@pytest.mark.parametrize(("name", "steps"), [("vp", 40), ("cld", 60)])
def test_fixed_steps_agree(name: str, steps: int) -> None:
    """Fixed steps and the tolerances, both within 4e-4 by the exact trace, agree to 1e-3 bits per dimension."""
    model, data = mixture(name, (2, 1, 1))
    adaptive = sf.likelihood(model, data)
    fixed = sf.likelihood(model, data, steps=steps)
    assert (fixed.evaluations == 6 * steps + 1).all()
    assert ((fixed.log_density - adaptive.log_density).abs() / (2 * math.log(2))).max() <= 1e-3


def test_bits_per_dimension_of_both_ranges() -> None:
    """The same images under a model of [0, 1] and its image in [-1, 1], with uint8 and floats: the same bits."""
    levels = torch.tensor([[0, 3, 128, 255], [255, 17, 90, 1]], dtype=torch.uint8).view(2, 1, 2, 2)
    models = []
    for centered in (False, True):
        mean, std = (0.0, 0.8) if centered else (0.5, 0.4)
        model = sf.GaussianMixture.gaussian(LONG_SDES["vp"], mean, std, (1, 2, 2))
        model.centered = centered
        models.append(model)
    wide, narrow = (sf.likelihood(model, levels, probe="exact") for model in models)
    assert wide.bits_per_dim is not None and narrow.bits_per_dim is not None
    torch.testing.assert_close(wide.bits_per_dim, narrow.bits_per_dim, rtol=0, atol=1e-3)
    x = dequantized(levels, [0, 1], 0)
    normal = torch.distributions.Normal(0.5, math.hypot(0.4, 0.0))
    exact = 8 - normal.log_prob(x).flatten(1).sum(1) / (4 * math.log(2))
    torch.testing.assert_close(wide.bits_per_dim, exact, rtol=0, atol=1e-3)
    floats = sf.likelihood(models[0], levels / 255, probe="exact")
    assert torch.equal(floats.log_density, wide.log_density)


@pytest.mark.statistical
def test_dequantisation_is_of_the_seed(run_seed: int) -> None:
    """The noise lies within one 8-bit step, is uniform, and depends only on seed and run seed."""
    levels = torch.full((300, 3, 8, 8), 200, dtype=torch.uint8)
    x = dequantized(levels, range(300), run_seed) * 256 - 200
    assert x.min() > 0 and x.max() < 1
    assert abs(float(x.mean()) - 0.5) < SIGMAS * standard_error_of_mean(math.sqrt(1 / 12), x.numel())
    assert torch.equal(dequantized(levels[:2], [7, 3], run_seed)[1] * 256 - 200, x[3])
    assert not torch.equal(dequantized(levels[:1], [0], run_seed + 1), dequantized(levels[:1], [0], run_seed))
