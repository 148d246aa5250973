# SPDX-License-Identifier: Apache-2.0
"""Time grids: where a solver evaluates, and how far each step goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE, Array, Discretisation, ScalarSDE
from scoresde_fast.sdes.base import table_index, table_times
from scoresde_fast.solvers.noise_levels import invert, noise_to_signal, time_of


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

    @classmethod
    def between(cls, edges: Array) -> TimeGrid:
        """The steps between ``edges`` (n + 1,), which fall."""
        return cls(edges[:-1], -np.diff(edges), published=False)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def ends(self) -> Array:
        """(n,) where each step ends."""
        return self.times - self.dt

    @property
    def edges(self) -> Array:
        """(n + 1,) the beginnings of the steps, and the end of the last."""
        return np.append(self.times, self.ends[-1])

    def table_times(self, sde: SDE) -> Array:
        """(n,) the times whose coefficients discrete solvers take: those of the published tables, or the grid's own."""
        n = len(self)
        return table_times(n, sde.T)[table_index(self.times, n, sde.T)] if self.published else self.times

    def discretise(self, sde: ScalarSDE) -> Discretisation:
        """The forward step that each step of the grid undoes."""
        if self.published:
            return sde.discretise(self.times, len(self))
        return sde.discretise_between(self.times - self.dt, self.times)


def uniform(sde: SDE, start: float, stop: float, share: Array) -> Array:
    """Evenly spaced in t."""
    return start + (stop - start) * share


def quadratic(sde: SDE, start: float, stop: float, share: Array) -> Array:
    """Quadratic striding, t - eps = (T - eps) (1 - i / n)^2 (DDIM; Dockhorn et al. 2022, appendix)."""
    return stop + (start - stop) * (1 - share) ** 2


def sqrt(sde: SDE, start: float, stop: float, share: Array) -> Array:
    """Evenly spaced in sqrt(t): as `quadratic`, but coarser near eps."""
    return uniform(sde, np.sqrt(start), np.sqrt(stop), share) ** 2


def karras(sde: SDE, start: float, stop: float, share: Array, rho: float = 7.0) -> Array:
    """Evenly spaced in (std / scale)^(1 / rho), the noise seen at unit signal (Karras et al. 2022, equation 5).

    CLD's signal and noise are those of the position.
    """
    high, low = noise_to_signal(sde, np.array([start, stop])) ** (1 / rho)
    return time_of(sde, uniform(sde, high, low, share) ** rho, stop, start)


def logsnr(sde: SDE, start: float, stop: float, share: Array) -> Array:
    """Evenly spaced in log(scale / std), half the log of the signal-to-noise ratio (Lu et al. 2022); as in `karras`."""
    high, low = np.log(noise_to_signal(sde, np.array([start, stop])))
    return time_of(sde, np.exp(uniform(sde, high, low, share)), stop, start)


Spacing = Callable[[SDE, float, float, Array], Array]
"""``spacing(sde, start, stop, share)``: the times (n,) after shares (n,) of the way down, 0 to 1; exact to rounding."""
GRIDS: dict[str, Spacing] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "sqrt": sqrt,
    "karras": karras,
    "logsnr": logsnr,
}


def require_steps(steps: int, least: int = 1) -> None:
    """Raises ``ValueError`` unless ``steps`` is a whole number of at least ``least``."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"steps is {steps!r}; it must be a whole number of at least {least}")


def make_grid(
    name: str,
    sde: SDE,
    steps: int,
    eps: float,
    *,
    start: float | None = None,
    through: Sequence[float] = (),
    published: bool = True,
) -> TimeGrid:
    """The grid ``name`` of ``steps`` steps from T, or ``start``, to ``eps``, with edges at the times ``through``.

    With ``published`` the uniform grid of images is that of score_sde (Song et al. 2021, algorithms 2 and 3), which
    ends beyond eps; every other grid ends at eps exactly.

    Raises:
        ValueError: the name is unknown, ``steps`` is below 1 or too few to pass through so many times, or ``eps`` is
            not inside (0, T).
    """
    if name not in GRIDS:
        raise ValueError(unknown("time grid", name, GRIDS))
    require_steps(steps)
    if not 0 < eps < sde.T:
        raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
    if published and name == "uniform" and isinstance(sde, ScalarSDE):
        return TimeGrid(np.linspace(sde.T, eps, steps, dtype=np.float64), np.full(steps, sde.T / steps), published=True)
    start = sde.T if start is None else start
    fixed = np.array([start, *sorted(through, reverse=True), eps])
    if steps < len(fixed) - 1:
        raise ValueError(f"{steps} steps cannot stop at {len(fixed) - 2} times on the way; take more steps")
    spacing, share = GRIDS[name], np.array([0.0, 1.0])
    if through:
        share = np.insert(share, 1, invert(lambda share: -spacing(sde, start, eps, share), -fixed[1:-1], 0.0, 1.0))
    index = np.round(share * steps).astype(int)
    for i in range(1, len(index) - 1):
        index[i] = np.clip(index[i], index[i - 1] + 1, steps - (len(index) - 1 - i))
    # Between these the way is divided evenly.
    edges = spacing(sde, start, eps, np.interp(np.arange(steps + 1), index, share))
    edges[index] = fixed
    return TimeGrid.between(edges)
