# SPDX-License-Identifier: Apache-2.0
"""The study of solvers with few evaluations."""

from __future__ import annotations

import pytest

from benchmarks.studies.few_steps import EXCLUDED, SDE_OF, Errors, forms, mixture, peers, within
from scoresde_fast.model import describe_model
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table


def test_forms() -> None:
    """Every deterministic solver of an SDE takes part, with each order and variant once."""
    names = [str(form) for form in forms(SDE_OF["vp"])]
    assert len(set(names)) == len(names) > 70
    deterministic = {name for name, solver in SOLVERS.items() if solver.deterministic and name != "gddim"}
    assert {form.solver.name for form in forms(SDE_OF["vp"])} == deterministic - EXCLUDED


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 10), ("heun", 5), ("dpmpp_3s", 3)])
def test_evaluations(solver: str, steps: int) -> None:
    """A run takes as many steps as fit into the evaluations."""
    options = within(SDE_OF["vp"], 10, solver, {})
    assert options.steps == steps and build_table(SDE_OF["vp"], options).nfe <= 10


def test_errors() -> None:
    """Errors fall with the number of evaluations and the order; mixtures differ between seeds."""
    errors = Errors("vp-broad-0")
    chosen = {"probability_flow": True, "denoise": False, "grid": "kl_optimal"}
    ddim, long = (errors.of(SolverOptions("ddim", steps, **chosen)) for steps in (10, 40))  # type: ignore[arg-type]
    trigflow = errors.of(SolverOptions("trigflow", 10, **chosen))  # type: ignore[arg-type]
    assert errors.flow.gap < trigflow < long < ddim
    assert describe_model(mixture("vp-sharp-0")) != describe_model(mixture("vp-sharp-1"))


def test_peers() -> None:
    """The DDIM of diffusers has the error of ours."""
    pytest.importorskip("diffusers")
    errors = Errors("ve-broad-0")
    found = {(form, grid): error for form, grid, error in peers(errors, 8) if form.startswith("diffusers DDIM")}
    options = SolverOptions("ddim", 8, grid="karras", probability_flow=True, denoise=False)
    error = next(error for (form, grid), error in found.items() if grid == "karras")
    assert error() == pytest.approx(errors.of(options), rel=1e-4)
