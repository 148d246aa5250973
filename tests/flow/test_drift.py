# SPDX-License-Identifier: Apache-2.0
"""Coefficients of the drift at any time, the drift itself, and the trace of its Jacobian."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.autograd import forward_ad

import scoresde_fast as sf
from scoresde_fast.flow.drift import Drift, TimeCurves, drift_coefficients
from scoresde_fast.flow.integrate import RK45, Tolerances
from scoresde_fast.flow.options import Probes
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.normal import rademacher
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from tests.support.golden import NETWORKS, model, recorded, recorded_inputs, relative_error

SDE_OF: dict[str, SDE] = {
    "ve": VESDE(0.01, 378.0),
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "cld": CLDSDE(),
    "cld-linear": CLDSDE(beta0=0.1, beta1=6.9, numerical_eps=1e-6),
}


@pytest.mark.parametrize("flow", [True, False], ids=["flow", "sde"])
@pytest.mark.parametrize("name", SDE_OF)
def test_curves_equal_the_coefficients(name: str, flow: bool) -> None:
    """At 2000 times over five decades, both ends included, relative or absolute errors are within 1e-10."""
    parametrisation = OfficialParametrisation(SDE_OF[name], mixed=name.startswith("cld"))

    def exact(t: np.ndarray) -> np.ndarray:
        return drift_coefficients(parametrisation, t, probability_flow=flow)

    t = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), 0, 2000))
    t[:2] = 1e-5, 1.0
    values = TimeCurves(exact, 1e-5, 1.0, "cpu")(torch.from_numpy(t)).numpy()
    np.testing.assert_allclose(values, exact(t), rtol=1e-10, atol=1e-10)


class Doubled(torch.autograd.Function):
    """2 x, without forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Attention(nn.Module):
    """Attention over the rows of an image, which has no forward mode on a CPU, then `Doubled`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        attended = nn.functional.scaled_dot_product_attention(x, x, x)
        return Doubled.apply(self.weight * attended + labels.view(-1, 1, 1, 1) * x.tanh())


def test_trace_without_forward_mode() -> None:
    """The trace of a network with operations without forward mode is computed by reverse mode."""
    drift = Drift(sf.wrap(Attention(), sf.EDM(), prediction="epsilon", shape=(1, 4, 4)), 0.1)
    u = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.5, 3.0], dtype=torch.float64)
    with forward_ad.dual_level(), torch.no_grad():
        slope, trace = drift.slope_and_exact_trace(u, t)
    torch.testing.assert_close(slope, drift.slope(u, t).detach(), rtol=1e-5, atol=1e-5)
    for index in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=index: drift.slope(x[None], t[i : i + 1])[0].flatten(), u[index]
        )
        torch.testing.assert_close(trace[index, 0], jacobian.flatten(1).trace(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("forward_mode", [True, False], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", SDE_OF)
def test_traces_of_a_mixture(name: str, forward_mode: bool) -> None:
    """The exact trace equals that of the Jacobian J by reverse mode; Hutchinson's estimate is eps . (J eps)."""
    sde = SDE_OF[name]
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(3, 2, 2, 1, generator=generator, dtype=torch.float64)
    mixture = GaussianMixture(sde, [0.2, 0.3, 0.5], means, [0.3, 0.2, 0.4], is_image=False)
    drift = Drift(mixture, 1e-5)
    drift._forward_mode = forward_mode
    u = torch.randn(3, *mixture.state_shape, generator=generator, dtype=torch.float64)
    t, ids = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64), torch.arange(3)
    probes = torch.stack([rademacher(ids, 5, 2 + index, mixture.image_shape) for index in range(2)])
    with forward_ad.dual_level(), torch.no_grad():
        slope, exact = drift.slope_and_exact_trace(u, t)
        same_slope, estimate = drift.slope_and_trace(u, t, probes, ids, Probes(), 5)
    torch.testing.assert_close(slope, mixture.probability_flow(u, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(same_slope, slope, rtol=1e-12, atol=1e-12)
    for index in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=index: mixture.probability_flow(x[None], t[i : i + 1])[0].flatten(), u[index]
        ).flatten(1)
        torch.testing.assert_close(exact[index, 0], jacobian.trace(), rtol=1e-8, atol=1e-8)
        # On CLD the probes are of the velocity, the last four elements.
        eps = torch.zeros(2, len(jacobian), dtype=torch.float64)
        eps[:, -4:] = probes[:, index].flatten(1).double()
        position_trace = jacobian.trace() - jacobian[-4:, -4:].trace()
        expected = torch.einsum("pi,ij,pj->p", eps, jacobian, eps) + position_trace
        torch.testing.assert_close(estimate[index], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "pf_div_ema" in recorded(name)])
@torch.no_grad()
def test_golden_divergence(name: str) -> None:
    """The folded network's drift, and its divergence by the recorded probe, agree with the official code."""
    golden, score_model = recorded(name), model(name, "ema")
    x, _, t = recorded_inputs(golden)
    drift, probe = Drift(score_model, 1e-5), torch.from_numpy(golden["hutch_eps"])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.double(), probe.double())
        slope, tangent = forward_ad.unpack_dual(drift.slope(dual, t.double()))
    assert relative_error(slope.float(), golden["pf_drift_ema"]) <= 2e-5
    divergence = (tangent * probe).flatten(1).sum(1)
    np.testing.assert_allclose(divergence, golden["pf_div_ema"], rtol=1e-4)


class InFloat64(nn.Module):
    """A copy of a network in float64, without registered parameters: `Drift` then evaluates it in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._forward = copy.deepcopy(network).double().forward

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._forward(x, labels)
        return output


@pytest.mark.parametrize("name", [name for name in NETWORKS if "discrete" not in name and name != "vp_ddpm"])
@torch.no_grad()
def test_rk45_equals_scipy_on_golden_networks(name: str) -> None:
    """From T to 0.01 at tolerances of 1e-3, RK45 needs as many evaluations as SciPy; states agree to a relative 1e-9.

    Both integrate the same drift in float64, but sum stages in different orders.  Rounding errors (1e-16) would have to
    grow ten-million-fold to reach the bound.  In float32 such trajectories differ by up to 1e-4.
    """
    golden = model(name, "ema")
    score_model = ScoreFunction(
        InFloat64(golden.network), golden.parametrisation, golden.image_shape, golden.data_range
    )
    generator = torch.Generator().manual_seed(0)
    x = golden.prior(torch.randn(2, *golden.state_shape, generator=generator)).double()
    drift = Drift(score_model, 1e-2)

    def slope(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return drift.slope(y.view(x.shape), t).flatten(1)

    def flat(t: float, y: np.ndarray) -> np.ndarray:
        time = torch.full((len(x),), t, dtype=torch.float64)
        return slope(torch.from_numpy(y).view(len(x), -1), time).flatten().numpy()

    expected = solve_ivp(flat, (1.0, 1e-2), x.flatten().numpy(), rtol=1e-3, atol=1e-3)
    y = x.flatten(1)
    solution = RK45(slope, y, 1.0, 1e-2, Tolerances(1e-3, 1e-3, "batch")).solve(y)
    assert solution.evaluations.tolist() == [expected.nfev] * len(x)
    final = expected.y[:, -1]
    assert np.abs(solution.y.flatten().numpy() - final).max() <= 1e-9 * np.abs(final).max()


def test_discrete_model_is_rejected() -> None:
    """A model trained at discrete times has no drift between them."""
    parametrisation = OfficialParametrisation(VPSDE(), continuous=False)
    with pytest.raises(ValueError, match="1000 discrete times"):
        drift_coefficients(parametrisation, np.array([0.5]))
