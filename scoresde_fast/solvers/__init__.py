# SPDX-License-Identifier: Apache-2.0
"""Solvers: pure functions from an SDE and a time grid to a table of coefficients.  No tensors, no networks."""

from scoresde_fast.solvers import (  # noqa: F401  (they register themselves)
    ancestral,
    euler_maruyama,
    gddim,
    reverse_diffusion,
    sscs,
)
from scoresde_fast.solvers.build import SolverOptions, build_table
from scoresde_fast.solvers.grids import GRIDS, TimeGrid, make_grid
from scoresde_fast.solvers.registry import SOLVERS, Solver, find_solver, solver
from scoresde_fast.solvers.table import AnyRow, PairRow, Row, StepTable

__all__ = [
    "GRIDS",
    "SOLVERS",
    "AnyRow",
    "PairRow",
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
