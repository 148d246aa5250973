# SPDX-License-Identifier: Apache-2.0
"""The contenders that are tables: every registered solver, its orders and forms, on every grid, for every budget."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
from torch import Tensor

from scoresde_fast.bench.solvers.contender import Case, Drawn, Ready, Rules, Telling, warm_up
from scoresde_fast.errors import unknown
from scoresde_fast.flow.options import ADAPTIVE
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.sampler.options import solver_options
from scoresde_fast.sdes import SDE, ScalarSDE
from scoresde_fast.solvers import (
    GRIDS,
    SOLVERS,
    RestartInterval,
    Solver,
    SolverOptions,
    StepTable,
    build_table,
    find_solver,
)
from scoresde_fast.solvers.noise_schedule import time_of
from scoresde_fast.solvers.options import PREDICTOR_CORRECTOR
from scoresde_fast.solvers.registry import ALIASES

SUITED_GRIDS = {"vesde": "karras", "vpsde": "quadratic", "subvpsde": "quadratic", "cld": "quadratic"}
"""The grid that few steps do well with, by SDE: it is measured first."""

REFERENCES: dict[str, dict[str, Any]] = {
    "vesde": {"solver": "ancestral", "grid": "uniform"},
    "vpsde": {"solver": "ancestral", "grid": "uniform"},
    "subvpsde": {"solver": PREDICTOR_CORRECTOR, "grid": "uniform"},
    "cld": {"solver": "sscs", "grid": "quadratic"},
}
"""The published sampler with many steps, by SDE."""

VARIANTS: dict[str, tuple[tuple[str, bool, dict[str, Any]], ...]] = {
    "ddim": (("eta 1", False, {"eta": 1.0}),),
    "heun": (("churn 4", False, {"churn": 4.0}),),
    # Nearer to the data a small network adds noise of its own.
    "dpmpp_2m_sde": (("eps 0.01", False, {"eps": 0.01}),),
    "sa": (("eps 0.01", False, {"eps": 0.01}),),
    # Further down a network's error in the velocity's score grows in what is made of the position's.
    "gddim": (("eps 0.02", True, {"eps": 0.02}), ("eta 1, eps 0.005", False, {"eta": 1.0, "eps": 0.005})),
}
"""By solver, what further curves of it are called, whether they follow the flow, and what they are given."""
RESTARTED = ("heun", "dpmpp_2m")
RESTART = (0.06, 0.3, 2, 3)
"""Solvers that are also measured with Restart, and how: from noise-to-signal ratio to ratio, times and steps."""


@dataclass(frozen=True, eq=False)
class FixedStep:
    """A solver with as many steps as its budget allows, or as ``steps`` says; see `Contender`."""

    model: ScoreFunction
    rules: Rules
    case: Case
    telling: Telling
    evaluations: int = 1
    steps: int | None = None

    def ready(self) -> Ready:
        steps, table = self._fitting() if self.steps is None else (self.steps, self._table(self.steps))
        sampler = cache(partial(self._sampler, steps, denoise=True))  # made only if the line is not there yet
        return Ready(
            table.nfe,
            steps,
            digest(table),
            draw=lambda seeds: Drawn(sampler().sample(seeds), table.nfe),
            warm_up=lambda: warm_up(sampler()),
            flow_end=partial(self._flow_end, steps) if self.case.flow and "eps" not in self.case.options else None,
        )

    def _fitting(self) -> tuple[int, StepTable]:
        """The most steps whose table keeps to the budget."""
        budget = self.case.budget
        assert budget is not None
        steps = max(1, budget // self.evaluations)
        try:
            while (table := self._table(steps)).nfe > budget:
                if steps == 1:
                    raise ValueError(f"one step takes {table.nfe}")
                steps = max(1, min(steps - 1, steps * budget // table.nfe))
        except ValueError as error:
            raise ValueError(f"the budget is too small: {error}") from error
        while (larger := self._table(steps + 1)).nfe <= budget:
            steps, table = steps + 1, larger
        return steps, table

    def _options(self, steps: int) -> dict[str, Any]:
        case = self.case
        chosen = {
            "solver": case.solver,
            "order": case.order,
            "grid": case.grid,
            "probability_flow": case.flow,
            "steps": steps,
        }
        return {**chosen, **case.options}

    def _table(self, steps: int) -> StepTable:
        options = solver_options(self.model, {**self._options(steps), "denoise": True})
        assert isinstance(options, SolverOptions)
        return build_table(self.model.sde, options)

    def _sampler(self, steps: int, *, denoise: bool) -> Sampler:
        rules = self.rules
        return Sampler(
            self.model,
            **self._options(steps),
            denoise=denoise,
            device=rules.device,
            precision=rules.precision,
            batch_size=rules.batch_size,
            compile=False,  # a compiler's minutes for every line would be most of the comparison
        )

    def _flow_end(self, steps: int, seeds: Sequence[int]) -> Tensor:
        return self._sampler(steps, denoise=False).sample(seeds)


def fixed_step(model: ScoreFunction, rules: Rules) -> Iterator[FixedStep]:
    """Every registered solver that is defined on the model's SDE, or those that are wanted.

    Raises:
        ValueError: a solver or a grid is unknown, or a solver is not defined on the SDE.
    """
    sde = model.sde
    for grid in rules.grids:
        if grid not in GRIDS:
            raise ValueError(unknown("time grid", grid, GRIDS))
    grids = rules.grids or tuple(GRIDS)
    suited = SUITED_GRIDS[sde.name] if SUITED_GRIDS[sde.name] in grids else grids[0]
    for name in _wanted(sde, rules):
        solver = find_solver("reverse_diffusion" if name == PREDICTOR_CORRECTOR else name, sde)
        evaluations = solver.evaluations * (2 if name == PREDICTOR_CORRECTOR else 1)
        usual = solver.options.get("order")
        orders = solver.orders if usual is not None else (None,)
        for (label, flow, options), order, grid, budget in product(
            _forms(name, solver, sde), orders, grids, rules.budgets
        ):
            case = Case(label, name, flow, order, grid, budget, options=options)
            telling = _telling(order == usual, grid == suited)
            yield FixedStep(model, rules, case, telling, evaluations)
    if rules.reference_steps is not None:
        chosen = REFERENCES[sde.name]
        case = Case(f"{chosen['solver']}, {rules.reference_steps} steps", **chosen, flow=False, reference=True)
        yield FixedStep(model, rules, case, Telling.REFERENCE, steps=rules.reference_steps)


def digest(table: StepTable) -> str:
    """SHA-256 of a table's times and coefficients, to as many digits as rounding leaves alike."""
    found = hashlib.sha256()
    for row in table.rows:
        kind = (row.save, row.derive is None, row.langevin is None, len(row.outputs))
        found.update(f"{kind} {row.t:.10e} {' '.join(f'{number:.10e}' for number in row.numbers())}\n".encode())
    return found.hexdigest()


