# SPDX-License-Identifier: Apache-2.0
"""Bits per dimension and CLD's bound on them, where the answer is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde_fast.evaluation import bits_per_dimension, position_log_density_bound
from scoresde_fast.sdes import CLDSDE

DIMENSIONS = 12
SDE = CLDSDE()
VARIANCE = SDE.gamma * SDE.mass


def log_normal(squares: Tensor, variance: float) -> Tensor:
    return -0.5 * (squares / variance + math.log(2 * math.pi * variance))


@pytest.mark.parametrize("centered", [True, False], ids=["[-1, 1]", "[0, 1]"])
def test_uniform_images_cost_eight_bits(centered: bool) -> None:
    """Noise that is uniform over all images has 8 bits a dimension, whatever the range it is written in."""
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
