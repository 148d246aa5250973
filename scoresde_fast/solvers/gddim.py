# SPDX-License-Identifier: Apache-2.0
"""gDDIM: exponential integrators of CLD's probability flow (Zhang et al. 2022), from the velocity's score alone.

With R R^T = Sigma and dR/dt = (F + G G^T Sigma^-1 / 2) R the whole score is s = -R^-T e, and e changes slowly: for data
in one point it is constant.  The flow is then

    u(t') = Psi(t', t) u(t) + integral of [Psi(t', tau) G G^T R^-T(tau) / 2] e(tau) dtau        from t to t',

with e a polynomial through its last values.  The position's score, which the network does not give, follows from the
velocity's (`CLDSDE.joint_score`).  R is the Cholesky factor turned by an angle: R = L [cos, sin; -sin, cos](theta) with
theta' = beta L_vv / (M L_xx), and so G G^T R^-T / 2 = beta Gamma / L_vv e_v [-sin, cos](theta).

The noisy form is in `scoresde_fast.solvers.stochastic_gddim`.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, SDE, Array
from scoresde_fast.sdes.pairs import cholesky
from scoresde_fast.solvers.adams import NODES, lagrange, past
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.registry import solver
from scoresde_fast.solvers.stochastic_gddim import reverse_diffusion_rows
from scoresde_fast.solvers.table import IDENTITY, AnyRow, PairRow


def posterior_mean(sde: CLDSDE, t: float, dt: float) -> PairRow:
    """E[u(0) | u(t)], of position and velocity, where a step would need the score below t."""
    state, score = sde.joint_score(t)
    mean = sde.propagator(t, 0.0)
    covariance = sde.transition(0.0, t).covariance + sde.numerical_eps * IDENTITY
    # Tweedie's formula: the noise since 0 is taken away, then the drift.
    outputs = (mean @ covariance,)
    return PairRow(t, derive=(state, score), state=mean, outputs=outputs)


@solver(
    "gddim",
    sdes=(CLDSDE,),
    probability_flow=True,
    deterministic=True,
    orders=(1, 2, 3, 4),
    source="Zhang et al. 2022",
    finish=posterior_mean,
    weak_order=2,
)
def gddim(sde: SDE, grid: TimeGrid, *, probability_flow: bool, order: int = 2, eta: float = 0.0) -> list[AnyRow]:
    """An Adams-Bashforth step of ``order`` in e; the first steps have as many past values as there are.

    With ``eta`` 1 a step of the reverse SDE, in E[x(0) | u] (`reverse_diffusion_rows`).

    Raises:
        ValueError: ``eta`` is between 0 and 1, or more.
    """
    assert isinstance(sde, CLDSDE)
    if eta not in (0.0, 1.0):
        raise ValueError(f"eta is {eta:g}; solver 'gddim' has 0, the probability flow, and 1, the reverse SDE")
    if eta:
        return reverse_diffusion_rows(sde, grid, order)
    rotations = Rotations(sde, grid)
    mean = sde.propagator(grid.times, grid.ends)
    joint = sde.joint_score(grid.times)
    whiten = -rotations.root(grid.times, rotations.angles).swapaxes(-1, -2)
    weights = rotations.weights(order)
    rows: list[AnyRow] = []
    for i, t in enumerate(grid.times):
        derive = (whiten[i] @ joint.state[i], whiten[i] @ joint.velocity_score[i])
        rows.append(PairRow(t, derive=derive, state=mean[i], outputs=tuple(weights[i, : i + 1])))
    return rows


class Rotations:
    """The angle theta over a grid, and the integrals that the steps need, in log t, where all here is smooth.

    Attributes:
        angles: (n,) theta at the beginning of each step; theta is 0 at the first.
    """

    def __init__(self, sde: CLDSDE, grid: TimeGrid) -> None:
        self.sde, self.grid = sde, grid
        x, self._w = np.polynomial.legendre.leggauss(NODES)
        # Integrals of the Lagrange polynomials from -1 to each node, by their Legendre coefficients.
        legendre = np.polynomial.legendre
        coefficients = np.linalg.inv(legendre.legvander(x, NODES - 1))
        upto = np.stack([legendre.legval(x, legendre.legint(c, lbnd=-1)) for c in coefficients.T], axis=1)
        width = np.log(grid.ends / grid.times)
        self.nodes = grid.times[:, None] * np.exp(width[:, None] * (x + 1) / 2)  # (n, NODES), falling in t
        self._measure = self.nodes * width[:, None] / 2  # dtau of a unit of x
        self._factor = cholesky(sde.flowing_covariance(self.nodes))
        speed = sde.beta(self.nodes) * sde.m_inv * self._factor[..., 1, 1] / self._factor[..., 0, 0] * self._measure
        turns = speed @ self._w
        self.angles = np.append(0.0, np.cumsum(turns))[:-1]
        self._theta = self.angles[:, None] + speed @ upto.T

    def root(self, t: Array, theta: Array) -> Array:
        """R (..., 2, 2) at times with their angles."""
        cos, sin = np.cos(theta), np.sin(theta)
        turn = np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)
        return cholesky(self.sde.flowing_covariance(t)) @ turn

    def weights(self, order: int) -> Array:
        """(n, order, 2, 2): what acts in each step on the e of 0, 1, ... evaluations ago; 0 before the first."""
        tau, theta = self.nodes, self._theta
        kick = self.sde.propagator(tau, self.grid.ends[:, None])[..., 1]
        size = self.sde.beta(tau) * self.sde.damping / self._factor[..., 1, 1] * self._measure * self._w
        direction = np.stack([-np.sin(theta), np.cos(theta)], axis=-1)
        basis = lagrange(past(self.grid.edges, order), tau)
        return np.einsum("nk,nkp,nki,nkj->npij", size, basis, kick, direction)
