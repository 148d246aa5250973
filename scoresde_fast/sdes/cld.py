# SPDX-License-Identifier: Apache-2.0
"""Critically-damped Langevin diffusion (CLD): the data is a position x, and a velocity v carries it into noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from scoresde_fast.errors import unknown_message
from scoresde_fast.sdes.base import SDE, Array, Observation, ScoreMap, Time, as_times
from scoresde_fast.sdes.linalg import cholesky, exponential

Objective = Literal["hsm", "dsm"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
"""A Gauss-Legendre rule, exact to rounding over the short times of `CLDSDE.noise_covariance`."""


class PairKernel(NamedTuple):
    """A Gaussian kernel of pairs u = (x, v): the matrix ``mean`` of the mean, and ``covariance``, (..., 2, 2) each."""

    mean: Array
    covariance: Array


@dataclass(frozen=True)
class CLDSDE(SDE):
    """dx = v / M beta(t) dt,  dv = -(x + Gamma v / M) beta(t) dt + sqrt(2 Gamma beta(t)) dw  (Dockhorn et al. 2022).

    beta(t) = beta0 + beta1 t.  A state u = (x, v) holds x in the first half of its channels and v in the second;
    matrices act on the two halves.  The stationary distribution, which is the prior, is N(0, 1) for x, N(0, M) for v.

    Args:
        m_inv: 1 / M, the inverse mass.
        friction: Gamma; None for critical damping, 2 sqrt(M).  Less is under-damped, more is over-damped.
        beta0, beta1: the rate of the diffusion's clock, the integral of beta.
        gamma: the velocity starts as N(0, gamma M).
        numerical_eps: added to both variances of a marginal, as in training.
        objective: "hsm" (hybrid score matching) integrates the initial velocity out of the marginals; "dsm" draws it
            with the data.

    Raises:
        ValueError: a number is out of range, or the objective is unknown.
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
            raise ValueError(unknown_message("objective", self.objective, get_args(Objective)))

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
        """The integral of beta from s to t, negative where t < s; accurate for times that are close too."""
        s, t = as_times(s), as_times(t)
        return (t - s) * (self.beta0 + self.beta1 * (s + t) / 2)

    def drift(self, t: Time) -> Array:
        """F(t) (..., 2, 2) of the drift F(t) u."""
        return self.beta(t)[..., None, None] * self.generator

    def diffusion(self, t: Time) -> Array:
        """sqrt(2 Gamma beta(t)), which acts on v alone."""
        return np.sqrt(2 * self.damping * self.beta(t))

    def propagator(self, s: Time, t: Time) -> Array:
        """Psi(t, s) (..., 2, 2): the flow of the drift alone from s to t, forwards or backwards."""
        return exponential(self.generator, self.clock(s, t))

    def transition(self, s: Time, t: Time) -> PairKernel:
        """The exact kernel u(t) | u(s) for s <= t, without ``numerical_eps``."""
        return self.advance(self.clock(s, t))

    def advance(self, clock: Time) -> PairKernel:
        """The exact kernel over a time ``clock`` >= 0 of the diffusion's clock.

        Raises:
            ValueError: ``clock`` is negative.
        """
        clock = as_times(clock)
        if (clock < 0).any():
            raise ValueError(
                f"a transition goes forwards in time, but the clock advances by {clock.min():.3g}; swap the two times"
            )
        return PairKernel(exponential(self.generator, clock), self.noise_covariance(clock))

    def marginal(self, t: Time, position_variance: float = 0.0) -> PairKernel:
        """The kernel u(t) | x(0) for "hsm", or u(t) | u(0) for "dsm", with ``numerical_eps``.

        With the ``position_variance`` of Gaussian data the covariance is that of u(t) itself.
        """
        start = self.gamma * self.mass if self.objective == "hsm" else 0.0
        return self._marginal(t, position_variance, start)

    def flowing_covariance(self, t: Time) -> Array:
        """The covariance for "hsm" with ``numerical_eps`` added at time 0, not at t, so it solves the moment ODE."""
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
            ValueError: the covariance is not positive definite; the message names t and what to change.
        """
        factor = cholesky(self.marginal(t).covariance)
        if len(bad := np.atleast_1d(as_times(t))[np.atleast_1d(np.isnan(factor).any((-1, -2)))]):
            raise ValueError(
                f"the covariance of CLD at t = {bad[0]:g} is not positive definite with numerical_eps="
                f"{self.numerical_eps:g}: raise numerical_eps (1e-9 is usual), or keep t at 1e-5 or above"
            )
        return factor

    def ell(self, t: Time) -> Array:
        """l_t = sqrt(S_xx / (S_xx S_vv - S_xv^2)): the score of v is -l_t times its noise."""
        return 1 / self.cholesky(t)[..., 1, 1]

    def mixed_variance(self, t: Time) -> Array:
        """S_vv of the mixed score's term -v / S_vv, which is that of "hsm" for both objectives."""
        return self._marginal(t, 0.0, self.gamma * self.mass).covariance[..., 1, 1]

    def joint_score(self, t: Time) -> ScoreMap:
        """The score (s_x, s_v) of both parts from that of v alone, for a model trained by "hsm".

        Given x(0), u(t) is Gaussian, N(Q x(0), P^-1), so both scores are linear in E[x(0) | u]: s_v determines
        E[x(0) | u], which determines s_x.

        Raises:
            ValueError: the objective is "dsm", which leaves the initial velocity unknown; the damping is less than
                critical; or the covariance is not positive definite, see `cholesky`.
        """
        (x0, v0), (_, xv, vv), gain = self._recovery(t)
        # s = P (Q E[x(0) | u] - u), multiplied out, so that no large terms cancel.
        state = np.zeros((*gain.shape, 2, 2))
        state[..., 0, 0], state[..., 0, 1] = -v0 / gain, x0 / gain
        return ScoreMap(state, np.stack([(vv * x0 - xv * v0) / gain, np.ones_like(gain)], axis=-1))

    def denoised(self, t: Time) -> ScoreMap:
        _, (xx, xv, vv), gain = self._recovery(t)
        return ScoreMap(np.stack([-xv, xx], axis=-1) / gain[..., None], (xx * vv - xv**2) / gain)

    def _recovery(self, t: Time) -> tuple[tuple[Array, Array], tuple[Array, Array, Array], Array]:
        """Q, (S_xx, S_xv, S_vv), and det(S) (P Q)_v = S_xx Q_v - S_xv Q_x, the factor of E[x(0) | u] in det(S) s_v."""
        if self.objective != "hsm":
            raise ValueError(
                "the position score cannot be recovered from a model trained by objective='dsm', whose velocity score "
                "depends on an unknown initial velocity; use a model trained by 'hsm', or solver 'em' or 'sscs'"
            )
        critical = 2 * math.sqrt(self.mass)
        if self.damping < critical * (1 - 1e-9):
            raise ValueError(
                f"with friction {self.damping:g}, which is under-damped, the velocity swings back, and its score no "
                f"longer determines the position's; use friction={critical:g} (critical) or more, or solver 'em' or "
                "'sscs'"
            )
        self.cholesky(t)
        mean, covariance = self.marginal(t)
        x0, v0 = mean[..., 0, 0], mean[..., 1, 0]
        xx, xv, vv = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        return (x0, v0), (xx, xv, vv), xx * v0 - xv * x0

    def noise_to_signal(self, t: Time) -> Array:
        mean, covariance = self.marginal(t)
        return np.sqrt(covariance[..., 0, 0]) / mean[..., 0, 0]

    def observation(self, t: Time) -> Observation:
        # The initial velocity N(0, gamma M) is integrated out for both objectives.
        mean, covariance = self._marginal(t, 0.0, self.gamma * self.mass)
        mean = mean[..., 0]
        # S^-1 m, the weights of generalised least squares; m^T S^-1 m is the precision of their sum.
        solved = np.linalg.solve(covariance, mean[..., None])[..., 0]
        precision = (mean * solved).sum(-1)
        return Observation(solved / precision[..., None], precision**-0.5)

    def velocity_entropy(self, dimensions: int) -> float:
        """Entropy in nats of the initial velocity N(0, gamma M) in ``dimensions`` dimensions.

        log p(x(0)) >= E[log p(u(0))] + this entropy (Dockhorn et al. 2022, appendix).
        """
        return 0.5 * dimensions * (1 + math.log(2 * math.pi) + math.log(self.gamma * self.mass))

    def noise_covariance(self, clock: Array) -> Array:
        """Covariance (..., 2, 2) of the noise added in a time ``clock`` >= 0 of the diffusion's clock.

        The closed form S - Psi S Psi^T, with the stationary S, cancels for short times, where S_xx grows as their third
        power.  There quadrature takes the integral of 2 Gamma c c^T, c = Psi e_v, whose terms are all positive.
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