def _wanted(sde: SDE, rules: Rules) -> list[str]:
    """Names of solvers, without aliases and each once."""
    fitting = [solver.name for solver in SOLVERS.values() if isinstance(sde, solver.sdes)]
    if isinstance(sde, ScalarSDE):
        fitting.append(PREDICTOR_CORRECTOR)
    elif PREDICTOR_CORRECTOR in rules.solvers:
        raise ValueError(f"solver {PREDICTOR_CORRECTOR!r} is not defined on the SDE {sde.name!r}; leave it out")
    asked = [name for name in (*rules.solvers, *rules.extra) if name not in ADAPTIVE]
    known = [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]
    for name in asked:
        if name not in known:
            raise ValueError(unknown("solver", name, [*known, *ADAPTIVE]))
    named = [name if name in fitting else find_solver(name, sde).name for name in asked]
    return list(dict.fromkeys(named)) if rules.solvers else fitting


def _forms(name: str, solver: Solver, sde: SDE) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """(name of the curve, flow, further options) of each form that a solver has."""
    if not solver.deterministic:
        yield name, False, {}
    # Without their noise, solvers whose user chooses it are solvers of other names.
    if solver.deterministic or (
        solver.probability_flow and "eta" not in solver.options and name != PREDICTOR_CORRECTOR
    ):
        yield name if solver.deterministic else f"{name}, flow", True, {}
    for variant, flow, options in VARIANTS.get(name, ()):
        yield f"{name}, {variant}", flow, options
    if name in RESTARTED:
        yield f"{name}, restart", False, {"restart": (restart_interval(sde),)}


def restart_interval(sde: SDE) -> RestartInterval:
    """`RESTART` in times of the SDE, to four digits."""
    low, high, times, steps = RESTART
    found = time_of(sde, np.array([low, high]), sde.sampling_eps, sde.T)
    return float(f"{found[0]:.4g}"), float(f"{found[1]:.4g}"), times, steps


def _telling(usual_order: bool, suited_grid: bool) -> Telling:
    if suited_grid:
        return Telling.USUAL if usual_order else Telling.OTHER_ORDER
    return Telling.OTHER_GRID if usual_order else Telling.OTHER_BOTH
