# SPDX-License-Identifier: Apache-2.0
"""The comparison's candidates: budgets are kept, and equal methods are recognised."""

from __future__ import annotations

import re
from typing import Any

import pytest

from scoresde_fast.bench import measures
from scoresde_fast.bench.candidates import (
    Case,
    ComparisonOptions,
    Priority,
    digest,
    fixed_step,
    fixed_step_candidate,
)
from scoresde_fast.bench.measures import MIXTURES, ConvergedFlow, mixture
from scoresde_fast.sdes import SubVPSDE
from scoresde_fast.solvers import SolverOptions, build_table


def test_a_deterministic_solver_converges_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow that solvers follow from the prior of a seed is the one that they are measured by, CLD's too."""
    monkeypatch.setattr(measures, "STEPS", 48)
    for name, solver in (("mixture-vp", "deis"), ("mixture-ve", "deis"), ("mixture-cld", "gddim")):
        flow = ConvergedFlow.of(mixture(name), 64)
        errors = []
        for steps in (10, 80):
            case = Case(solver, solver, True, None, "karras")
            candidate = fixed_step_candidate(mixture(name), ComparisonOptions(), case, Priority.USUAL, steps=steps)
            prepared = candidate.prepare()
            assert prepared.flow_end is not None
            errors.append(flow.error(prepared.flow_end(flow.seeds)))
        assert errors[1] < 0.1 * errors[0] and errors[1] < 0.02, (name, errors)


@pytest.mark.parametrize("name", MIXTURES)
def test_every_budget_is_kept_and_used(name: str) -> None:
    """A line takes as many steps as its budget allows and no more; one that cannot says why."""
    ready, model = 0, mixture(name)
    for candidate in fixed_step(model, ComparisonOptions(budgets=(5, 12), grids=("quadratic",))):
        budget = candidate.case.budget
        assert budget is not None
        try:
            found = candidate.prepare()
        except ValueError as error:
            assert re.search("budget is too small|not finite", str(error))
            continue
        ready += 1
        assert found.steps is not None and found.nfe <= budget
        options: dict[str, Any] = {
            "solver": candidate.case.solver,
            "order": candidate.case.order,
            "probability_flow": candidate.case.flow,
        }
        more = SolverOptions(**options, steps=found.steps + 1, grid="quadratic", **candidate.case.options)
        assert build_table(model.sde, more).nfe > budget
    assert ready >= 12


def test_equal_steps_are_known_whatever_they_are_called() -> None:
    """On sub-VP reverse diffusion is Euler-Maruyama, but for rounding; other steps are others."""
    rows = {
        (solver, steps): build_table(SubVPSDE(), SolverOptions(solver, steps, grid="quadratic"))
        for solver in ("euler_maruyama", "reverse_diffusion", "ddim")
        for steps in (10, 11)
    }
    digests = {key: digest(table) for key, table in rows.items()}
    assert digests["euler_maruyama", 10] == digests["reverse_diffusion", 10]
    assert len(set(digests.values())) == 4
