# SPDX-License-Identifier: Apache-2.0
"""Critically-damped Langevin diffusion: the data is a position x that a velocity v of its own carries into noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes.base import SDE, Array, Time, as_times
from scoresde_fast.sdes.pairs import cholesky, exponential

Objective = Literal["hsm", "dsm"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
"""A Gauss-Legendre rule that is exact to rounding over the times that it is used for."""


class PairKernel(NamedTuple):
    """A Gaussian kernel of pairs: mean ``mean`` u (..., 2, 2), and ``covariance`` (..., 2, 2)."""

    mean: Array
    covariance: Array


class PairScore(NamedTuple):
    """What is linear in the state and in the score of v: ``state`` u + ``velocity_score`` s_v."""

    state: Array
    velocity_score: Array


@dataclass(frozen=True)
class CLDSDE(SDE):
    """dx = v / M beta(t) dt,  dv = -(x + Gamma v / M) beta(t) dt + sqrt(2 Gamma beta(t)) dw  (Dockhorn et al. 2022).

    beta(t) = beta0 + beta1 t.  A state u = (x, v) holds x in the first half of its channels, v in the other; matrices
    act on the two.  The stationary distribution, and prior, is N(0, 1) for x and N(0, M) for v.

    Args:
        m_inv: 1 / M, the inverse mass.
        friction: Gamma; None: critical damping, 2 sqrt(M).  Less is under-damped, more over-damped.
        beta0, beta1: the rate of the diffusion's clock.
        gamma: the velocity starts as N(0, gamma M).
        numerical_eps: what is added to both variances of a marginal, as in training.
        objective: "hsm": the initial velocity is integrated out of the marginals (hybrid score matching); "dsm": it is
            drawn with the data.

    Raises:
        ValueError: a number is out of its range, or the objective is unknown.
    """

    m_inv: float = 4.0
    friction: float | None = None
    beta0: float = 4.0
    beta1: float = 0.0
    gamma: float = 0.04
    numerical_eps: float = 1e-9
    objective: Objective = "hsm"
    name: ClassVar[str] = "cld"
    sampling_eps: ClassVar[float] = 1e-3
    parts: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name in ("m_inv", "gamma", *(("friction",) if self.friction is not None else ())):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; CLD needs a finite number greater than 0")
        usable = self.beta0 >= 0 and self.beta0 + min(self.beta1, 0) >= 0 and self.beta0 + self.beta1 / 2 > 0
        if not (usable and math.isfinite(self.beta0 + self.beta1)):
            raise ValueError(
                f"beta0={self.beta0}, beta1={self.beta1}: beta0 + beta1 t must be finite and must not be "
                "negative for t in [0, 1], nor 0 throughout"
            )
        if not (self.numerical_eps >= 0 and math.isfinite(self.numerical_eps)):
            raise ValueError(f"numerical_eps is {self.numerical_eps}; it must be a finite number, 0 or greater")
        if self.objective not in get_args(Objective):
            raise ValueError(unknown("objective", self.objective, get_args(Objective)))

    @property
    def mass(self) -> float:
        """M."""
        return 1 / self.m_inv

    @property
    def damping(self) -> float:
        """Gamma: ``friction``, or the critical 2 sqrt(M)."""
        return 2 * math.sqrt(self.mass) if self.friction is None else self.friction

    @property
    def prior_stds(self) -> tuple[float, ...]:
        return (1.0, math.sqrt(self.mass))

    @property
    def generator(self) -> Array:
        """A of the drift F(t) = beta(t) A: [[0, 1/M], [-1, -Gamma/M]]."""
        return np.array([[0.0, self.m_inv], [-1.0, -self.damping * self.m_inv]])

    def beta(self, t: Time) -> Array:
        """beta(t)."""
        return self.beta0 + self.beta1 * as_times(t)

    def clock(self, s: Time, t: Time) -> Array:
        """The integral of beta from s to t, negative where t < s; exact to the last digits however close they are."""
        s, t = as_times(s), as_times(t)
        return (t - s) * (self.beta0 + self.beta1 * (s + t) / 2)

    def drift(self, t: Time) -> Array:
        """F(t) (..., 2, 2) of the drift F(t) u."""
        return self.beta(t)[..., None, None] * self.generator

    def diffusion(self, t: Time) -> Array:
        """sqrt(2 Gamma beta(t)), which acts on v alone."""
        return np.sqrt(2 * self.damping * self.beta(t))

    def propagator(self, s: Time, t: Time) -> Array:
        """Psi(t, s) (..., 2, 2): where the drift alone takes u from s to t, forwards or backwards."""
        return exponential(self.generator, self.clock(s, t))

    def transition(self, s: Time, t: Time) -> PairKernel:
        """The exact kernel u(t) | u(s) for s <= t, without ``numerical_eps``."""
        return self.advance(self.clock(s, t))

    def advance(self, clock: Time) -> PairKernel:
        """The exact kernel over a time ``clock`` >= 0 of the diffusion's own clock, the integral of beta.

        Raises:
            ValueError: ``clock`` is negative.
        """
        clock = as_times(clock)
        if (clock < 0).any():
            raise ValueError(
                f"a transition goes forwards in time, and this one by {clock.min():.3g}; exchange its times"
            )
        return PairKernel(exponential(self.generator, clock), self._noise(clock))

    def marginal(self, t: Time, position_variance: float = 0.0) -> PairKernel:
        """The kernel u(t) | x(0) of "hsm", or u(t) | u(0) of "dsm", with ``numerical_eps``.

        ``position_variance`` is that of Gaussian data: the covariance is then that of u(t) itself.
        """
        start = self.gamma * self.mass if self.objective == "hsm" else 0.0
        return self._marginal(t, position_variance, start)

    def flowing_covariance(self, t: Time) -> Array:
        """That of "hsm" with ``numerical_eps`` added at the start, not at t: so it follows the diffusion's equation."""
        start = self.numerical_eps
        mean, noise = self.advance(self.clock(0.0, t))
        return mean @ np.diag([start, start + self.gamma * self.mass]) @ mean.swapaxes(-1, -2) + noise

    def _marginal(self, t: Time, position_variance: float, velocity_variance: float) -> PairKernel:
        mean, noise = self.transition(0.0, t)
        start = mean @ np.diag([position_variance, velocity_variance]) @ mean.swapaxes(-1, -2)
        return PairKernel(mean, start + noise + self.numerical_eps * np.eye(2))

    def cholesky(self, t: Time) -> Array:
        """The lower Cholesky factor (..., 2, 2) of the marginal's covariance.

        Raises:
            ValueError: it is not positive definite; says at which t and what to change.
        """
        factor = cholesky(self.marginal(t).covariance)
        if len(bad := np.atleast_1d(as_times(t))[np.atleast_1d(np.isnan(factor).any((-1, -2)))]):
            raise ValueError(
                f"the covariance of CLD at t = {bad[0]:g} is not positive definite with numerical_eps="
                f"{self.numerical_eps:g}: raise numerical_eps (1e-9 is usual), or keep t at 1e-5 or above"
            )
        return factor

    def ell(self, t: Time) -> Array:
        """l_t = sqrt(S_xx / (S_xx S_vv - S_xv^2)): minus the factor from the noise of v to its score."""
        return 1 / self.cholesky(t)[..., 1, 1]

    def mixed_variance(self, t: Time) -> Array:
        """S_vv of the mixed score's -v / S_vv: that of "hsm", whatever the objective."""
        return self._marginal(t, 0.0, self.gamma * self.mass).covariance[..., 1, 1]

    def joint_score(self, t: Time) -> PairScore:
        """The whole score (s_x, s_v) from that of v alone, for a model trained by "hsm".

        With x(0) fixed u(t) is Gaussian, N(Q x(0), P^-1), so that both scores are linear in E[x(0) | u]: the score of
        v tells it, and it tells that of x.

        Raises:
            ValueError: the objective is "dsm", where the initial velocity is unknown too; the damping is less than
                critical; or as `cholesky`.
        """
        (x0, v0), (_, xv, vv), gain = self._recovery(t)
        # s = P (Q E[x(0) | u] - u), multiplied out: the large terms, which cancel, are gone.
        state = np.zeros((*gain.shape, 2, 2))
        state[..., 0, 0], state[..., 0, 1] = -v0 / gain, x0 / gain
        return PairScore(state, np.stack([(vv * x0 - xv * v0) / gain, np.ones_like(gain)], axis=-1))

    def denoised(self, t: Time) -> PairScore:
        """E[x(0) | u(t)] from the score of v: ``state`` (..., 2) on u and ``velocity_score`` (...) on s_v.

        Raises:
            ValueError: as `joint_score`.
        """
        _, (xx, xv, vv), gain = self._recovery(t)
        return PairScore(np.stack([-xv, xx], axis=-1) / gain[..., None], (xx * vv - xv**2) / gain)

    def _recovery(self, t: Time) -> tuple[tuple[Array, Array], tuple[Array, Array, Array], Array]:
        """Q, (S_xx, S_xv, S_vv), and det(S) (P Q)_v = S_xx Q_v - S_xv Q_x, by which s_v depends on E[x(0) | u]."""
        if self.objective != "hsm":
            raise ValueError(
                "the position score cannot be recovered from a model trained by objective='dsm', whose velocity score "
                "depends on an unknown initial velocity; use a model trained by 'hsm', or solver 'em' or 'sscs'"
            )
        critical = 2 * math.sqrt(self.mass)
        if self.damping < critical * (1 - 1e-9):
            raise ValueError(
                f"with friction {self.damping:g}, which is under-damped, the velocity swings back, and where it does "
                f"its score does not tell the position's; use friction={critical:g} (critical) or more, or solver 'em' "
                "or 'sscs'"
            )
        self.cholesky(t)
        mean, covariance = self.marginal(t)
        x0, v0 = mean[..., 0, 0], mean[..., 1, 0]
        xx, xv, vv = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        return (x0, v0), (xx, xv, vv), xx * v0 - xv * x0

    def velocity_entropy(self, dimensions: int) -> float:
        """Entropy in nats of the initial velocity N(0, gamma M) of so many dimensions.

        log p(x(0)) >= E[log p(u(0))] + this (Dockhorn et al. 2022, appendix).
        """
        return 0.5 * dimensions * (1 + math.log(2 * math.pi) + math.log(self.gamma * self.mass))

    def _noise(self, clock: Array) -> Array:
        """Covariance (..., 2, 2) that the noise alone makes in a time ``clock`` >= 0 of the diffusion's own clock.

        It is S - Psi S Psi^T with the stationary S, which cancels for short times: S_xx grows with their third power.
        There it is the integral of 2 Gamma c c^T, c = Psi e_v, by quadrature, every term of which is positive.
        """
        stationary = np.diag([1.0, self.mass])
        decay = exponential(self.generator, clock)
        noise = stationary - decay @ stationary @ decay.swapaxes(-1, -2)
        short = clock * np.abs(self.generator).sum() < 1
        if short.any():
            half = clock[short][:, None] / 2
            kicks = exponential(self.generator, half * (NODES + 1))[..., 1]
            weighted = (2 * self.damping * half * WEIGHTS)[..., None] * kicks
            noise[short] = kicks.swapaxes(-1, -2) @ weighted
        return noise
