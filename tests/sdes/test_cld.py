# SPDX-License-Identifier: Apache-2.0
"""Critically-damped Langevin diffusion: kernels compared with independent solutions, and the position's score."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import norm
from torch import Tensor

from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.sdes import CLDSDE, SDE, VPSDE, ScoreMap
from scoresde_fast.sdes.linalg import cholesky

DAMPING = {"under": 0.3, "critical": None, "over": 3.0}
BETA: dict[str, dict[str, Any]] = {"constant": {"beta0": 4.0, "beta1": 0.0}, "linear": {"beta0": 0.1, "beta1": 6.9}}
TIMES = np.array([1e-3, 1e-2, 0.1, 0.5, 1.0])
WEIGHTS, MEANS, STD = [0.3, 0.5, 0.2], [-0.8, -0.1, 0.6], 0.05


def exact_transition(sde: CLDSDE, clock: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Psi and the covariance of the noise by Van Loan's matrix exponential, with over 50 digits."""
    mpmath = pytest.importorskip("mpmath")
    # The exponential also contains the inverse of Psi, which is as large as Psi is small.
    with mpmath.workdps(80 + int(np.abs(sde.generator).sum() * clock)):
        drift = mpmath.matrix([[0, sde.m_inv], [-1, -mpmath.mpf(sde.damping) * sde.m_inv]])
        block = mpmath.zeros(4)
        block[:2, :2], block[2:, 2:] = -drift, drift.T
        block[1, 3] = 2 * mpmath.mpf(sde.damping)
        whole = mpmath.expm(block * mpmath.mpf(clock))
        psi = whole[2:, 2:].T
        mean, covariance = (np.array(matrix.tolist(), dtype=np.float64) for matrix in (psi, psi * whole[:2, 2:]))
        return mean, covariance


def mixture(sde: SDE) -> GaussianMixture:
    return GaussianMixture(sde, WEIGHTS, torch.tensor(MEANS, dtype=torch.float64).view(3, 1, 1, 1), [STD] * 3)


def states(sde: CLDSDE, t: float, count: int = 200) -> Tensor:
    """Return float64 states (count, 2, 1, 1) at t for data of the mixture."""
    rng = np.random.default_rng(0)
    x = rng.choice(MEANS, count, p=WEIGHTS) + STD * rng.standard_normal(count)
    v = np.sqrt(sde.gamma * sde.mass) * rng.standard_normal(count)
    mean, covariance = sde.transition(0.0, t)
    u = np.stack([x, v], 1) @ mean.T + rng.standard_normal((count, 2)) @ np.linalg.cholesky(covariance).T
    return torch.from_numpy(u)[..., None, None]


def recover(coefficients: ScoreMap, u: Tensor, velocity_score: Tensor) -> Tensor:
    """Return ``state`` u + ``score`` s_v (B, 1 or 2, 1, 1) in the dtype of u, for coefficients at one time."""
    state, factor = (torch.from_numpy(np.atleast_1d(value)).to(u) for value in coefficients)
    return (u.flatten(1) @ state.view(-1, 2).T + velocity_score.flatten(1) * factor)[..., None, None]


