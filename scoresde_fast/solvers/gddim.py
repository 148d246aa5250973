# SPDX-License-Identifier: Apache-2.0
"""gDDIM (Zhang et al. 2022): exponential integrators for CLD that need only the velocity's score.

**The probability flow.**  With R R^T = Sigma and dR/dt = (F + G G^T Sigma^-1 / 2) R the score of the pair is
s = -R^-T e, where e changes slowly; it is constant for a single data point.  The flow is

    u(t') = Psi(t', t) u(t) + integral from t to t' of [Psi(t', tau) G G^T R^-T(tau) / 2] e(tau) dtau,

with e replaced by the polynomial through its last values.  R is the Cholesky factor L times a rotation,
R = L [cos, sin; -sin, cos](theta) with theta' = beta L_vv / (M L_xx).  So the v component of G G^T R^-T / 2 e is
beta Gamma / L_vv [-sin, cos](theta) e; the x component is 0.  The position's score, which the network does not give,
follows from the velocity's (`CLDSDE.joint_score`).

**The reverse SDE** (lambda = 1).  Given x(0) = D the process is Gaussian, and its reverse from t to t' < t is

    u(t') | u(t), D  ~  N(A u(t) + B D, C)
    A = Sigma(t') Psi(t, t')^T Sigma(t)^-1        B = Q(t') - A Q(t)        C = Sigma(t') - A Psi(t, t') Sigma(t'),

where Q D and Sigma are the mean and covariance of u given D.  For other data D becomes E[x(0) | u(tau)]
(`SDE.denoised`), which changes slowly, and B D the integral of A(t', tau) G G^T Sigma^-1 Q(tau) D(tau) over tau.  An
Adams step replaces D by the polynomial through its last values, like SDE-DPM-Solver++ (Lu et al. 2022).
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array
from scoresde_fast.sdes.linalg import cholesky, inverse
from scoresde_fast.solvers.adams import NODES, evaluation_points, lagrange
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow
from scoresde_fast.solvers.weights import Weights, with_weights


def posterior_mean(sde: CLDSDE, t: float, dt: float) -> PairRow:
    """Return the denoising row E[u(0) | u(t)]; a step to 0 would need the score at times below t."""
    mean = sde.propagator(t, 0.0)
    covariance = sde.transition(0.0, t).covariance + sde.numerical_eps * IDENTITY
    # Tweedie's formula removes the noise since 0, then the propagator undoes the drift.
    return PairRow(t, derive=(*sde.joint_score(t),), state=mean, outputs=(mean @ covariance,))


@solver(
    "gddim",
    source="Zhang et al. 2022",
    sdes=(CLDSDE,),
    grid="quadratic",
    deterministic=True,
    orders=(1, 2, 3, 4),
    weak_order=2,
    finish=posterior_mean,
)
def gddim(
    sde: SDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2, eta: float = 0.0, weights: Weights = ()
) -> list[AnyRow]:
    """An Adams-Bashforth step: in e on the flow, or with ``eta`` 1 in D on the reverse SDE.

    ``weights`` are added to the coefficients of e or D and of its earlier values.

    Raises:
        ValueError: ``eta`` is neither 0 nor 1, or the weights are not those of these steps.
    """
    assert isinstance(sde, CLDSDE)
    if eta not in (0.0, 1.0):
        raise ValueError(f"eta is {eta:g}; solver 'gddim' allows 0 (the probability flow) or 1 (the reverse SDE)")
    return with_weights(reverse_sde_rows(sde, grid, order) if eta else flow_rows(sde, grid, order), weights)


def flow_rows(sde: CLDSDE, grid: TimeGrid, order: int) -> list[AnyRow]:
    """Return steps of the probability flow; the first ones use the past values that exist."""
    factor = RotatedFactor(sde, grid)
    mean = sde.propagator(grid.times, grid.ends)
    joint = sde.joint_score(grid.times)
    whiten = -factor.root(grid.times, factor.angles).swapaxes(-1, -2)  # e = -R^T s
    weights = factor.weights(order)
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        derive = (whiten[i] @ joint.state[i], whiten[i] @ joint.score[i])
        rows.append(PairRow(t, derive=derive, state=mean[i], outputs=tuple(weights[i, : i + 1])))
    return rows


class RotatedFactor:
    """The factor R over a grid, and integrals over its steps, by quadrature in log t, where integrands are smooth.

    Attributes:
        angles: (n,) theta at the start of each step; 0 for the first.
    """

    def __init__(self, sde: CLDSDE, grid: TimeGrid) -> None:
        self.sde, self.grid = sde, grid
        x, self._w = np.polynomial.legendre.leggauss(NODES)
        # (node, polynomial) integrals of the Lagrange polynomials from -1 to each node, by their Legendre coefficients.
        legendre = np.polynomial.legendre
        coefficients = np.linalg.inv(legendre.legvander(x, NODES - 1))
        upto = np.stack([legendre.legval(x, legendre.legint(c, lbnd=-1)) for c in coefficients.T], axis=1)
        width = np.log(grid.ends / grid.times)
        self._tau = grid.times[:, None] * np.exp(width[:, None] * (x + 1) / 2)  # (n, NODES), falling
        self._dtau = self._tau * width[:, None] / 2  # d tau / dx
        self._L = cholesky(sde.flowing_covariance(self._tau))
        speed = sde.beta(self._tau) * sde.m_inv * self._L[..., 1, 1] / self._L[..., 0, 0] * self._dtau
        turns = speed @ self._w
        self.angles = np.append(0.0, np.cumsum(turns))[:-1]
        self._theta = self.angles[:, None] + speed @ upto.T

    def root(self, t: Array, theta: Array) -> Array:
        """Return R (..., 2, 2) at times ``t`` with angles ``theta``."""
        cos, sin = np.cos(theta), np.sin(theta)
        turn = np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)
        return cholesky(self.sde.flowing_covariance(t)) @ turn

    def weights(self, order: int) -> Array:
        """Return the weights (n, order, 2, 2) of the last values of e, newest first; 0 for values that do not exist."""
        tau, theta = self._tau, self._theta
        kick = self.sde.propagator(tau, self.grid.ends[:, None])[..., 1]
        size = self.sde.beta(tau) * self.sde.damping / self._L[..., 1, 1] * self._dtau * self._w
        direction = np.stack([-np.sin(theta), np.cos(theta)], axis=-1)
        basis = lagrange(evaluation_points(self.grid.edges, order), tau)
        return np.einsum("nk,nkp,nki,nkj->npij", size, basis, kick, direction)


def reverse_sde_rows(sde: CLDSDE, grid: TimeGrid, order: int) -> list[AnyRow]:
    """Return steps of the reverse SDE; the first ones use the past values that exist."""
    times, ends = grid.times, grid.ends
    A = _reverse_mean(sde, ends, times)
    forward, sigma = sde.propagator(ends, times), sde.flowing_covariance(ends)
    C = sigma - A @ forward @ sigma
    noise = cholesky((C + C.swapaxes(-1, -2)) / 2)
    weights = data_weights(sde, grid, order)
    # The weights sum to B, which is known exactly.
    B = _data_mean(sde, ends) - np.einsum("nij,nj->ni", A, _data_mean(sde, times))
    weights[:, 0] = B - weights[:, 1:].sum(1)
    denoised = sde.denoised(times)
    rows: list[AnyRow] = []
    for i, t in enumerate(times):
        # The derived pair is (D, 0).
        derive = (np.stack([denoised.state[i], np.zeros(2)]), np.array([denoised.score[i], 0.0]))
        outputs = tuple(np.stack([weight, np.zeros(2)], axis=1) for weight in weights[i, : i + 1])
        rows.append(PairRow(t, derive=derive, state=A[i], outputs=outputs, noise=noise[i]))
    return rows


def _reverse_mean(sde: CLDSDE, low: Array, high: Array) -> Array:
    """Return A (..., 2, 2) from the times ``high`` to ``low``."""
    forward = sde.propagator(low, high)
    return sde.flowing_covariance(low) @ forward.swapaxes(-1, -2) @ inverse(sde.flowing_covariance(high))


def _data_mean(sde: CLDSDE, t: Array) -> Array:
    """Return Q (..., 2): the mean of u(t) for x(0) = 1."""
    return sde.propagator(np.zeros_like(t), t)[..., 0]


def data_weights(sde: CLDSDE, grid: TimeGrid, order: int) -> Array:
    """Return the weights (n, order, 2) of the last values of D, newest first; 0 for values that do not exist."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    width = np.log(grid.times / grid.ends)[:, None]
    tau = grid.ends[:, None] * np.exp(width * (x + 1) / 2)
    pull = np.einsum("nkij,nkj->nki", inverse(sde.flowing_covariance(tau)), _data_mean(sde, tau))
    kick = np.zeros_like(pull)
    kick[..., 1] = sde.diffusion(tau) ** 2 * pull[..., 1] * (tau * width * w / 2)
    density = np.einsum("nkij,nkj->nki", _reverse_mean(sde, grid.ends[:, None], tau), kick)
    return np.einsum("nki,nkp->npi", density, lagrange(evaluation_points(grid.edges, order), tau))
