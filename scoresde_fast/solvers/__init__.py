# SPDX-License-Identifier: Apache-2.0
"""Solvers: pure functions from an SDE and a time grid to a table of coefficients, without tensors or networks.

To add a solver:
1. Write a function from an SDE and a `TimeGrid` to rows, decorated with `solver`; see `singlestep.ddim`.
2. Import its module below; the import registers it.
3. Make each option a keyword with a default, and a field of `SolverOptions` if there is none of that name yet.
4. Add its name to README.md and to the help of ``SolverOptions.solver``, and a row with its options and a section to
   docs/solvers.md; tests compare all three with the registry.

Tests require a solver of the image SDEs that is not ``published`` to be exact for a single data point (`trigflow`: for
a Gaussian) in three long steps, and to denoise by ``finish=posterior_mean``; see ``FAST`` in
tests/support/toy_solvers.py.
"""

from scoresde_fast.solvers import (  # noqa: F401  (registers)
    er_sde,
    gddim,
    gradient_estimation,
    multistep,
    pndm,
    predictors,
    runge_kutta,
    seeds,
    singlestep,
    sscs,
)
from scoresde_fast.solvers.grids import TimeGrid, make_grid
from scoresde_fast.solvers.options import SolverOptions
from scoresde_fast.solvers.registry import SOLVERS, Solver, build_table, end_time, find_solver, is_published, solver
from scoresde_fast.solvers.restart import RestartInterval
from scoresde_fast.solvers.spacings import GRIDS, grids_of
from scoresde_fast.solvers.table import AnyRow, PairRow, Row, StepTable

__all__ = [
    "GRIDS",
    "SOLVERS",
    "AnyRow",
    "PairRow",
    "RestartInterval",
    "Row",
    "Solver",
    "SolverOptions",
    "StepTable",
    "TimeGrid",
    "build_table",
    "end_time",
    "find_solver",
    "grids_of",
    "is_published",
    "make_grid",
    "solver",
]