def relative(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("beta", BETA.values(), ids=BETA)
@pytest.mark.parametrize("friction", DAMPING.values(), ids=DAMPING)
def test_transition_solves_the_moment_equations(friction: float | None, beta: dict[str, Any]) -> None:
    """Psi(t, s) and the covariance solve dPsi = F Psi, dS = F S + S F^T + G G^T, as integrated by SciPy."""
    sde = CLDSDE(m_inv=4.0, friction=friction, **beta)
    damping = 1.0 if friction is None else friction

    def moments(t: float, y: np.ndarray) -> np.ndarray:
        rate = beta["beta0"] + beta["beta1"] * t
        drift = rate * np.array([[0.0, 4.0], [-1.0, -4.0 * damping]])
        psi, covariance = y.reshape(2, 2, 2)
        growth = drift @ covariance + covariance @ drift.T + np.diag([0.0, 2 * damping * rate])
        return np.stack([drift @ psi, growth]).ravel()

    for s, t in [(0.0, 1.0), (0.2, 0.7), (0.35, 0.36)]:
        start = np.stack([np.eye(2), np.zeros((2, 2))]).ravel()
        solution = solve_ivp(moments, (s, t), start, method="DOP853", rtol=1e-12, atol=1e-14)
        for actual, expected in zip(sde.transition(s, t), solution.y[:, -1].reshape(2, 2, 2), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "ratio", [0.3, 1 - 1e-9, 1.0, 1 + 1e-9, 1 + 1e-7, 3.0, 150.0], ids=lambda ratio: f"{ratio:.9g}"
)
@pytest.mark.parametrize("m_inv", [0.5, 3.0, 4.0])
def test_transition_has_twelve_digits(m_inv: float, ratio: float) -> None:
    """Near and far from critical damping every entry has 12 correct digits, also for short times, where S_xx is 1e-26.

    For longer times, where the closed form is used, the error is that of rounding the stationary variances.
    """
    friction = None if ratio == 1 else ratio * 2 / np.sqrt(m_inv)
    sde = CLDSDE(m_inv=m_inv, friction=friction, beta0=1.0)
    switch = 1 / np.abs(sde.generator).sum()
    for clock in [*np.geomspace(1e-9, 0.999 * switch, 9), 1.001 * switch, 3 * switch, 0.5, 4.0]:
        psi, covariance = exact_transition(sde, clock)
        actual = sde.transition(0.0, clock)
        np.testing.assert_allclose(actual.mean, psi, rtol=1e-13, atol=1e-13)
        rounding = 0.0 if clock < switch else 1e-15 * max(sde.prior_stds) ** 2
        np.testing.assert_allclose(actual.covariance, covariance, rtol=1e-12, atol=rounding)


def test_covariances_have_factors_at_any_step_length() -> None:
    """Down to clocks of 1e-12 the Cholesky factor is finite and reproduces the covariance."""
    for clock in np.logspace(-12, 1, 40):
        covariance = CLDSDE().advance(clock).covariance
        factor = cholesky(covariance)
        assert np.allclose(factor @ factor.T, covariance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", BETA.values(), ids=BETA)
@pytest.mark.parametrize("friction", DAMPING.values(), ids=DAMPING)
def test_transitions_compose(friction: float | None, beta: dict[str, Any]) -> None:
    """The transitions s to t and t to r compose to s to r, short and long, to 1e-12 of each entry's scale."""
    sde = CLDSDE(friction=friction, **beta)
    for s, t, r in [(0.0, 1e-6, 3e-6), (0.1, 0.1003, 0.1007), (0.0, 1e-3, 1.0), (0.2, 0.5, 0.9)]:
        first, second, whole = sde.transition(s, t), sde.transition(t, r), sde.transition(s, r)
        carried = second.mean @ first.covariance @ second.mean.T + second.covariance
        scale = np.sqrt(np.outer(np.diag(whole.covariance), np.diag(whole.covariance)))
        assert np.abs(second.mean @ first.mean - whole.mean).max() <= 1e-12
        assert (np.abs(carried - whole.covariance) / scale).max() <= 1e-12


def test_propagator_backwards() -> None:
    """Psi(s, t) is the inverse of Psi(t, s), and Psi(t, t) is the identity."""
    sde = CLDSDE(beta0=0.1, beta1=6.9)
    np.testing.assert_allclose(sde.propagator(0.7, 0.2) @ sde.propagator(0.2, 0.7), np.eye(2), atol=1e-13)
    np.testing.assert_array_equal(sde.propagator(0.4, 0.4), np.eye(2))


@pytest.mark.parametrize("friction", [*DAMPING.values(), 300.0], ids=[*DAMPING, "strongly-over"])
def test_stationary_distribution_is_kept(friction: float | None) -> None:
    """Data and velocities with the prior's distribution keep it at all times, without overflow for strong damping."""
    sde = CLDSDE(friction=friction, gamma=1.0, numerical_eps=0.0)
    t = np.linspace(0, 1, 101)
    expected = np.broadcast_to(np.diag(np.square(sde.prior_stds)), (101, 2, 2))
    np.testing.assert_allclose(sde.marginal(t, position_variance=1.0).covariance, expected, atol=1e-13)


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("beta", BETA.values(), ids=BETA)
def test_marginals_are_usable_at_every_time(beta: dict[str, Any], objective: Any) -> None:
    """At 30 000 times in [1e-5, 1] the Cholesky factor reproduces the covariance; l_t and the recovery are finite."""
    sde = CLDSDE(**beta, numerical_eps=1e-9, objective=objective)
    t = np.concatenate([np.geomspace(1e-5, 1, 20_000), np.linspace(1e-5, 1, 10_001)])
    factor, covariance = sde.cholesky(t), sde.marginal(t).covariance
    assert (factor[..., 0, 1] == 0).all()
    np.testing.assert_allclose(factor @ factor.swapaxes(-1, -2), covariance, rtol=1e-14)
    assert np.isfinite(sde.ell(t)).all() and (sde.ell(t) > 0).all()
    assert np.isfinite(sde.mixed_variance(t)).all()
    if objective == "hsm":
        assert all(np.isfinite(values).all() for values in (*sde.joint_score(t), *sde.denoised(t)))


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
def test_precision_of_ell(objective: Any) -> None:
    """From t = 1e-5 to 1, l_t agrees with the exact value to 1e-12, though its determinant is a small difference."""
    sde = CLDSDE(objective=objective)
    for t in [1e-5, 1e-4, *TIMES]:
        psi, noise = exact_transition(sde, 4 * t)
        start = sde.gamma * sde.mass if objective == "hsm" else 0.0
        (cx, cv), ((nxx, nxv), (_, nvv)) = psi[:, 1], noise
        xx, vv = nxx + start * cx**2 + 1e-9, nvv + start * cv**2 + 1e-9
        # The determinant of the sum, expanded so that no large terms cancel.
        along = cx**2 * nvv - 2 * cx * cv * nxv + cv**2 * nxx
        determinant = nxx * nvv - nxv**2 + start * along + 1e-9 * (xx + vv) - 1e-18
        assert sde.ell(t) == pytest.approx(np.sqrt(xx / determinant), rel=1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"objective": "dsm"}], ids=["hsm", "dsm"])
