# SPDX-License-Identifier: Apache-2.0
"""The solver, the grid and the number of steps of a run for which they are not all given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scoresde_fast as sf
from scoresde_fast.bench.measures import mixture
from scoresde_fast.checkpoints import embedded_names
from scoresde_fast.model import ScoreFunction
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table, find_solver

CASES: list[tuple[str, dict[str, Any], tuple[str, int, str]]] = [
    ("digits-vp", {}, ("ancestral", 75, "uniform")),  # its configuration
    ("digits-vp", {"steps": 80}, ("ancestral", 80, "uniform")),
    ("digits-vp", {"steps": 20}, ("unipc", 20, "logsnr")),
    ("digits-vp", {"steps": 20, "grid": "karras"}, ("unipc", 20, "karras")),
    ("digits-vp", {"steps": 30, "corrector_steps": 2}, ("ancestral", 30, "uniform")),
    ("digits-vp", {"solver": "dpmpp_2m"}, ("dpmpp_2m", 50, "logsnr")),
    ("digits-vp", {"solver": "heun", "steps": 9}, ("heun", 9, "karras")),
    ("digits-vp", {"solver": "pc", "steps": 40}, ("pc", 40, "uniform")),
    ("digits-vp", {"solver": SolverOptions("unipc", 12)}, ("unipc", 12, "logsnr")),
    ("digits-cld", {"steps": 20}, ("gddim", 20, "quadratic")),
    ("digits-cld", {"solver": "sscs"}, ("sscs", 50, "quadratic")),
    ("mixture-vp", {"steps": 10}, ("unipc", 10, "logsnr")),
    ("mixture-vp", {}, ("pc", 1000, "uniform")),
    ("mixture-edm", {}, ("unipc", 50, "logsnr")),
    ("mixture-edm", {"solver": "em", "steps": 200}, ("em", 200, "karras")),
    ("mixture-betas", {}, ("unipc", 50, "logsnr")),
    ("mixture-cld", {"steps": 10}, ("gddim", 10, "quadratic")),
]


def model_of(name: str) -> ScoreFunction:
    """Return an embedded model or a mixture."""
    return sf.load(name) if name in embedded_names() else mixture(name)


@pytest.mark.parametrize(("name", "options", "expected"), CASES, ids=[f"{name}-{given}" for name, given, _ in CASES])
def test_choice(name: str, options: dict[str, Any], expected: tuple[str, int, str]) -> None:
    """A run without a solver is the model's own, or with few steps that of a solver for few steps."""
    sampler = sf.Sampler(model_of(name), compile=False, **options)
    assert (sampler.options.solver, sampler.options.steps, sampler.options.grid) == expected  # type: ignore[union-attr]
    assert sampler.describe()["grid"] == expected[2]


def test_conditions_keep_the_models_solver() -> None:
    """Conditions need noise and correctors, which solvers for few steps lack."""
    condition = sf.Projection(np.zeros((3, 16, 16)), np.ones((16, 16), bool))
    sampler = sf.Sampler(sf.load("digits-ve"), steps=20, condition=condition)
    assert sampler.options.solver == "reverse_diffusion"


@pytest.mark.parametrize(("name", "scale"), [("digits-ve", 0.25), ("digits-vp", 0.5), ("mixture-vp", 0.5)])
@pytest.mark.parametrize("options", [{"solver": "trigflow"}, {"solver": "dpmpp_2m", "grid": "kl_optimal"}], ids=str)
def test_standard_deviation_of_the_data(name: str, scale: float, options: dict[str, Any]) -> None:
    """`sigma_data` is a quarter of the range of the data where an option of the run depends on it, else absent."""
    model = model_of(name)
    assert sf.Sampler(model, steps=8, **options).options.sigma_data == scale  # type: ignore[union-attr]
    assert sf.Sampler(model, solver="ddim", steps=8).options.sigma_data is None  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["digits-vp", "mixture-betas", "mixture-flow", "mixture-edm", "mixture-cld"])
def test_every_solver_runs_in_few_steps(name: str) -> None:
    """With its defaults each solver for few steps has a table of six steps on the SDE."""
    sde = model_of(name).sde
    for solver in SOLVERS.values():
        if isinstance(sde, solver.sdes) and not solver.published:
            assert len(build_table(sde, SolverOptions(solver.name, 6)).rows) >= 6, solver.name


def test_smallest_number_of_steps() -> None:
    """The message names the smallest number of steps that works, and a solver for few steps."""
    sde = sf.load("digits-vp").sde
    with pytest.raises(ValueError, match=r"20 steps are too few for solver 'ancestral' .* at least 21, .* 'unipc'"):
        build_table(sde, SolverOptions("ancestral", 20))
    assert find_solver("ancestral", sde).published and build_table(sde, SolverOptions("ancestral", 21)).nfe == 21
