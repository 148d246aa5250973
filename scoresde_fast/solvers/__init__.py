# SPDX-License-Identifier: Apache-2.0
"""Solvers: pure functions from an SDE and a time grid to a table of coefficients.  No tensors, no networks."""

from scoresde_fast.solvers import ancestral, euler_maruyama, reverse_diffusion  # noqa: F401  (they register themselves)
from scoresde_fast.solvers.build import SolverOptions, build_table
from scoresde_fast.solvers.grids import GRIDS, TimeGrid, make_grid
from scoresde_fast.solvers.registry import SOLVERS, Solver, find_solver, solver
from scoresde_fast.solvers.table import Row, StepTable

__all__ = [
    "GRIDS",
    "SOLVERS",
    "Row",
    "Solver",
    "SolverOptions",
    "StepTable",
    "TimeGrid",
    "build_table",
    "find_solver",
    "make_grid",
    "solver",
]
