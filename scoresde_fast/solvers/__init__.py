# SPDX-License-Identifier: Apache-2.0
"""Solvers: pure functions from an SDE and a time grid to a table of coefficients.  No tensors, no networks."""

from scoresde_fast.solvers import (  # noqa: F401  (they register themselves)
    ancestral,
    ddim,
    deis,
    dpm_solver,
    dpm_solver_single,
    euler_maruyama,
    gddim,
    heun,
    reverse_diffusion,
    sa,
    sscs,
    unipc,
)
from scoresde_fast.solvers.build import build_table
from scoresde_fast.solvers.grids import GRIDS, TimeGrid, make_grid
from scoresde_fast.solvers.options import Interval, SolverOptions
from scoresde_fast.solvers.registry import SOLVERS, Solver, find_solver, solver
from scoresde_fast.solvers.table import AnyRow, PairRow, Row, StepTable

__all__ = [
    "GRIDS",
    "SOLVERS",
    "AnyRow",
    "Interval",
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
