# SPDX-License-Identifier: Apache-2.0
"""Projection against the truth: samples of correlated Gaussian data, given a part of it, have its posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.bench.correlated import CorrelatedGaussian
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE

COUNT = 1000
RUNS: dict[str, tuple[SDE, dict[str, Any]]] = {
    "ve": (VESDE(), {"solver": "reverse_diffusion", "corrector": "ald"}),
    "vp": (VPSDE(), {"solver": "reverse_diffusion", "corrector": "ald"}),
    "subvp": (SubVPSDE(), {"solver": "euler_maruyama", "corrector": "ald"}),
    "cld": (CLDSDE(), {"solver": "sscs", "corrector": "ald", "grid": "quadratic"}),
}
#: Projection alone is biased, as the unknown part sees each noisy version of the known one only once; correctors let
#: the two agree before the noise falls. Of one known pixel beside three it takes more of them.
CORRECTORS = {"inpainting": 12, "gray": 4, "2x2 averages": 4}
#: What is known of 3x2x2 pixels, as an operator on the flat image.
OPERATORS = {
    "inpainting": np.eye(12)[[0, 4, 8]],
    "gray": np.tile(np.eye(4), (1, 3)) / 3,
    "2x2 averages": np.kron(np.eye(3), np.full((1, 4), 0.25)),
}
SHAPES = {"inpainting": (3, 2, 2), "gray": (1, 2, 2), "2x2 averages": (3, 1, 1)}


@pytest.mark.parametrize("task", OPERATORS)
@pytest.mark.parametrize("name", RUNS)
def test_posterior(name: str, task: str) -> None:
    """Mean and covariance of 1000 samples are those of the closed form, and what is known is exact.

    Chance alone makes the distances here 0.03 and 0.07.
    """
    sde, options = RUNS[name]
    options = {**options, "corrector_steps": CORRECTORS[task], "snr": 0.32, "steps": 60}
    model, operator = CorrelatedGaussian(sde), OPERATORS[task]
    truth = np.random.default_rng(1).multivariate_normal(model.data.mean, model.data.covariance)
    measured = operator @ truth
    mask = None
    known = torch.from_numpy(measured).float()
    if task == "inpainting":
        mask = torch.tensor([[1, 0], [0, 0]])
        known = torch.from_numpy(truth).float()
    condition = sf.Projection(known.view(SHAPES[task]), mask)
    samples = sf.sample(model, range(COUNT), condition=condition, batch_size=COUNT, **options)
    flat = samples.flatten(1).double().numpy()
    assert np.abs(flat @ operator.T - measured).max() < 1e-6
    mean, covariance = model.posterior(operator, measured)
    deviation = np.sqrt(np.trace(covariance))
    away = np.linalg.norm(flat.mean(0) - mean) / deviation
    spread = np.linalg.norm(np.cov(flat.T) - covariance) / np.linalg.norm(covariance)
    data_spread = np.linalg.norm(model.data.covariance - covariance) / np.linalg.norm(covariance)
    assert np.linalg.norm(model.data.mean - mean) / deviation > 0.25 and data_spread > 0.4  # what is to be told apart
    assert away < 0.1
    assert spread < 0.15
