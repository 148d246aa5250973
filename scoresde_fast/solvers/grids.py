# SPDX-License-Identifier: Apache-2.0
"""Time grids: where a solver evaluates, and how far each step goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import CLDSDE, SDE, Array, Discretisation, ScalarSDE
from scoresde_fast.sdes.base import table_index, table_times


@dataclass(frozen=True)
class TimeGrid:
    """``n`` steps down from T.

    Attributes:
        times: (n,) where each step begins and the score is taken.
        dt: (n,) the length of each step, positive.
        published: the grid of score_sde: ``n`` points from T to eps and steps of T / n, so that the last step ends
            beyond eps; discrete solvers take the tables of the ``n``-step process.  Other grids end at eps exactly.
    """

    times: Array
    dt: Array
    published: bool

    def __len__(self) -> int:
        return len(self.times)

    @property
    def ends(self) -> Array:
        """(n,) where each step ends."""
        return self.times - self.dt

    def table_times(self, sde: SDE) -> Array:
        """(n,) the times whose coefficients discrete solvers take: those of the published tables, or the grid's own."""
        n = len(self)
        return table_times(n, sde.T)[table_index(self.times, n, sde.T)] if self.published else self.times

    def discretise(self, sde: ScalarSDE) -> Discretisation:
        """The forward step that each step of the grid undoes."""
        if self.published:
            return sde.discretise(self.times, len(self))
        return sde.discretise_between(self.times - self.dt, self.times)


def _between(edges: Array) -> TimeGrid:
    return TimeGrid(edges[:-1], -np.diff(edges), published=False)


def uniform(sde: SDE, steps: int, eps: float) -> TimeGrid:
    """Evenly spaced, as published (Song et al. 2021, algorithms 2 and 3; CLD's ends at eps exactly)."""
    if not isinstance(sde, ScalarSDE):
        return _between(np.linspace(sde.T, eps, steps + 1))
    return TimeGrid(np.linspace(sde.T, eps, steps), np.full(steps, sde.T / steps), published=True)


def quadratic(sde: SDE, steps: int, eps: float) -> TimeGrid:
    """Quadratic striding, t - eps = (T - eps) (1 - i / n)^2 (DDIM; Dockhorn et al. 2022, appendix)."""
    return _between(eps + (sde.T - eps) * np.linspace(1, 0, steps + 1) ** 2)


def sqrt(sde: SDE, steps: int, eps: float) -> TimeGrid:
    """Evenly spaced in sqrt(t): as `quadratic`, but coarser near eps."""
    return _between(np.linspace(np.sqrt(sde.T), np.sqrt(eps), steps + 1) ** 2)


def karras(sde: SDE, steps: int, eps: float, rho: float = 7.0) -> TimeGrid:
    """Evenly spaced in (std / scale)^(1 / rho), the noise seen at unit signal (Karras et al. 2022, equation 5).

    CLD's signal and noise are those of the position.
    """

    def noise_to_signal(t: Array) -> Array:
        if isinstance(sde, CLDSDE):
            mean, covariance = sde.marginal(t)
            return np.sqrt(covariance[..., 0, 0]) / mean[..., 0, 0]
        assert isinstance(sde, ScalarSDE)
        scale, std = sde.marginal(t)
        return std / scale

    ends = noise_to_signal(np.array([sde.T, eps])) ** (1 / rho)
    wanted = np.linspace(ends[0], ends[1], steps + 1) ** rho
    edges = _invert(noise_to_signal, wanted, eps, sde.T)
    edges[0], edges[-1] = sde.T, eps
    return _between(edges)


def _invert(increasing: Callable[[Array], Array], values: Array, low: float, high: float) -> Array:
    """The t in [low, high] with increasing(t) = value, for every value, by bisection to the last bit."""
    lower, upper = np.full_like(values, low), np.full_like(values, high)
    for _ in range(64):
        middle = (lower + upper) / 2
        below = increasing(middle) < values
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    return (lower + upper) / 2


GRIDS: dict[str, Callable[[SDE, int, float], TimeGrid]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "sqrt": sqrt,
    "karras": karras,
}


def require_steps(steps: int, least: int = 1) -> None:
    """Raises ``ValueError`` unless ``steps`` is a whole number of at least ``least``."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps is {steps!r}; it must be a whole number of at least {least}")


def make_grid(name: str, sde: SDE, steps: int, eps: float) -> TimeGrid:
    """The grid ``name`` of ``steps`` steps from T to ``eps``.

    Raises:
        ValueError: the name is unknown, ``steps`` is below 1, or ``eps`` is not inside (0, T).
    """
    if name not in GRIDS:
        raise ValueError(unknown("time grid", name, GRIDS))
    require_steps(steps)
    if not 0 < eps < sde.T:
        raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
    return GRIDS[name](sde, steps, eps)
