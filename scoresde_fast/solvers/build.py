# SPDX-License-Identifier: Apache-2.0
"""From names to a table: predictor, corrector, grid, restarts and denoising put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from scoresde_fast.sdes import SDE, ScalarSDE
from scoresde_fast.solvers.correctors import find_corrector
from scoresde_fast.solvers.grids import TimeGrid, make_grid, require_steps
from scoresde_fast.solvers.options import SolverOptions, arguments
from scoresde_fast.solvers.registry import SOLVERS, Solver, find_solver
from scoresde_fast.solvers.restart import require_intervals, stops, with_restarts
from scoresde_fast.solvers.table import NOTHING, AnyRow, Row, StepTable


def build_table(sde: SDE, options: SolverOptions) -> StepTable:
    """The table of ``options`` on ``sde``: at each time first the corrector's rows, then the predictor's.

    Raises:
        ValueError: an option is unknown or out of range, a pair is impossible, or the steps are too few for the SDE.
    """
    found = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    _require_corrector(sde, found, options)
    eps = sde.sampling_eps if options.eps is None else options.eps
    # The solvers of score_sde have no step of their own for the denoising on images.
    finish = None if found.published and isinstance(sde, ScalarSDE) else found.finish
    finishes = options.denoise and finish is not None
    require_steps(options.steps, 1 + finishes)
    restart = options.restart or ()
    assert not isinstance(restart, str)  # `SolverOptions` has read it
    require_intervals(sde, restart, eps)
    # A run that is interrupted needs steps that end where they should.
    grid_of = partial(make_grid, options.grid, sde, published=found.published and not restart)
    grid = grid_of(options.steps - finishes, eps, through=stops(restart))
    fill = _filling(sde, found, options)
    # Steps too long for a square root become NaN here, and `StepTable.of` says so.
    with np.errstate(invalid="ignore", divide="ignore"):
        if restart:
            rows = with_restarts(sde, grid, restart, lambda high, low, n: grid_of(n, low, start=high), fill)
        else:
            rows = fill(grid)
    if finishes:
        assert finish is not None
        rows.append(finish(sde, eps, eps))
    elif options.denoise:
        last = rows[-1]
        rows[-1] = replace(last, noise=0.0) if isinstance(last, Row) else replace(last, noise=NOTHING)
    return StepTable.of(rows)


def _require_corrector(sde: SDE, found: Solver, options: SolverOptions) -> None:
    """Raises ``ValueError`` unless the corrector is one, fits, and has usable settings."""
    corrector = options.paired_corrector
    if corrector == "none":
        return
    find_corrector(corrector, sde)
    if not found.correctable:
        fitting = sorted(o.name for o in SOLVERS.values() if o.correctable and isinstance(sde, o.sdes))
        raise ValueError(
            f"corrector {corrector!r} does not go with solver {found.name!r}, only with {', '.join(fitting)}; "
            "choose corrector='none'"
        )
    if options.corrector_steps < 1:
        raise ValueError(
            f"corrector_steps is {options.corrector_steps}; it must be at least 1, or choose corrector='none'"
        )
    if not (options.snr > 0 and math.isfinite(options.snr)):
        raise ValueError(f"snr is {options.snr}; it must be a finite number greater than 0")


def _filling(sde: SDE, found: Solver, options: SolverOptions) -> Callable[[TimeGrid], list[AnyRow]]:
    """From a grid to rows: at each time the corrector's, then the solver's own."""
    chosen, corrector = arguments(found, options), options.paired_corrector
    if corrector == "none":
        return lambda grid: found.fill(sde, grid, **chosen)

    if "joined" in found.keywords:
        chosen["joined"] = False  # the corrector comes between

    def fill(grid: TimeGrid) -> list[AnyRow]:
        rows: list[AnyRow] = []
        predictions = found.fill(sde, grid, **chosen)
        length = len(predictions) // len(grid)
        for step, correction in enumerate(find_corrector(corrector, sde).fill(sde, grid, options.snr)):
            rows += [*[correction] * options.corrector_steps, *predictions[step * length : (step + 1) * length]]
        return rows

    return fill
