# SPDX-License-Identifier: Apache-2.0
"""Tests of the candidates: budgets are respected, and equal methods are recognised."""

from __future__ import annotations

import re

import pytest

from scoresde_fast.bench import measures
from scoresde_fast.bench.candidates import (
    Case,
    ComparisonOptions,
    fixed_step,
    prepare_fixed_step,
    table_digest,
)
from scoresde_fast.bench.measures import MIXTURES, ConvergedFlow, mixture
from scoresde_fast.sdes import SubVPSDE
from scoresde_fast.solvers import SolverOptions, build_table


def test_a_deterministic_solver_converges_to_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic solvers start from the same priors as the converged flow and converge to it, on CLD too."""
    monkeypatch.setattr(measures, "STEPS", 48)
    for name, solver in (("mixture-vp", "deis"), ("mixture-ve", "deis"), ("mixture-cld", "gddim")):
        flow = ConvergedFlow.of(mixture(name), 64)
        errors = []
        for steps in (10, 80):
            case = Case(solver, solver, probability_flow=True, grid="karras")
            prepared = prepare_fixed_step(mixture(name), ComparisonOptions(), case, steps)
            assert prepared.flow_end is not None
            errors.append(flow.error(prepared.flow_end(flow.seeds)))
        assert errors[1] < 0.1 * errors[0] and errors[1] < 0.02, (name, errors)


@pytest.mark.parametrize("name", MIXTURES)
def test_candidates_use_up_their_budgets(name: str) -> None:
    """A candidate takes as many steps as its budget allows, and one that cannot run gives the reason."""
    ready, model = 0, mixture(name)
    for candidate in fixed_step(model, ComparisonOptions(budgets=(5, 12), grids=("quadratic",))):
        case = candidate.case
        assert case.budget is not None
        try:
            prepared = candidate.prepare()
        except ValueError as error:
            assert re.search("budget is too small|not finite", str(error))
            continue
        ready += 1
        assert prepared.steps is not None and prepared.nfe <= case.budget
        options = {"order": case.order, "probability_flow": case.probability_flow, **case.options}
        one_step_more = SolverOptions(case.solver, prepared.steps + 1, grid="quadratic", **options)
        assert build_table(model.sde, one_step_more).nfe > case.budget
    assert ready >= 12


def test_digests_of_equal_methods_are_equal() -> None:
    """On sub-VP, reverse diffusion equals Euler-Maruyama except for rounding; ddim and another step count differ."""
    tables = {
        (solver, steps): build_table(SubVPSDE(), SolverOptions(solver, steps, grid="quadratic"))
        for solver in ("euler_maruyama", "reverse_diffusion", "ddim")
        for steps in (10, 11)
    }
    digests = {key: table_digest(table) for key, table in tables.items()}
    assert digests["euler_maruyama", 10] == digests["reverse_diffusion", 10]
    assert len(set(digests.values())) == 4
