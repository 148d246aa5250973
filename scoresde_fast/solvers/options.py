# SPDX-License-Identifier: Apache-2.0
"""`SolverOptions`: the options of fixed-step solvers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scoresde_fast.errors import require_integer, require_positive, unknown_message
from scoresde_fast.run_options import require_types
from scoresde_fast.solvers.grid_values import SIGMAS, grid_values
from scoresde_fast.solvers.restart import RestartInterval, restart_intervals
from scoresde_fast.solvers.spacings import RHO
from scoresde_fast.solvers.weights import Weights, rows_of_numbers

RHO_RANGE = (0.1, 1000.0)
"""Least and largest `SolverOptions.rho`: beyond them powers of std / scale lose too many digits."""
PREDICTOR_CORRECTOR = "pc"
"""The sampler of Song et al. (2021): reverse diffusion with the Langevin corrector."""

Norm = Literal["sample", "batch"]
"""Norm of each sample, or the mean of the norms over the batch."""

CHURN_OPTIONS = ("s_min", "s_max", "s_noise")
"""Options that modify ``churn``."""


@dataclass(frozen=True)
class SolverOptions:
    """The options of a fixed-step solver.

    Attributes:
        solver: "pc" (reverse diffusion with the Langevin corrector), or a solver's name; the default is that of the
            model, but with fewer than 100 steps unipc, or gddim on CLD. Or "tuned": that of the model's file of
            tune, or "tuned:FILE". Of Song et al. (2021):
            euler_maruyama, reverse_diffusion, ancestral. For few steps: ddim, deis, ipndm, dpm_2m, dpmpp_2m, dpmpp_3m,
            dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_2s, dpmpp_3s, res, unipc, dpm_v3, trigflow, sa, er_sde, seeds, heun,
            deis_rk, pndm, gradient_estimation. On CLD: sscs, euler_maruyama, gddim. With adaptive steps: rk45
            (probability flow) and ggf (reverse SDE; not on CLD).
        steps: Number of steps. Denoising may use the last one; see denoise.
        corrector: Corrector before each step: langevin, ald (annealed Langevin; the only one on CLD) or none. The
            default is langevin for "pc" and none for other solvers.
        corrector_steps: Number of corrector steps before each step.
        snr: Signal-to-noise ratio of the corrector.
        grid: Spacing of the times: uniform (as published), quadratic, sqrt, karras, logsnr, beta, kl_optimal, or the
            published tables ays (Stable Diffusion 1.5, Stable Video Diffusion) and ays_sdxl. Or the times themselves,
            such as 1,0.5,0.1, or sigmas:80,10,1,0.1 for values of std / scale; in Python also an array of times, or
            ("sigmas", array). They replace steps and eps. A last value of 0 stands for denoising. The default is that
            of the solver: uniform for those of Song et al., quadratic on CLD, and logsnr or karras for the others.
        rho: Exponent of the grid karras, by default 7: larger values give shorter steps near the data.
        sigma_min: Value of std / scale at which to stop, instead of the time eps.
        sigma_max: Value of std / scale at which to start, instead of that at T; not on CLD. The run starts with noise
            of the standard deviation at this time.
        probability_flow: Solve the probability-flow ODE instead of the reverse SDE: no noise after the prior.
        denoise: End without noise. The solvers of Song et al. omit the noise of the last step; the others, and all on
            CLD, use the last step to go from eps to the data.
        eps: Time at which to stop. The default is 1e-5 on VE and 1e-3 on the other SDEs.
        order: Order, for solvers with several: unipc, dpm_v3, trigflow, sa, er_sde and seeds 1 to 3, deis, deis_rk and
            ipndm 2 to 4, gddim 1 to 4.
        original: Follow the official code where it differs from the paper: sscs with a beta that depends on time.
        variant: Form of unipc: bh1, bh2 or vary_coeff (Zhao et al. 2023); of dpmpp_2m_sde: midpoint or heun.
        prediction: For unipc and seeds: which output of the network is interpolated, data or noise.
        variable: For deis: the polynomial is one in t (tAB) or in log_rho.
        sigma_data: For trigflow and the grid kl_optimal: standard deviation of the data, in the units of the SDE. The
            default of `Sampler` is a quarter of the range of the data: 0.5 for data in [-1, 1], 0.25 in [0, 1].
        lower_order_final: Multistep solvers: lower the order step by step at the end, down to 1, that of denoising.
        eta: Noise of ddim, sa, dpmpp_2m_sde, seeds and gddim, relative to the reverse SDE, and of er_sde, relative to
            the published one: 0 is the probability flow. gddim allows only 0 and 1.
        weights: For ddim and gddim: weights that `scoresde_fast.tune` has fitted to a model and a grid, those of each
            step in a tuple. They are added to the coefficients of the newest prediction and of earlier ones.
        statistics: For dpm_v3: statistics of the model's predictions, rows (half the log-SNR, l, s), which the command
            statistics measures.
        churn: Noise that heun adds and removes, in total over all steps (S_churn of Karras et al.).
        s_min: With churn: the smallest std / scale at which heun adds noise (S_tmin of Karras et al.).
        s_max: With churn: the largest std / scale at which heun adds noise (S_tmax of Karras et al.).
        s_noise: With churn: factor of the noise that heun adds (S_noise of Karras et al.).
        gamma: For gradient_estimation: weight of the newest noise prediction; the previous one has 1 - gamma.
        restart: Restart intervals T_MIN:T_MAX:TIMES:STEPS such as 0.1:0.3:2:5, separated by commas. At T_MIN, go
            forward to T_MAX with noise and return in STEPS steps, TIMES times (Xu et al. 2023). In Python also a
            tuple of (t_min, t_max, times, steps).
        cache_interval: Reuse the deep features of the network: only every n-th evaluation is whole, the others compute
            the layers near the image. Faster, and less exact.
        cache_branches: With cache_interval: number of skip connections that every evaluation computes.
        parallel: Number of steps that are evaluated at once, for one image sooner on a device with room (ParaDiGMS,
            Shih et al. 2023): guessed states are improved in rounds until they no longer change.
        parallel_tolerance: With parallel: change of a state, relative to its root mean square, below which it is
            final. The default is 0.01; 0 gives the images of a run without parallel, up to rounding.
        langevin_norm: Norms for the step size of the Langevin corrector: of each sample, or (as published) their mean
            over the batch. With the mean a sample depends on its batch.

    Raises:
        ValueError: a value is out of range, or two options exclude each other.
    """

    solver: str = PREDICTOR_CORRECTOR
    steps: int = 1000
    corrector: str | None = None
    corrector_steps: int = 1
    snr: float = 0.16
    grid: str | Sequence[float | str] | None = None
    rho: float | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    probability_flow: bool = False
    denoise: bool = True
    eps: float | None = None
    order: int | None = None
    variant: str | None = None
    prediction: str | None = None
    variable: str | None = None
    sigma_data: float | None = None
    lower_order_final: bool | None = None
    original: bool = False
    eta: float | None = None
    weights: Weights | None = None
    statistics: Weights | None = None
    churn: float | None = None
    s_min: float | None = None
    s_max: float | None = None
    s_noise: float | None = None
    gamma: float | None = None
    restart: str | tuple[RestartInterval, ...] | None = None
    cache_interval: int = 1
    cache_branches: int = 1
    parallel: int | None = None
    parallel_tolerance: float | None = None
    langevin_norm: Norm = "sample"

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("eta", "churn", *CHURN_OPTIONS, "gamma"):
            amount = getattr(self, name)
            if amount is None:
                continue
            if not (amount >= 0 and math.isfinite(amount * amount)):
                raise ValueError(f"{name} is {amount!r}; it must be a finite number of at least 0")
            if name in CHURN_OPTIONS and not self.churn:
                raise ValueError(f"{name} is {amount!r}, but there is no churn: give churn, or leave out {name}")
            if self.probability_flow and amount and name in ("eta", "churn"):
                raise ValueError(
                    f"{name} is {amount!r}, but probability_flow=True draws no noise; leave out one of them"
                )
        if self.s_min is not None and self.s_max is not None and self.s_min > self.s_max:
            raise ValueError(f"s_min is {self.s_min!r}, but s_max is {self.s_max!r}; s_min must be at most s_max")
        for name in ("cache_interval", "cache_branches"):
            require_integer(name, getattr(self, name), 1)
        if self.parallel is not None:
            require_integer("parallel", self.parallel, 2)
        self._check_parallel()
        if self.sigma_data is not None:
            require_positive("sigma_data", self.sigma_data)
        if not math.isfinite(self.snr):
            require_positive("snr", self.snr)
        require_norm("langevin_norm", self.langevin_norm)
        grid = None if self.grid is None else grid_values(self.grid)
        object.__setattr__(self, "grid", grid)
        if isinstance(grid, tuple):
            self._use_values(grid)
        self._check_ends()
        if self.weights is not None:
            object.__setattr__(self, "weights", rows_of_numbers("weights", self.weights, "step"))
        if self.statistics is not None:
            rows = rows_of_numbers("statistics", self.statistics, "noise level")
            object.__setattr__(self, "statistics", rows)
        if self.restart is not None:
            object.__setattr__(self, "restart", restart_intervals(self.restart))

    def _check_parallel(self) -> None:
        """Check the options that belong to ``parallel`` and those that it excludes."""
        tolerance = self.parallel_tolerance
        if tolerance is not None and not 0 <= tolerance < 1:
            raise ValueError(f"parallel_tolerance is {tolerance!r}; it must be a number from 0 to less than 1")
        if tolerance is not None and self.parallel is None:
            raise ValueError(f"parallel_tolerance is {tolerance!r}, but parallel is not given: leave out one of them")
        if self.parallel is not None and self.cache_interval != 1:
            raise ValueError(
                f"parallel is {self.parallel!r}, but cache_interval={self.cache_interval!r} needs the steps one after "
                "another: leave out one of them"
            )
        if self.parallel is not None and self.langevin_norm != "sample":
            raise ValueError(
                f"parallel is {self.parallel!r}, but langevin_norm={self.langevin_norm!r} depends on the batch: leave "
                "out one of them"
            )

    def _check_ends(self) -> None:
        """Check the exponent of "karras" and the values of std / scale at the ends of the run."""
        low, high = RHO_RANGE
        if self.rho is not None and not low <= self.rho <= high:
            raise ValueError(f"rho is {self.rho!r}; it must be a number from {low:g} to {high:g}, by default {RHO:g}")
        if self.rho is not None and self.grid != "karras":
            raise ValueError(f"rho is {self.rho!r}, but grid is {self.grid!r}: leave out rho, or choose grid='karras'")
        for name in ("sigma_min", "sigma_max"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if self.sigma_min is None:
            return
        if self.eps is not None:
            raise ValueError(
                f"sigma_min is {self.sigma_min!r}, but eps is {self.eps!r}, and both say where to stop: leave out one "
                "of them"
            )
        if self.sigma_max is not None and self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min is {self.sigma_min!r}; it must be smaller than sigma_max, {self.sigma_max!r}, where the "
                "run starts"
            )

    def _use_values(self, grid: tuple[float | str, ...]) -> None:
        """Check a grid of values, and set ``steps`` to their number of steps, without that of denoising."""
        numbers = [value for value in grid if value != SIGMAS]
        if numbers[-1] == 0:
            if not self.denoise:
                raise ValueError("grid ends at 0, which needs denoising: leave out denoise=False, or the last value")
            object.__setattr__(self, "grid", grid[:-1])
            numbers = numbers[:-1]
        steps = len(numbers) - 1
        if steps < 1:
            count = "one value" if numbers else "no value"
            raise ValueError(f"grid has {count} above 0; it needs at least two: the start and the end of a step")
        if self.steps not in (type(self).steps, steps):
            raise ValueError(f"steps is {self.steps}, but grid has {len(numbers)} values, for {steps}: leave out steps")
        for name in ("eps", "restart", "rho", "sigma_min", "sigma_max"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but grid gives the times: leave out one of them")
        object.__setattr__(self, "steps", steps)

    @property
    def predictor(self) -> str:
        """Name of the solver, without the corrector of "pc"."""
        return "reverse_diffusion" if self.solver == PREDICTOR_CORRECTOR else self.solver

    @property
    def paired_corrector(self) -> str:
        """Name of the corrector, or "none"."""
        return self.corrector or ("langevin" if self.solver == PREDICTOR_CORRECTOR else "none")


def require_norm(name: str, norm: str) -> None:
    """Raise ``ValueError`` unless the option ``name`` is a `Norm`."""
    if norm not in get_args(Norm):
        raise ValueError(unknown_message(name, norm, get_args(Norm)))
