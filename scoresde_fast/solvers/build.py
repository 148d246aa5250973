# SPDX-License-Identifier: Apache-2.0
"""From names to a table: predictor, corrector, grid and denoising put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.correctors import CORRECTORS
from scoresde_fast.solvers.grids import make_grid
from scoresde_fast.solvers.registry import find_solver
from scoresde_fast.solvers.table import Row, StepTable

PREDICTOR_CORRECTOR = "pc"
"""The paper's own pair: reverse diffusion with the Langevin corrector."""


@dataclass(frozen=True)
class SolverOptions:
    """How to go from noise to data.

    Attributes:
        solver: a solver's name, or "pc": reverse diffusion with the Langevin corrector unless another is named.
        steps: steps of the predictor.
        corrector: "langevin", "ald" or "none"; None leaves it to ``solver``.
        corrector_steps: corrector steps before each predictor step.
        snr: signal-to-noise ratio of the corrector.
        grid: "uniform" (as published), "quadratic" or "karras".
        flow: solve the probability-flow ODE instead of the reverse SDE.
        denoise: leave out the noise of the last step.
        eps: the time to stop at; None takes the SDE's own (1e-3 VP and sub-VP, 1e-5 VE).
    """

    solver: str = PREDICTOR_CORRECTOR
    steps: int = 1000
    corrector: str | None = None
    corrector_steps: int = 1
    snr: float = 0.16
    grid: str = "uniform"
    flow: bool = False
    denoise: bool = True
    eps: float | None = None


def build_table(sde: SDE, options: SolverOptions) -> StepTable:
    """The table of ``options`` on ``sde``: at each time first the corrector's rows, then the predictor's.

    Raises:
        ValueError: an option is unknown or out of range, a pair is impossible, or the steps are too few for the SDE.
    """
    paired = options.solver == PREDICTOR_CORRECTOR
    found = find_solver("reverse_diffusion" if paired else options.solver, sde, flow=options.flow)
    corrector = options.corrector or ("langevin" if paired else "none")
    if corrector != "none" and corrector not in CORRECTORS:
        raise ValueError(unknown("corrector", corrector, [*CORRECTORS, "none"]))
    if options.corrector_steps < 1:
        raise ValueError(
            f"corrector_steps is {options.corrector_steps}; it must be at least 1, or choose corrector='none'"
        )
    if not (options.snr > 0 and math.isfinite(options.snr)):
        raise ValueError(f"snr is {options.snr}; it must be a finite number greater than 0")
    grid = make_grid(options.grid, sde, options.steps, sde.sampling_eps if options.eps is None else options.eps)
    # Steps too long for a square root become NaN here, and `StepTable.of` says so.
    with np.errstate(invalid="ignore", divide="ignore"):
        predictions = found.fill(sde, grid, flow=options.flow)
        corrections = CORRECTORS[corrector](sde, grid, options.snr) if corrector != "none" else None
    rows: list[Row] = []
    for index, prediction in enumerate(predictions):
        if corrections is not None:
            rows += [corrections[index]] * options.corrector_steps
        rows.append(prediction)
    if options.denoise:
        rows[-1] = replace(rows[-1], noise=0.0)
    return StepTable.of(rows)
