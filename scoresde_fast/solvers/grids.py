# SPDX-License-Identifier: Apache-2.0
"""Time grids: the times at which a solver evaluates, and the lengths of its steps.

To add a grid, write a function ``(sde, start, stop, fraction)`` that maps fractions (n,) to descending times (n,): 0
to ``start`` and 1 to ``stop``.  List it in `GRIDS`, in the same order in the type of
``configs.schema.SamplingConfig.grid``, and in the help of ``SolverOptions.grid``, which tests compare, and of
``FlowOptions.grid``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scoresde_fast.errors import shown, unknown_message
from scoresde_fast.sdes import SDE, Array, Discretisation, DiscretisedSDE, ScalarSDE
from scoresde_fast.sdes.scalar import table_index, table_times
from scoresde_fast.solvers.noise_schedule import invert, time_of


def uniform(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in t."""
    return start + (stop - start) * fraction


def quadratic(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Quadratic striding, t - eps = (T - eps) (1 - i / n)^2 (DDIM; Dockhorn et al. 2022, appendix)."""
    return stop + (start - stop) * (1 - fraction) ** 2


def sqrt(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in sqrt(t): like `quadratic`, but coarser near eps."""
    return uniform(sde, np.sqrt(start), np.sqrt(stop), fraction) ** 2


def karras(sde: SDE, start: float, stop: float, fraction: Array, rho: float = 7.0) -> Array:
    """Evenly spaced in (std / scale)^(1 / rho), on CLD that of the position (Karras et al. 2022, equation 5)."""
    high, low = sde.noise_to_signal(np.array([start, stop])) ** (1 / rho)
    return time_of(sde, uniform(sde, high, low, fraction) ** rho, stop, start)


def logsnr(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in log(scale / std), half the log-SNR, on CLD that of the position (Lu et al. 2022)."""
    high, low = np.log(sde.noise_to_signal(np.array([start, stop])))
    return time_of(sde, np.exp(uniform(sde, high, low, fraction)), stop, start)


MOST_STEPS = 1_000_000
"""Largest number of steps: the tables of more fill the memory."""
SIGMAS = "sigmas"
"""The first entry of `SolverOptions.grid` if the others are values of std / scale."""
START_TOLERANCE = 0.01
"""Allowed relative difference between the noise at the start of given times and that of the prior."""

GRIDS: dict[str, Callable[[SDE, float, float, Array], Array]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "sqrt": sqrt,
    "karras": karras,
    "logsnr": logsnr,
}


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
) -> TimeGrid:
    """Return the grid ``name`` with ``steps`` steps from ``start`` (default T) to ``eps``, and edges at ``through``.

    With ``published`` the grid is the uniform one of score_sde on a `DiscretisedSDE` (Song et al. 2021, algorithms 2,
    3), which ends below eps and ignores ``start`` and ``through``.  Every other grid ends at eps.  Edges are moved to
    times at which networks are trained (`SDE.trained_times`).

    Raises:
        ValueError: the name is unknown, ``steps`` is below 1 or too small for ``through``, ``eps`` is not in (0, T), or
            there are more steps than times at which networks are trained.
    """
    if name not in GRIDS:
        raise ValueError(unknown_message("time grid", name, GRIDS))
    require_steps(steps)
    if not 0 < eps < sde.T:
        raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
    if published:
        return TimeGrid(np.linspace(sde.T, eps, steps, dtype=np.float64), np.full(steps, sde.T / steps), published=True)
    start = sde.T if start is None else start
    fixed = np.array([start, *sorted(through, reverse=True), eps])
    if steps < len(fixed) - 1:
        raise ValueError(f"{steps} steps cannot pass through {len(fixed) - 2} given times; take more steps")
    spacing, fraction = GRIDS[name], np.array([0.0, 1.0])
    if through:
        fraction = np.insert(fraction, 1, invert(lambda f: -spacing(sde, start, eps, f), -fixed[1:-1], 0.0, 1.0))
    # Round the fixed edges to distinct indices; between them the fractions are evenly spaced.
    index = np.round(fraction * steps).astype(int)
    for i in range(1, len(index) - 1):
        index[i] = np.clip(index[i], index[i - 1] + 1, steps - (len(index) - 1 - i))
    edges = spacing(sde, start, eps, np.interp(np.arange(steps + 1), index, fraction))
    edges[index] = fixed
    edges = sde.trained_times(edges)
    if not np.isin(sde.trained_times(fixed), edges).all():
        raise ValueError(f"{steps} steps through {list(through)} are too many for the times of training: take fewer")
    return TimeGrid.between(edges)


def grid_values(grid: Any) -> str | tuple[float | str, ...]:
    """Return the name of a grid, or its values as a tuple that begins with "sigmas" if they are values of std / scale.

    Raises:
        ValueError: a value is not a number.
    """
    if isinstance(grid, str):
        if not grid.startswith(f"{SIGMAS}:") and "," not in grid:
            return grid
        kind, _, text = grid.rpartition(":")
        values: Any = text.split(",")
    else:
        has_values = isinstance(grid, Iterable) and getattr(grid, "ndim", None) != 0
        kind, values = "", list(grid) if has_values else []
        if values and isinstance(values[0], str):
            kind, values = values[0], values[1] if len(values) == 2 else values[1:]
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if kind not in ("", SIGMAS) or not numbers:
        raise ValueError(f"grid is {shown(grid)}; it must be a name, times such as 1,0.5,0.1, or sigmas:80,10,1,0.1")
    return (kind, *numbers) if kind else numbers


def grid_of_values(sde: SDE, grid: tuple[float | str, ...]) -> TimeGrid:
    """Return the grid with the edges of `SolverOptions.grid`: times, or after "sigmas" values of std / scale.

    Raises:
        ValueError: they do not fall strictly, are not between 0 and T, or the first is not at the noise of the prior.
    """
    values = np.array([value for value in grid if value != SIGMAS], dtype=np.float64)
    edges = values
    if SIGMAS in grid:
        low = min(sde.sampling_eps, 1e-6)
        least, most = sde.noise_to_signal(np.array([low, sde.T]))
        if not (values <= most * (1 + START_TOLERANCE)).all() or not (values >= least).all():
            raise ValueError(
                f"grid has sigmas from {values.min():g} to {values.max():g}; on {sde.name!r} std / scale is between "
                f"{least:.4g} and {most:.4g}"
            )
        edges = time_of(sde, np.minimum(values, most), low, sde.T)
    if sde.T < edges[0] <= sde.T * (1 + START_TOLERANCE):
        edges = np.append(sde.T, edges[1:])
    if not (np.diff(edges) < 0).all() or not 0 < edges[-1] < edges[0] <= sde.T:
        raise ValueError(
            f"grid is {_shown(values)}; times must fall, from {sde.T:g} or less to above 0: give values of std / "
            "scale as ('sigmas', values)"
        )
    edges = sde.trained_times(edges)
    start, prior = edges[0], sde.T
    if isinstance(sde, ScalarSDE):
        start, prior = float(sde.marginal(edges[0]).std), sde.prior_std
    if abs(start / prior - 1) > START_TOLERANCE:
        raise ValueError(
            f"grid starts at t={edges[0]:g}, where the noise is {start:.4g}, but the prior is at t={sde.T:g}, where it "
            f"is {prior:.4g}: start there"
        )
    return TimeGrid.between(edges)


def _shown(values: Array) -> str:
    """Return the values in a message: at most the first and the last three."""
    texts = [f"{value:g}" for value in values]
    return ", ".join(texts if len(texts) <= 6 else [*texts[:3], "...", *texts[-3:]])


def require_steps(steps: int, least: int = 1, name: str = "steps") -> None:
    """Raise ``ValueError`` unless ``steps`` is an integer from ``least`` to `MOST_STEPS`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise ValueError(f"{name} is {shown(steps)}; it must be an integer of at least {least}")
    if steps > MOST_STEPS:
        raise ValueError(f"{name} is {shown(steps)}; it must be at most {MOST_STEPS}, so that the table fits in memory")
