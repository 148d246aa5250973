# SPDX-License-Identifier: Apache-2.0
"""Time grids: the times at which a solver evaluates, and the lengths of its steps; see `spacings` to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np

from scoresde_fast.errors import shown, unknown_message
from scoresde_fast.sdes import SDE, Array, Discretisation, DiscretisedSDE, ScalarSDE
from scoresde_fast.sdes.scalar import table_index, table_times
from scoresde_fast.solvers.noise_schedule import invert
from scoresde_fast.solvers.spacings import GRIDS

MOST_STEPS = 1_000_000
"""Largest number of steps: the tables of more fill the memory."""


@dataclass(frozen=True)
class TimeGrid:
    """``n`` steps downwards in time.

    Attributes:
        times: (n,) start of each step, where the score is evaluated.
        dt: (n,) length of each step, positive.
        published: whether this is the grid of score_sde: ``n`` points from T to eps and steps of T / n.  Its last
            step ends below eps, and discrete solvers use the tables of the ``n``-step process.  Other grids end at
            eps.
    """

    times: Array
    dt: Array
    published: bool

    @classmethod
    def between(cls, edges: Array) -> TimeGrid:
        """Return the grid of the steps between ``edges`` (n + 1,), which descend."""
        return cls(edges[:-1], -np.diff(edges), published=False)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def ends(self) -> Array:
        """(n,) end of each step."""
        return self.times - self.dt

    @property
    def edges(self) -> Array:
        """(n + 1,) starts of the steps, and the end of the last one."""
        return np.append(self.times, self.ends[-1])

    def table_times(self, sde: SDE) -> Array:
        """Return the times (n,) of a discrete solver's coefficients: ``times``, or if published those of the tables."""
        n = len(self)
        return table_times(n, sde.T)[table_index(self.times, n, sde.T)] if self.published else self.times

    def discretise(self, sde: ScalarSDE) -> Discretisation:
        """Return the forward step that each step of the grid reverses."""
        if self.published:
            assert isinstance(sde, DiscretisedSDE)
            return sde.discretise(self.times, len(self))
        return sde.discretise_between(self.ends, self.times)


def make_grid(
    name: str,
    sde: SDE,
    steps: int,
    eps: float,
    *,
    start: float | None = None,
    through: Sequence[float] = (),
    published: bool = False,
    parameters: Mapping[str, float] = MappingProxyType({}),
) -> TimeGrid:
    """Return the grid ``name`` with ``steps`` steps from ``start`` (default T) to ``eps``, and edges at ``through``.

    With ``published`` the grid is the uniform one of score_sde on a `DiscretisedSDE` (Song et al. 2021, algorithms 2,
    3), which ends below eps and ignores ``start`` and ``through``.  Every other grid ends at eps.  Edges are moved to
    times at which networks are trained (`SDE.trained_times`).

    ``parameters`` are those of the spacing: ``rho`` of "karras", ``sigma_data`` of "kl_optimal".

    Raises:
        ValueError: the name is unknown, the grid is not defined on the SDE, ``steps`` is below 1 or too small for
            ``through``, ``eps`` is not between 0 and the start, or there are more steps than times at which networks
            are trained.
    """
    if name not in GRIDS:
        raise ValueError(unknown_message("time grid", name, GRIDS))
    require_steps(steps)
    start = sde.T if start is None else start
    if not 0 < eps < start:
        raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {start:g}")
    if published:
        return TimeGrid(np.linspace(sde.T, eps, steps, dtype=np.float64), np.full(steps, sde.T / steps), published=True)
    fixed = np.array([start, *sorted(through, reverse=True), eps])
    if steps < len(fixed) - 1:
        raise ValueError(f"{steps} steps cannot pass through {len(fixed) - 2} given times; take more steps")
    spacing, fraction = partial(GRIDS[name], **parameters), np.array([0.0, 1.0])
    if through:
        fraction = np.insert(fraction, 1, invert(lambda f: -spacing(sde, start, eps, f), -fixed[1:-1], 0.0, 1.0))
    # Round the fixed edges to distinct indices; between them the fractions are evenly spaced.
    index = np.round(fraction * steps).astype(int)
    for i in range(1, len(index) - 1):
        index[i] = np.clip(index[i], index[i - 1] + 1, steps - (len(index) - 1 - i))
    edges = spacing(sde, start, eps, np.interp(np.arange(steps + 1), index, fraction))
    edges[index] = fixed
    edges = sde.trained_times(edges)
    trained = sde.trained_times(fixed)
    if edges[0] != trained[0] or not np.isin(trained, edges).all():
        where = f"through {list(through)}" if through else f"from t={start:g} to {eps:g}"
        raise ValueError(f"{steps} steps {where} are too many for the times of training: take fewer")
    return TimeGrid.between(edges)


def require_steps(steps: int, least: int = 1, name: str = "steps") -> None:
    """Raise ``ValueError`` unless ``steps`` is an integer from ``least`` to `MOST_STEPS`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"{name} is {shown(steps)}; it must be an integer of at least {least}")
    if steps > MOST_STEPS:
        raise ValueError(f"{name} is {shown(steps)}; it must be at most {MOST_STEPS}, so that the table fits in memory")
