# SPDX-License-Identifier: Apache-2.0
"""The noisy form of gDDIM: multistep integrators of CLD's reverse SDE, from the velocity's score alone.

With x(0) = D known the diffusion is Gaussian, and its reverse from t to t' < t is the conditional distribution

    u(t') | u(t), D  ~  N(A u(t) + B D, C)
    A = Sigma(t') Psi(t, t')^T Sigma(t)^-1        B = Q(t') - A Q(t)        C = Sigma(t') - A Psi(t, t') Sigma(t'),

Q D and Sigma being mean and covariance of u given D.  That is gDDIM with lambda = 1 (Zhang et al. 2022) in terms of D,
which the noise leaves as it is.  As the network learns, D = E[x(0) | u(t)] (`CLDSDE.denoised`) changes on the way,
slowly, and B D is the integral of A(t', tau) G G^T Sigma^-1 Q(tau) D(tau): with D a polynomial in tau through its last
values, an Adams step, as SDE-DPM-Solver++ (Lu et al. 2022) is on images.
"""

from __future__ import annotations

import numpy as np

from scoresde_fast.sdes import CLDSDE, Array
from scoresde_fast.sdes.pairs import cholesky, inverse
from scoresde_fast.solvers.adams import NODES, lagrange, past
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.solvers.table import AnyRow, PairRow


def reverse_diffusion_rows(sde: CLDSDE, grid: TimeGrid, order: int) -> list[AnyRow]:
    """A step of ``order`` in D for each of the grid; the first ones have as many past values as there are."""
    times, ends = grid.times, grid.ends
    state = _backwards(sde, ends, times)
    forward = sde.propagator(ends, times)
    end = sde.flowing_covariance(ends)
    covariance = end - state @ forward @ end
    noise = cholesky((covariance + covariance.swapaxes(-1, -2)) / 2)
    shares = _shares(sde, grid, order)
    known = sde.denoised(times)
    rows: list[AnyRow] = []
    for i, t in enumerate(times):
        # D in the place of x of a derived pair, 0 in that of v.
        derive = (np.stack([known.state[i], np.zeros(2)]), np.array([known.velocity_score[i], 0.0]))
        outputs = tuple(np.stack([share, np.zeros(2)], axis=1) for share in shares[i, : i + 1])
        rows.append(PairRow(t, derive=derive, state=state[i], outputs=outputs, noise=noise[i]))
    return rows


def _backwards(sde: CLDSDE, low: Array, high: Array) -> Array:
    """A (..., 2, 2) from ``high`` to ``low``."""
    forward = sde.propagator(low, high)
    return sde.flowing_covariance(low) @ forward.swapaxes(-1, -2) @ inverse(sde.flowing_covariance(high))


def _mean(sde: CLDSDE, t: Array) -> Array:
    """Q (..., 2): what the drift makes of a position of 1 at 0."""
    return sde.propagator(np.zeros_like(t), t)[..., 0]


def density_shares(sde: CLDSDE, grid: TimeGrid, order: int) -> Array:
    """(n, order, 2): the integrals over each step of what acts on D, times the polynomials through its last values."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    width = np.log(grid.times / grid.ends)[:, None]
    tau = grid.ends[:, None] * np.exp(width * (x + 1) / 2)
    pull = np.einsum("nkij,nkj->nki", inverse(sde.flowing_covariance(tau)), _mean(sde, tau))
    kick = np.zeros_like(pull)
    kick[..., 1] = sde.diffusion(tau) ** 2 * pull[..., 1] * (tau * width * w / 2)
    density = np.einsum("nkij,nkj->nki", _backwards(sde, grid.ends[:, None], tau), kick)
    return np.einsum("nki,nkp->npi", density, lagrange(past(grid.edges, order), tau))


def _shares(sde: CLDSDE, grid: TimeGrid, order: int) -> Array:
    """(n, order, 2): what each step adds to (x, v) for the D of 0, 1, ... evaluations ago; 0 before the first."""
    shares = density_shares(sde, grid, order)
    # Together they are B, which is known exactly.
    start = np.einsum("nij,nj->ni", _backwards(sde, grid.ends, grid.times), _mean(sde, grid.times))
    shares[:, 0] = _mean(sde, grid.ends) - start - shares[:, 1:].sum(1)
    return shares
