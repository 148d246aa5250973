# SPDX-License-Identifier: Apache-2.0
"""Solvers: pure functions from an SDE and a time grid to a table of coefficients, without tensors or networks."""

from scoresde_fast.solvers import (  # noqa: F401  (each registers its solvers)
    ddim,
    deis,
    dpm_solver,
    gddim,
    heun,
    predictors,
    sscs,
    unipc,
)
from scoresde_fast.solvers.grids import GRIDS, TimeGrid, make_grid
from scoresde_fast.solvers.options import SolverOptions
from scoresde_fast.solvers.registry import SOLVERS, Solver, build_table, find_solver, solver
from scoresde_fast.solvers.restart import RestartInterval
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
    "find_solver",
    "make_grid",
    "solver",
]
