# SPDX-License-Identifier: Apache-2.0
"""Spacings of time grids: functions from fractions of a run to times.

To add a grid, write a function ``(sde, start, stop, fraction)`` that maps fractions (n,) to descending times (n,): 0
to ``start`` and 1 to ``stop``.  List it in `GRIDS`, in the same order in the type of
``configs.schema.SamplingConfig.grid``, and in the help of ``SolverOptions.grid`` and ``FlowOptions.grid``; tests
compare them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scoresde_fast.sdes import EDM, SDE, Array, Betas
from scoresde_fast.solvers.noise_schedule import invert, time_of

Spacing = Callable[..., Array]

RHO = 7.0
"""Default exponent of `karras` (Karras et al. 2022)."""
SIGMA_DATA = 0.5
"""Default standard deviation of the data, that of images in [-1, 1] (Karras et al. 2022)."""
BETA_SHAPE = 0.6
"""Both parameters of the Beta distribution of `beta` (Lee et al. 2024)."""
SERIES_TERMS = 64
"""Terms of the power series in `beta_quantiles`, which fall at least like 2^-k."""
AYS_INDICES: dict[str, tuple[int, ...]] = {
    "ays": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "ays_sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
"""Edges of ten steps for Stable Diffusion 1.5 and SDXL, as indices of betas (Sabour et al. 2024, published tables)."""
AYS_VIDEO = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""Edges of ten steps for Stable Video Diffusion, as noise levels (Sabour et al. 2024, published tables)."""
AYS_TOLERANCE = 1e-3
"""Allowed relative difference between an SDE and that of a published table."""


def uniform(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in t."""
    return start + (stop - start) * fraction


def quadratic(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Quadratic striding, t - eps = (T - eps) (1 - i / n)^2 (DDIM; Dockhorn et al. 2022, appendix)."""
    return stop + (start - stop) * (1 - fraction) ** 2


def sqrt(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in sqrt(t): like `quadratic`, but coarser near eps."""
    return uniform(sde, np.sqrt(start), np.sqrt(stop), fraction) ** 2


def karras(sde: SDE, start: float, stop: float, fraction: Array, rho: float = RHO) -> Array:
    """Evenly spaced in (std / scale)^(1 / rho), on CLD that of the position (Karras et al. 2022, equation 5)."""
    high, low = sde.noise_to_signal(np.array([start, stop])) ** (1 / rho)
    return time_of(sde, uniform(sde, high, low, fraction) ** rho, stop, start)


def logsnr(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in log(scale / std), half the log-SNR, on CLD that of the position (Lu et al. 2022)."""
    high, low = np.log(sde.noise_to_signal(np.array([start, stop])))
    return time_of(sde, np.exp(uniform(sde, high, low, fraction)), stop, start)


def beta(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Quantiles of Beta(0.6, 0.6), scaled to the times: short steps at both ends (Lee et al. 2024, "Beta Sampling")."""
    return uniform(sde, start, stop, beta_quantiles(fraction))


def kl_optimal(sde: SDE, start: float, stop: float, fraction: Array, sigma_data: float = SIGMA_DATA) -> Array:
    """Evenly spaced in atan(std / scale / ``sigma_data``), on CLD that of the position (Sabour et al. 2024).

    For data N(0, sigma_data^2) a step of DDIM from the angle a to b multiplies the standard deviation of x / scale by
    cos(a - b) times the exact factor.  The product over all steps is closest to 1 if they are equal.
    """
    high, low = np.arctan(sde.noise_to_signal(np.array([start, stop])) / sigma_data)
    return time_of(sde, sigma_data * np.tan(uniform(sde, high, low, fraction)), stop, start)


def ays(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Align Your Steps for Stable Diffusion 1.5 or Stable Video Diffusion (Sabour et al. 2024); see `_along_table`."""
    return _along_table("ays", sde, start, stop, fraction)


def ays_sdxl(sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Align Your Steps for Stable Diffusion XL (Sabour et al. 2024); see `_along_table`."""
    return _along_table("ays_sdxl", sde, start, stop, fraction)


GRIDS: dict[str, Spacing] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "sqrt": sqrt,
    "karras": karras,
    "logsnr": logsnr,
    "beta": beta,
    "kl_optimal": kl_optimal,
    "ays": ays,
    "ays_sdxl": ays_sdxl,
}

GRID_PARAMETERS = {"karras": ("rho",), "kl_optimal": ("sigma_data",)}
"""Parameters of the spacings, which are options of the same name."""


def grids_of(sde: SDE) -> tuple[str, ...]:
    """Return the names of the grids that are defined on ``sde``: all, or all but those published for other SDEs."""
    return tuple(name for name in GRIDS if name not in AYS_INDICES or ays_table(name, sde) is not None)


def beta_quantiles(probability: Array) -> Array:
    """Return the quantiles of Beta(a, a) with a = `BETA_SHAPE`, for probabilities of any shape.

    The integral of (y (1 - y))^(a - 1) from 0 to x is x^a sum_k c_k x^k / (a + k) with c_k the product of (j - a) / j
    for j from 1 to k.  It is inverted up to x = 1/2; the distribution is symmetric.
    """
    k = np.arange(SERIES_TERMS)
    terms = np.append(1.0, np.cumprod(1 - BETA_SHAPE / k[1:])) / (BETA_SHAPE + k)

    def integral(x: Array) -> Array:
        return x**BETA_SHAPE * np.polynomial.polynomial.polyval(x, terms)

    whole = 2 * integral(np.array(0.5))
    lower = invert(integral, whole * np.minimum(probability, 1 - probability), 0.0, 0.5)
    return np.where(probability <= 0.5, lower, 1 - lower)


def ays_table(name: str, sde: SDE) -> Array | None:
    """Return the published values of std / scale of a grid of `AYS_INDICES`, descending; None on other SDEs."""
    published = Betas.scaled_linear()
    if isinstance(sde, Betas) and len(sde) == len(published):
        if np.allclose(sde.betas, published.betas, rtol=AYS_TOLERANCE, atol=0):
            return sde.noise_to_signal((np.array(AYS_INDICES[name]) + 1) / len(sde))
    elif name == "ays" and isinstance(sde, EDM) and abs(sde.sigma_max / AYS_VIDEO[0] - 1) < AYS_TOLERANCE:
        return np.array(AYS_VIDEO)
    return None


def _along_table(name: str, sde: SDE, start: float, stop: float, fraction: Array) -> Array:
    """Evenly spaced in the index of a published table, with log(std / scale) linear in between, as its authors advise.

    Ten steps from end to end are the table.  If a run goes beyond an end, the table ends there.

    Raises:
        ValueError: the grid is not published for the SDE.
    """
    table = ays_table(name, sde)
    if table is None:
        models = "Betas.scaled_linear(1000), as in Stable Diffusion"
        models += ", and EDM(sigma_max=700), as in Stable Video Diffusion" if name == "ays" else " XL"
        raise ValueError(
            f"grid {name!r} is published for {models}, not for the SDE {sde.name!r}: choose from "
            f"{', '.join(grids_of(sde))}"
        )
    levels = -np.log(table)
    first, last = -np.log(sde.noise_to_signal(np.array([start, stop])))
    levels[0], levels[-1] = min(levels[0], first), max(levels[-1], last)
    index = np.arange(len(levels))
    begin, end = np.interp([first, last], levels, index)
    levels_at = np.interp(uniform(sde, begin, end, fraction), index, levels)
    return time_of(sde, np.exp(-levels_at), stop, start)
