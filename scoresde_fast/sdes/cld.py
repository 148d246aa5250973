# SPDX-License-Identifier: Apache-2.0
"""Critically-damped Langevin diffusion (CLD): the data is a position x that moves with a noisy velocity v."""

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
"""Gauss-Legendre rule, exact to rounding over the short times of `CLDSDE.noise_covariance`."""


class PairKernel(NamedTuple):
    """A Gaussian kernel of pairs u = (x, v): mean ``mean`` u and ``covariance``, (..., 2, 2) each."""

    mean: Array
    covariance: Array


class _Recovery(NamedTuple):
    """Terms of E[x(0) | u(t)] as a function of the velocity's score.

    Attributes:
        x, v: mean Q of position and velocity for x(0) = 1.
        xx, xv, vv: covariance S of u(t) given x(0).
        gain: S_xx Q_v - S_xv Q_x, the factor of E[x(0) | u] in det(S) s_v.
    """

    x: Array
    v: Array
    xx: Array
    xv: Array
    vv: Array
    gain: Array


@dataclass(frozen=True)
class CLDSDE(SDE):
    """dx = v / M beta(t) dt,  dv = -(x + Gamma v / M) beta(t) dt + sqrt(2 Gamma beta(t)) dw  (Dockhorn et al. 2022).

    beta(t) = beta0 + beta1 t.  A state u = (x, v) has x in the first half of its channels and v in the second; 2x2
    matrices act on the two halves.  The prior is the stationary distribution: N(0, 1) for x and N(0, M) for v.

    Args:
        m_inv: 1 / M, the inverse mass.
        friction: Gamma; None for critical damping, 2 sqrt(M).  Less is under-damped, more is over-damped.
        beta0, beta1: coefficients of beta(t).
        gamma: the initial velocity is N(0, gamma M).
        numerical_eps: constant added to both variances of a marginal, as in training.
        objective: "hsm" (hybrid score matching): the marginals are given x(0) alone, with the initial velocity
            integrated out; "dsm": they are given x(0) and v(0).

    Raises:
        ValueError: an argument is out of range, or the objective is unknown.
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
        positive = ["m_inv", "gamma"] if self.friction is None else ["m_inv", "gamma", "friction"]
        for name in positive:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; CLD needs a finite number greater than 0")
        usable = self.beta0 >= 0 and self.beta0 + min(self.beta1, 0) >= 0 and self.beta0 + self.beta1 / 2 > 0
        if not (usable and math.isfinite(self.beta0 + self.beta1)):
            raise ValueError(
                f"beta0={self.beta0}, beta1={self.beta1}: beta0 + beta1 t must be finite and must not be "
                "negative for t in [0, 1], nor 0 for all t"
            )
        if not (self.numerical_eps >= 0 and math.isfinite(self.numerical_eps)):
            raise ValueError(f"numerical_eps is {self.numerical_eps}; it must be a finite number, 0 or greater")
        if self.objective not in get_args(Objective):
            raise ValueError(unknown_message("objective", self.objective, get_args(Objective)))

    @property
    def mass(self) -> float:
        """The mass M."""
        return 1 / self.m_inv

    @property
    def damping(self) -> float:
        """Gamma: ``friction``, by default the critical 2 sqrt(M)."""
        return 2 * math.sqrt(self.mass) if self.friction is None else self.friction

    @property
    def prior_stds(self) -> tuple[float, ...]:
        return (1.0, math.sqrt(self.mass))

    @property
    def generator(self) -> Array:
        """A = [[0, 1/M], [-1, -Gamma/M]] of the drift F(t) = beta(t) A."""
        return np.array([[0.0, self.m_inv], [-1.0, -self.damping * self.m_inv]])

    def beta(self, t: Time) -> Array:
        """Return beta(t)."""
        return self.beta0 + self.beta1 * as_times(t)

    def clock(self, s: Time, t: Time) -> Array:
        """Return the integral of beta from s to t, negative for t < s; accurate also for close times."""
        s, t = as_times(s), as_times(t)
        return (t - s) * (self.beta0 + self.beta1 * (s + t) / 2)

    def drift(self, t: Time) -> Array:
        """Return F(t) (..., 2, 2) of the drift F(t) u."""
        return self.beta(t)[..., None, None] * self.generator

    def diffusion(self, t: Time) -> Array:
        """Return sqrt(2 Gamma beta(t)), the diffusion of v; x has none."""
        return np.sqrt(2 * self.damping * self.beta(t))

    def propagator(self, s: Time, t: Time) -> Array:
        """Return Psi(t, s) (..., 2, 2), the solution of the drift alone from s to t, forwards or backwards in time."""
        return exponential(self.generator, self.clock(s, t))

    def transition(self, s: Time, t: Time) -> PairKernel:
        """Return the exact kernel u(t) | u(s) for s <= t, without ``numerical_eps``."""
        return self.advance(self.clock(s, t))

    def advance(self, clock: Time) -> PairKernel:
        """Return the exact kernel over a step with ``clock`` >= 0, the integral of beta.

        Raises:
            ValueError: ``clock`` is negative.
        """
        clock = as_times(clock)
        if (clock < 0).any():
            raise ValueError(
                f"the integral of beta over a transition is {clock.min():.3g}, but must be >= 0; swap the two times"
            )
        return PairKernel(exponential(self.generator, clock), self.noise_covariance(clock))

    def marginal(self, t: Time, position_variance: float = 0.0, objective: Objective | None = None) -> PairKernel:
        """Return the kernel u(t) | x(0) for "hsm", or u(t) | u(0) for "dsm", with ``numerical_eps``.

        ``objective`` is by default that of the SDE.  For Gaussian data of variance ``position_variance`` the covariance
        for "hsm" is that of u(t) itself.
        """
        velocity_variance = self.gamma * self.mass if (objective or self.objective) == "hsm" else 0.0
        mean, noise = self.transition(0.0, t)
        start = mean @ np.diag([position_variance, velocity_variance]) @ mean.swapaxes(-1, -2)
        return PairKernel(mean, start + noise + self.numerical_eps * np.eye(2))

    def flowing_covariance(self, t: Time) -> Array:
        """Return the covariance for "hsm" that solves the moment ODE, with ``numerical_eps`` added at time 0."""
        start = self.numerical_eps
        mean, noise = self.advance(self.clock(0.0, t))
        return mean @ np.diag([start, start + self.gamma * self.mass]) @ mean.swapaxes(-1, -2) + noise

    def cholesky(self, t: Time) -> Array:
        """Return the lower Cholesky factor (..., 2, 2) of the marginal's covariance.

        Raises:
            ValueError: the covariance is not positive definite.
        """
        factor = cholesky(self.marginal(t).covariance)
        refused = as_times(t)[np.isnan(factor).any((-1, -2))]
        if refused.size:
            raise ValueError(
                f"the covariance of CLD at t = {refused[0]:g} is not positive definite with numerical_eps="
                f"{self.numerical_eps:g}: raise numerical_eps (the default is 1e-9), or use t >= 1e-5"
            )
        return factor

    def ell(self, t: Time) -> Array:
        """Return l_t = sqrt(S_xx / (S_xx S_vv - S_xv^2)): the score of v is -l_t times the noise of v."""
        return 1 / self.cholesky(t)[..., 1, 1]

    def mixed_variance(self, t: Time) -> Array:
        """Return S_vv of the term -v / S_vv in a mixed score: that of "hsm" for both objectives."""
        return self.marginal(t, objective="hsm").covariance[..., 1, 1]

    def joint_score(self, t: Time) -> ScoreMap:
        """Return the scores (s_x, s_v) as functions of u and s_v, for a model trained with "hsm".

        Given x(0), u(t) is N(Q x(0), P^-1), so both scores are linear in E[x(0) | u]: s_v determines E[x(0) | u], which
        determines s_x.

        Raises:
            ValueError: the objective is "dsm", which leaves the initial velocity unknown; the damping is less than
                critical; or the covariance is not positive definite.
        """
        r = self._recovery(t)
        # s = P (Q E[x(0) | u] - u), multiplied out so that no large terms cancel.
        state = np.zeros((*r.gain.shape, 2, 2))
        state[..., 0, 0], state[..., 0, 1] = -r.v / r.gain, r.x / r.gain
        return ScoreMap(state, np.stack([(r.vv * r.x - r.xv * r.v) / r.gain, np.ones_like(r.gain)], axis=-1))

    def denoised(self, t: Time) -> ScoreMap:
        r = self._recovery(t)
        return ScoreMap(np.stack([-r.xv, r.xx], axis=-1) / r.gain[..., None], (r.xx * r.vv - r.xv**2) / r.gain)

    def _recovery(self, t: Time) -> _Recovery:
        """Return the terms at t; raise ``ValueError`` as `joint_score`."""
        if self.objective != "hsm":
            raise ValueError(
                "the position score cannot be recovered from a model trained with objective='dsm', whose velocity "
                "score depends on an unknown initial velocity; use a model trained with 'hsm', or solver 'em' or 'sscs'"
            )
        critical = 2 * math.sqrt(self.mass)
        if self.damping < critical * (1 - 1e-9):
            raise ValueError(
                f"friction {self.damping:g} is under-damped: the velocity oscillates, so its score does not determine "
                f"the position's; use friction={critical:g} (critical) or more, or solver 'em' or 'sscs'"
            )
        self.cholesky(t)  # refuses a singular covariance
        mean, covariance = self.marginal(t)
        x, v = mean[..., 0, 0], mean[..., 1, 0]
        xx, xv, vv = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        return _Recovery(x, v, xx, xv, vv, gain=xx * v - xv * x)

    def noise_to_signal(self, t: Time) -> Array:
        mean, covariance = self.marginal(t)
        return np.sqrt(covariance[..., 0, 0]) / mean[..., 0, 0]

    def observation(self, t: Time) -> Observation:
        # The initial velocity N(0, gamma M) is integrated out for both objectives.
        kernel = self.marginal(t, objective="hsm")
        mean, covariance = kernel.mean[..., 0], kernel.covariance
        # Generalised least squares: weights S^-1 m, precision m^T S^-1 m.
        solved = np.linalg.solve(covariance, mean[..., None])[..., 0]
        precision = (mean * solved).sum(-1)
        return Observation(solved / precision[..., None], precision**-0.5)

    def velocity_entropy(self, dimensions: int) -> float:
        """Return the entropy in nats of the initial velocity N(0, gamma M) in ``dimensions`` dimensions.

        log p(x(0)) >= E[log p(u(0))] + this entropy (Dockhorn et al. 2022, appendix).
        """
        return 0.5 * dimensions * (1 + math.log(2 * math.pi) + math.log(self.gamma * self.mass))

    def noise_covariance(self, clock: Array) -> Array:
        """Return the covariance (..., 2, 2) of the noise added over a step with ``clock`` >= 0, the integral of beta.

        The closed form is S - Psi S Psi^T with the stationary covariance S.  It loses all digits for short steps, where
        the variance of x grows as clock^3.  There 2 Gamma c c^T, c = Psi e_v, is integrated by quadrature: all terms
        are positive.
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
