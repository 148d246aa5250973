# SPDX-License-Identifier: Apache-2.0
"""Functions and losses of critically-damped Langevin diffusion agree with those of the official code."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.configs import TrainingConfig
from scoresde_fast.model import ScoreFunction
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.sdes.cld import Objective
from scoresde_fast.training.losses import velocity_score_matching_loss

BETA = {
    "const": {"beta0": 4.0, "beta1": 0.0, "numerical_eps": 1e-9},
    "linear": {"beta0": 0.1, "beta1": 6.9, "numerical_eps": 1e-6},
}
CASES = list(product(BETA, ("hsm", "dsm")))


class Toy(nn.Module):
    """The function that replaced the network in the recorded losses."""

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        x, v = u.chunk(2, dim=1)
        return 0.2 * x - 0.3 * v + t[:, None, None, None]


@pytest.fixture(scope="module")
def steps(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "cld_steps.npz") as archive:
        return dict(archive)


def act(matrices: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return matrices (B, 2, 2) applied to position and velocity of states (B, 2C, H, W), in float64."""
    pairs = u.reshape(len(u), 2, -1).astype(np.float64)
    return np.einsum("bij,bjd->bid", matrices, pairs).reshape(u.shape)


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Assert that each sample, at its own time, agrees to 1e-6 of its largest value."""
    for mine, theirs in zip(actual, expected.astype(np.float64), strict=True):
        assert np.abs(mine - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize(("beta", "objective"), CASES, ids=map("-".join, CASES))
def test_functions(steps: dict[str, np.ndarray], beta: str, objective: Objective) -> None:
    """Kernel, l_t, loss weight, drift, diffusion, prior density and perturbation of both objectives, to 1e-6."""
    recorded = {key.removeprefix(f"{beta}_{objective}/"): value for key, value in steps.items()}
    sde, t, u = CLDSDE(**BETA[beta], objective=objective), recorded["t"], recorded["u"]
    mean, covariance = sde.marginal(t)
    # The official code also uses the velocity of u for "hsm".
    assert_close(act(mean, u), recorded["mean"])
    assert_close(covariance[:, 0, 0], recorded["var_xx"])
    assert_close(covariance[:, 0, 1], recorded["var_xv"])
    assert_close(covariance[:, 1, 1], recorded["var_vv"])
    assert_close(-sde.ell(t), recorded["neg_ell"])
    assert_close(sde.damping * sde.beta(t), recorded["loss_multiplier"])
    assert_close(act(sde.drift(t), u), recorded["drift"])
    position, velocity = np.split(recorded["diffusion"], 2, axis=1)
    assert not position.any()
    assert_close(np.broadcast_to(sde.diffusion(t)[:, None, None, None], velocity.shape), velocity)
    assert_close(sde.prior_log_density(u), recorded["prior_logp_x"] + recorded["prior_logp_v"])
    perturbed = act(mean, u) + act(sde.cholesky(t), recorded["perturb/z"])
    assert_close(perturbed, recorded["perturb/perturbed"])


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("weighting", ["reweightedv2", "reweightedv1", "likelihood"])
@pytest.mark.parametrize(("beta", "objective"), CASES, ids=map("-".join, CASES))
def test_losses(steps: dict[str, np.ndarray], beta: str, objective: Objective, weighting: Any, mixed: bool) -> None:
    """The loss of every sample under each objective, weighting and parametrisation, to 1e-5."""
    key = f"loss/{beta}_{objective}_{weighting}_mixed{int(mixed)}"
    sde = CLDSDE(**BETA[beta], objective=objective)
    model = ScoreFunction(Toy(), OfficialParametrisation(sde, mixed=mixed), (3, 4, 4))
    x, z = (torch.from_numpy(steps[f"{key}/{name}"]) for name in ("x", "z"))
    times = steps[f"{key}/uniform"] * (1 - 1e-5) + 1e-5
    z_v0 = torch.from_numpy(steps[f"{key}/z_v0"]) if objective == "dsm" else torch.zeros_like(x)
    for i, expected in enumerate(steps[f"{key}/loss"]):
        one = slice(i, i + 1)
        training = TrainingConfig("cld", weighting=weighting)
        loss = velocity_score_matching_loss(model, x[one], times[one], z[0, one], z_v0[one], training)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_every_recorded_loss_is_tested(steps: dict[str, np.ndarray]) -> None:
    """`test_losses` covers all recorded losses."""
    recorded = {key.split("/")[1] for key in steps if key.startswith("loss/")}
    cases = product(map("_".join, CASES), ("reweightedv2", "reweightedv1", "likelihood"), ("mixed0", "mixed1"))
    assert recorded == set(map("_".join, cases))
