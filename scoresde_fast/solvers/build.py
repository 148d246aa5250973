# SPDX-License-Identifier: Apache-2.0
"""From names to a table: predictor, corrector, grid and denoising put together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE, ScalarSDE
from scoresde_fast.solvers.correctors import CORRECTORS
from scoresde_fast.solvers.grids import TimeGrid, make_grid, require_steps
from scoresde_fast.solvers.registry import Solver, find_solver
from scoresde_fast.solvers.table import AnyRow, Row, StepTable

USUAL_ORDER = 1
"""Which of a solver's orders is taken when none is named: the second."""
PREDICTOR_CORRECTOR = "pc"
"""The paper's own pair: reverse diffusion with the Langevin corrector."""


@dataclass(frozen=True)
class SolverOptions:
    """How to go from noise to data.

    Attributes:
        solver: a solver's name, or "pc": reverse diffusion with the Langevin corrector unless another is named.
        steps: steps of the predictor; on CLD with ``denoise`` the last of them is the denoising.
        corrector: "langevin", "ald" or "none"; None leaves it to ``solver``.
        corrector_steps: corrector steps before each predictor step.
        snr: signal-to-noise ratio of the corrector.
        grid: "uniform" (as published), "quadratic", "sqrt" or "karras".
        flow: solve the probability-flow ODE instead of the reverse SDE.
        denoise: leave out the noise of the last step; on CLD the last step is one without noise, from eps to the data.
        eps: the time to stop at; None takes the SDE's own (1e-3 VP, sub-VP and CLD, 1e-5 VE).
        order: of a solver that has several ("gddim": 1 to 4); None takes its usual one.
        parity: do what the original program does where that departs from the paper ("sscs" with a changing beta).
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
    order: int | None = None
    parity: bool = False


def build_table(sde: SDE, options: SolverOptions) -> StepTable:
    """The table of ``options`` on ``sde``: at each time first the corrector's rows, then the predictor's.

    Raises:
        ValueError: an option is unknown or out of range, a pair is impossible, or the steps are too few for the SDE.
    """
    paired = options.solver == PREDICTOR_CORRECTOR
    found = find_solver("reverse_diffusion" if paired else options.solver, sde, flow=options.flow)
    eps = sde.sampling_eps if options.eps is None else options.eps
    if isinstance(sde, ScalarSDE):
        return StepTable.of(_with_corrector(sde, found, options, eps, "langevin" if paired else "none"))
    if options.corrector not in (None, "none"):
        raise ValueError(f"corrector {options.corrector!r} is not defined on the SDE {sde.name!r}; choose 'none'")
    return StepTable.of(_with_finish(sde, found, options, eps))


def _fill(sde: SDE, found: Solver, grid: TimeGrid, options: SolverOptions) -> list[AnyRow]:
    """The solver's own rows, with those of the options that it takes."""
    arguments: dict[str, Any] = {}
    if len(found.orders) > 1:
        arguments["order"] = found.orders[USUAL_ORDER] if options.order is None else options.order
        if arguments["order"] not in found.orders:
            raise ValueError(
                f"order is {options.order!r}; solver {found.name!r} has the orders {_listed(found.orders)}"
            )
    elif options.order not in (None, found.orders[0]):
        raise ValueError(f"order is {options.order!r}; solver {found.name!r} has order {found.orders[0]} alone")
    if found.parity:
        arguments["parity"] = options.parity
    elif options.parity:
        raise ValueError(f"parity has no meaning for solver {found.name!r}, which does as the original; leave it out")
    return found.fill(sde, grid, flow=options.flow, **arguments)


def _with_finish(sde: SDE, found: Solver, options: SolverOptions, eps: float) -> list[AnyRow]:
    """Rows on pairs: with denoising one step less, and then a row from eps to the data."""
    require_steps(options.steps, 1 + options.denoise)
    grid = make_grid(options.grid, sde, options.steps - options.denoise, eps)
    rows = _fill(sde, found, grid, options)
    if options.denoise:
        assert found.finish is not None  # every solver on pairs has one
        rows.append(found.finish(sde, eps, eps))
    return rows


def _with_corrector(
    sde: ScalarSDE, found: Solver, options: SolverOptions, eps: float, usual_corrector: str
) -> list[AnyRow]:
    """Rows on images: at each time the corrector's, then the predictor's; with denoising the last has no noise."""
    corrector = options.corrector or usual_corrector
    if corrector != "none" and corrector not in CORRECTORS:
        raise ValueError(unknown("corrector", corrector, [*CORRECTORS, "none"]))
    if options.corrector_steps < 1:
        raise ValueError(
            f"corrector_steps is {options.corrector_steps}; it must be at least 1, or choose corrector='none'"
        )
    if not (options.snr > 0 and math.isfinite(options.snr)):
        raise ValueError(f"snr is {options.snr}; it must be a finite number greater than 0")
    grid = make_grid(options.grid, sde, options.steps, eps)
    # Steps too long for a square root become NaN here, and `StepTable.of` says so.
    with np.errstate(invalid="ignore", divide="ignore"):
        predictions = _fill(sde, found, grid, options)
        corrections = CORRECTORS[corrector](sde, grid, options.snr) if corrector != "none" else None
    rows: list[AnyRow] = []
    for index, prediction in enumerate(predictions):
        if corrections is not None:
            rows += [corrections[index]] * options.corrector_steps
        rows.append(prediction)
    if options.denoise:
        last = rows[-1]
        assert isinstance(last, Row)
        rows[-1] = replace(last, noise=0.0)
    return rows


def _listed(orders: tuple[int, ...]) -> str:
    return f"{orders[0]} to {orders[-1]}"