def test_singular_covariance_is_refused(kwargs: dict[str, Any]) -> None:
    """The message has the first such time, ``numerical_eps`` and the remedy."""
    sde = CLDSDE(numerical_eps=0.0, **kwargs)
    for use in (sde.cholesky, sde.ell):
        with pytest.raises(ValueError, match="t = 0 is not positive definite with numerical_eps=0: raise"):
            use(np.array([0.5, 0.0]))
    assert np.isfinite(CLDSDE(numerical_eps=1e-9, **kwargs).ell(0.0))


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"m_inv": 0.0}, "m_inv is 0.0; CLD needs a finite number greater than 0"),
        ({"m_inv": float("nan")}, "m_inv is nan"),
        ({"friction": -1.0}, "friction is -1.0"),
        ({"gamma": float("inf")}, "gamma is inf"),
        ({"beta0": -1.0}, "beta0=-1.0, beta1=0.0: .*must not be negative"),
        ({"beta0": 1.0, "beta1": -2.0}, "beta0=1.0, beta1=-2.0"),
        ({"beta0": 0.0}, "beta0=0.0, beta1=0.0: .* nor 0"),
        ({"numerical_eps": -1e-9}, "numerical_eps is -1e-09; it must be a finite number, 0 or greater"),
        ({"beta1": float("inf")}, "beta0=4.0, beta1=inf: .* must be finite"),
        ({"objective": "hms"}, "unknown objective 'hms' - did you mean 'hsm'"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(kwargs: dict[str, Any], sentence: str) -> None:
    """The message has the value and the allowed range."""
    with pytest.raises(ValueError, match=sentence):
        CLDSDE(**kwargs)


def test_prior_and_entropy() -> None:
    """The prior's log density and the entropy of the initial velocity agree with SciPy, with M and not 1 / M."""
    sde, rng = CLDSDE(m_inv=9.0, gamma=0.04), np.random.default_rng(0)
    x, v = rng.standard_normal((2, 5, 3, 2, 2))
    expected = norm.logpdf(x).sum((1, 2, 3)) + norm.logpdf(v, scale=1 / 3).sum((1, 2, 3))
    np.testing.assert_allclose(sde.prior_log_density(np.concatenate([x, v], axis=1)), expected, rtol=1e-13)
    assert sde.velocity_entropy(12) == pytest.approx(12 * norm(scale=np.sqrt(0.04 / 9)).entropy(), rel=1e-13)
    unit = torch.ones(1, 6, 2, 2, dtype=torch.float64)
    prior = GaussianMixture.gaussian(sde, 0.0, 1.0, (3, 2, 2)).prior(unit)
    torch.testing.assert_close(prior, torch.cat([unit[:, :3], unit[:, 3:] / 3], dim=1))


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("t", [0.05, 0.3, 1.0])
def test_mixture_density_integrates_over_initial_states(t: float, objective: Any) -> None:
    """For both objectives log p_t(u) is the kernel u(t) | x(0), v(0) summed over a fine grid of initial states."""
    sde = CLDSDE(objective=objective, numerical_eps=1e-5)
    kernel = CLDSDE(objective="dsm", numerical_eps=1e-5).marginal(t)
    x, v = np.meshgrid(np.arange(-1.3, 1.1, 0.0125), np.arange(-0.8, 0.8, 0.025), indexing="ij")
    starts = sum(w * norm.pdf(x, m, STD) for w, m in zip(WEIGHTS, MEANS, strict=True))
    starts = starts * norm.pdf(v, scale=0.1) * 0.0125 * 0.025
    u = states(sde, t, 5)
    offsets = u.numpy().reshape(5, 1, 1, 2) - np.stack([x, v], -1) @ kernel.mean.T
    exponent = np.einsum("...i,ij,...j", offsets, np.linalg.inv(kernel.covariance), offsets)
    volume = 2 * np.pi * np.sqrt(np.linalg.det(kernel.covariance))
    expected = np.log((starts * np.exp(-exponent / 2)).sum((1, 2)) / volume)
    density = mixture(sde).log_density(u, torch.full((5,), t, dtype=torch.float64))
    np.testing.assert_allclose(density.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sde", [CLDSDE(), CLDSDE(objective="dsm"), VPSDE()], ids=["hsm", "dsm", "vp"])
def test_mixture_scores_are_the_gradient_of_its_density(sde: SDE) -> None:
    """`joint_score` is the gradient of the log density, for images at different times; `score` is its last part."""
    generator = torch.Generator().manual_seed(0)
    model = GaussianMixture(sde, [1.0, 2.0], torch.randn(2, 3, 2, 2, generator=generator), [0.3, 0.8])
    u = torch.randn(4, *model.state_shape, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.1, 1e-3, 1.0, 0.1], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(model.log_density(u, t).sum(), u)
    joint = model.joint_score(u, t)
    torch.testing.assert_close(joint, gradient, rtol=1e-12, atol=1e-12 * float(gradient.abs().max()))
    assert torch.equal(model.score(u, t), joint[:, -3:])
    alone = torch.cat([model.joint_score(u[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(joint, alone, rtol=1e-12, atol=1e-12)
    single = model.joint_score(u.detach().float(), t.float())
    assert single.dtype == torch.float32
    assert relative(single, joint.detach()) <= 1e-6


@pytest.mark.parametrize("sde", [CLDSDE(), VPSDE()], ids=["cld", "vp"])
def test_wrong_state_shape_is_refused(sde: SDE) -> None:
    """A state with the wrong number of channels is not broadcast; the message has both shapes."""
    model = GaussianMixture.gaussian(sde, 0.3, 0.5, (3, 2, 2))
    wrong, t = torch.zeros(1, 3 if sde.parts == 2 else 6, 2, 2), torch.tensor([0.5])
    needed = "(6, 2, 2), position and velocity concatenated along the channels" if sde.parts == 2 else "(3, 2, 2)"
    given = f"states have shape {tuple(wrong.shape[1:])};"
    with pytest.raises(ValueError, match=re.escape(f"{given} this model on the SDE {sde.name!r} needs {needed}")):
        model.score(wrong, t)
    for method in (model.joint_score, model.log_density):
        with pytest.raises(ValueError, match=re.escape(given) + f".* {sde.parts} x 12 elements"):
            method(wrong, t)


@pytest.mark.parametrize("beta", BETA.values(), ids=BETA)
@pytest.mark.parametrize("friction", DAMPING.values(), ids=DAMPING)
def test_velocity_score_determines_the_joint_score(friction: float | None, beta: dict[str, Any]) -> None:
    """`joint_score` recovers the exact score of a mixture's pairs from the score of the velocity, to 1e-10.

    Under-damped CLD is refused: the velocity oscillates, and its score does not determine the data.
    """
    sde = CLDSDE(friction=friction, **beta)
    model = mixture(sde)
    for t in TIMES:
        if sde.damping < 1:
            with pytest.raises(ValueError, match="under-damped: the velocity oscillates"):
                sde.joint_score(t)
            continue
        u, time = states(sde, t), torch.tensor([t]).double().expand(200)
        recovered = recover(sde.joint_score(t), u, model.score(u, time))
        assert relative(recovered[:, :1], model.joint_score(u, time)[:, :1]) <= 1e-10
        assert torch.equal(recovered[:, 1:], model.score(u, time))


# Bounds by time on the error of a recovered position score over the largest score, in float32.  They are 1.6 to 4 eps
# times the largest term of a sum that cancels; rounding a product and its factors costs up to 1.5 eps.
SINGLE_PRECISION = {
    "constant": {1e-3: 2e-5, 1e-2: 2e-6, 0.1: 1e-6, 0.5: 1e-6, 1.0: 1e-6},
    "linear": {1e-3: 5e-4, 1e-2: 4e-5, 0.1: 2e-6, 0.5: 1e-6, 1.0: 1e-6},
}


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("beta", BETA)
def test_recovery_in_single_precision(beta: str, t: float) -> None:
    """With float32 states, scores and coefficients the error grows towards t = 0, within the documented bounds."""
    sde = CLDSDE(**BETA[beta])
    model = mixture(sde)
    u, time = states(sde, t, 10_000).float(), torch.tensor([t]).double().expand(10_000)
    recovered = recover(sde.joint_score(t), u, model.score(u, time))
    assert recovered.dtype == torch.float32
    exact = model.joint_score(u.double(), time)
    assert relative(recovered[:, :1], exact[:, :1]) <= SINGLE_PRECISION[beta][t]


@pytest.mark.parametrize("t", TIMES)
def test_denoised_is_the_posterior_mean(t: float) -> None:
    """E[x(0) | u(t)] agrees with Bayes' rule on a fine grid of x(0), with the initial velocity integrated out."""
    sde = CLDSDE()
    x0 = np.arange(-1.3, 1.1, 2e-5)
    prior = sum(w * norm.pdf(x0, m, STD) for w, m in zip(WEIGHTS, MEANS, strict=True))
    mean, covariance = sde.marginal(t)
    u = states(sde, t, 20)
    offsets = u.numpy().reshape(-1, 1, 2) - x0[:, None] * mean[:, 0]
    exponent = np.einsum("bni,ij,bnj->bn", offsets, np.linalg.inv(covariance), offsets)
    posterior = prior * np.exp(-(exponent - exponent.min(1, keepdims=True)) / 2)
    expected = (posterior * x0).sum(1) / posterior.sum(1)
    score = mixture(sde).score(u, torch.full((20,), t, dtype=torch.float64))
    np.testing.assert_allclose(recover(sde.denoised(t), u, score).flatten().numpy(), expected, rtol=0, atol=1e-9)


def test_recovery_is_refused_where_the_initial_velocity_is_unknown() -> None:
    """For "dsm" the message has the reason and the alternatives."""
    sde = CLDSDE(objective="dsm")
    for method in (sde.joint_score, sde.denoised):
        with pytest.raises(ValueError, match=r"model trained with objective='dsm', .* use a model trained with 'hsm'"):
            method(0.5)
