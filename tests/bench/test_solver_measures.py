# SPDX-License-Identifier: Apache-2.0
"""What the comparison of solvers goes by: distances, their standard errors, the true flow, budgets and the verdict."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.bench.solvers import converged
from scoresde_fast.bench.solvers.contender import Case, Rules, Telling
from scoresde_fast.bench.solvers.converged import KUTTA_3, RUNGE_KUTTA, ConvergedFlow, solve
from scoresde_fast.bench.solvers.fixed_step import FixedStep, fixed_step
from scoresde_fast.bench.solvers.measures import (
    Wasserstein,
    halved,
    paired_standard_error,
    standard_error,
    wasserstein,
)
from scoresde_fast.bench.solvers.mixtures import MEANS, MIXTURES, STD, WEIGHTS, exact_draws, mixture, quantiles
from scoresde_fast.bench.solvers.results import LINE_KEYS
from scoresde_fast.bench.solvers.verdict import pareto_front, verdict
from scoresde_fast.sdes import SDES, ScalarSDE
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.chance import SIGMAS


def line(name: str, nfe: float, quality: float | None, **changes: Any) -> dict[str, Any]:
    """A line of a result; its halves differ by 0.02 times its quality."""
    known: dict[str, Any] = dict.fromkeys(LINE_KEYS)
    known |= {"name": name, "solver": name, "nfe": nfe, "budget": nfe, "quality": quality}
    known |= {"seconds_per_1000": nfe / 10, "timed": 3}
    known |= {"standard_error": 0.01, "half_differences": [0.02, -0.02], "reference": False, "flow": True, "more": {}}
    return known | changes


@pytest.mark.statistical
def test_the_distance_to_the_mixture_is_wasserstein_s(run_seed: int) -> None:
    """The quantiles are the mixture's; values moved by 0.1 are 0.1 away, and exact draws as far as the floor.

    The floor is the mean of 16 sets of draws, and is compared with that of 64 others.
    """
    exact = quantiles(20_000)
    spread = np.dot(WEIGHTS, np.square(MEANS)) + STD**2
    assert exact.mean() == pytest.approx(np.dot(WEIGHTS, MEANS), abs=1e-4)
    assert np.square(exact).mean() == pytest.approx(spread, rel=1e-3)
    assert wasserstein(np.random.default_rng(0).permutation(exact) + 0.1) == pytest.approx(0.1)
    measure = Wasserstein(2000)
    assert 0 < measure.floor < measure.chance < 0.15
    draws = [exact_draws(2000, 100 + 64 * run_seed + place) for place in range(64)]
    distances = list(map(wasserstein, draws))
    assert measure(torch.from_numpy(draws[0]).view(-1, 1, 1, 1)).quality == pytest.approx(distances[0])
    reach = SIGMAS * np.std(distances, ddof=1) * np.sqrt(1 / 16 + 1 / 64)
    assert np.mean(distances) == pytest.approx(measure.floor, abs=reach)


@pytest.mark.statistical
def test_halves_tell_the_standard_error(run_seed: int) -> None:
    """Of a mean of 4 000 normal numbers it is 1 / sqrt(4000), and what two lines share is not in their difference.

    Its square comes from 16 halvings of each of 50 sets, and so has 800 degrees of freedom.
    """
    sets = np.random.default_rng(run_seed).normal(size=(50, 4000))
    scores = [halved(values, lambda part: float(np.mean(part))) for values in sets]
    variance = np.mean([standard_error(score.half_differences) ** 2 for score in scores])
    assert 4000 * variance == pytest.approx(1, abs=SIGMAS * np.sqrt(2 / 800))
    (first, common), score = sets[:2], scores[0]
    other, third = (halved(common + shift, lambda values: float(np.mean(values))) for shift in (0.0, 0.5 * first))
    assert paired_standard_error(other.half_differences, other.half_differences) == 0
    paired = paired_standard_error(other.half_differences, third.half_differences)
    assert paired == pytest.approx(0.5 * standard_error(score.half_differences), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in SDES if name != "cld"])
@pytest.mark.parametrize(("method", "order"), [(RUNGE_KUTTA, 4), (KUTTA_3, 3)], ids=["order 4", "order 3"])
def test_the_converged_flow_is_exact_on_a_gaussian(name: str, method: converged.Method, order: int) -> None:
    """A Gaussian's probability flow keeps every sample at its quantile; each method comes there by its own order."""
    sde = SDES[name]()
    assert isinstance(sde, ScalarSDE)
    mean, std = 0.3, 0.5
    model = sf.GaussianMixture.gaussian(sde, mean, std, (1, 1, 1))
    start = torch.linspace(-2, 2, 5, dtype=torch.float64).view(-1, 1, 1, 1) * sde.prior_std
    (scale, noise), (scale_eps, noise_eps) = sde.marginal(sde.T), sde.marginal(sde.sampling_eps)
    quantile = (start - scale * mean) / np.hypot(scale * std, noise)
    wanted = scale_eps * mean + np.hypot(scale_eps * std, noise_eps) * quantile
    errors = [float((solve(model, start, method, steps) - wanted).abs().max()) for steps in (32, 64)]
    assert errors[1] < 2e-4 and errors[1] < errors[0] / 2 ** (order - 0.2)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_converged_flow_is_checked_by_another_method(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods agree on each mixture far better than any solver's error, and an error is told as it is."""
    monkeypatch.setattr(converged, "STEPS", 64)
    flow = ConvergedFlow.of(mixture(name), 32)
    assert 0 < flow.gap < 1e-4
    assert flow.error(flow.end.float() + 0.25) == pytest.approx(0.25, rel=1e-4)
    assert flow.end.abs().max() < 1.2 and list(flow.seeds) == list(range(32))


def test_a_deterministic_solver_converges_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow that solvers follow from the prior of a seed is the one that they are measured by, CLD's too."""
    monkeypatch.setattr(converged, "STEPS", 48)
    for name, solver in (("mixture-vp", "deis"), ("mixture-ve", "deis"), ("mixture-cld", "gddim")):
        flow = ConvergedFlow.of(mixture(name), 64)
        errors = []
        for steps in (10, 80):
            case = Case(solver, solver, True, None, "karras")
            ready = FixedStep(mixture(name), Rules(), case, Telling.USUAL, steps=steps).ready()
            assert ready.flow_end is not None
            errors.append(flow.error(ready.flow_end(flow.seeds)))
        assert errors[1] < 0.1 * errors[0] and errors[1] < 0.02, (name, errors)


@pytest.mark.parametrize("name", MIXTURES)
def test_every_budget_is_kept_and_used(name: str) -> None:
    """A line takes as many steps as its budget allows and no more; one that cannot says why."""
    ready = 0
    for contender in fixed_step(mixture(name), Rules(budgets=(5, 12), grids=("quadratic",))):
        budget = contender.case.budget
        assert budget is not None
        try:
            found = contender.ready()
        except ValueError as error:
            assert re.search("budget is too small|not finite", str(error))
            continue
        ready += 1
        assert found.steps is not None and found.nfe <= budget
        options = {
            "solver": contender.case.solver,
            "order": contender.case.order,
            "probability_flow": contender.case.flow,
        }
        more = SolverOptions(**options, steps=found.steps + 1, grid="quadratic", **contender.case.options)
        assert build_table(contender.model.sde, more).nfe > budget
    assert ready >= 12


def test_pareto_front() -> None:
    """A line is on the front where nothing cheaper or as cheap is as good; the reference and the diverged are not."""
    lines = [
        line("a", 10, 0.5),
        line("b", 5, 0.9),
        line("c", 20, 0.6),
        line("d", 20, 0.4),
        line("e", 10, 0.7),
        line("f", 1, None),
        line("g", 2, 0.1, reference=True),
    ]
    assert pareto_front(lines, "nfe") == [1, 0, 3]


def test_ties_are_named_and_the_cheapest_of_them() -> None:
    """The best of each limit, what its standard errors cannot tell from it, and the cheapest of those."""
    varied = {"half_differences": [-0.02, 0.02]}  # chance moves it against the others: the error of a difference is .02
    lines = [line("a", 10, 0.53, **varied), line("b", 10, 0.6, **varied), line("a", 20, 0.5), line("c", 25, 0.5041)]
    found = verdict(lines, (5, 10, 20, 25))
    assert [(best["limit"], best["best"], best["tied"], best["cheapest"]) for best in found["by_nfe"]] == [
        (10, 0, [], 0),
        (20, 2, [], 0),
        (25, 2, [], 0),
    ]
    assert verdict(lines, (25,), chance=0.55)["by_nfe"] == [{"limit": 25, "best": 2, "tied": [3], "cheapest": 0}]
    assert verdict(lines, (25,), chance=0.55)["sentences"][0] == (
        "Best within 25 evaluations: a, 0.5 ± 0.01 at 20 NFE and 2 s for 1000. Indistinguishable from it: c. "
        "At the least cost: a, 0.53 ± 0.01 at 10 NFE and 1 s for 1000."
    )
    assert [best["limit"] for best in found["by_seconds"]] == [1, 2], "a limit at which nothing changes says nothing"


def test_lines_without_time_are_in_nothing_about_time() -> None:
    """They compete by evaluations alone, and the verdict says how many they are; where none is timed, nothing."""
    lines = [line("a", 10, 0.5), line("b", 10, 0.4, seconds_per_1000=None, timed=0), line("c", 20, 0.3)]
    found = verdict(lines, (10, 20))
    assert found["by_nfe"][0]["best"] == 1 and found["by_seconds"][0]["best"] == 0
    assert found["fronts"] == {"nfe": [1, 2], "seconds_per_1000": [0, 2]}
    assert found["sentences"][0] == "Best within 10 evaluations: b, 0.4 ± 0.01 at 10 NFE."
    assert found["sentences"][-1].startswith("Of 3 lines 2 were timed;")
    untimed = verdict([lines[1]], (10,))
    assert untimed["by_seconds"] == untimed["fronts"]["seconds_per_1000"] == [] and len(untimed["sentences"]) == 1


def test_the_reference_measures_the_others() -> None:
    """The best of each budget as a factor of the reference's distance, and the first within a tenth of it."""
    reference = line("ancestral, 1000 steps", 1000, 0.5, reference=True, budget=None)
    lines = [reference, line("a", 10, 0.8), line("a", 20, 0.54)]
    told = verdict(lines, (10, 20))["sentences"][-1]
    assert "1.6 times it within 10, 1.08 times it within 20 evaluations." in told
    assert told.endswith("Within 10% of it, at the fewest evaluations: a, 0.54 ± 0.01 at 20 NFE and 2 s for 1000.")
    assert verdict(lines[:2], (10, 20))["sentences"][-1].endswith("Within 10% of it, none.")
