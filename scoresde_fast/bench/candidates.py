# SPDX-License-Identifier: Apache-2.0
"""The candidates of the comparison: solvers with their orders, grids and budgets, and how each one draws samples."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import IntEnum
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.devices import Precision
from scoresde_fast.errors import unknown_message
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

BUDGETS = (5, 10, 15, 20, 25, 50, 100)


@dataclass(frozen=True)
class ComparisonOptions:
    """What all candidates share, and which ones are wanted.

    Attributes:
        budgets: network evaluations, each at least 1.
        solvers: names; by default all that the model's SDE has.
        extra: names of solvers that are compared in any case.
        grids: names; by default all.
        reference_steps: of the reference; None: there is no reference.
        batch_size: samples at once.
        device, precision: as of `Sampler`.
    """

    budgets: tuple[int, ...] = BUDGETS
    solvers: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    reference_steps: int | None = None
    batch_size: int = 100
    device: torch.device | str = "cpu"
    precision: Precision = "auto"


@dataclass(frozen=True)
class Case:
    """A solver with its options and its budget; each case is measured once.

    Attributes:
        name: in plots; the cases of one name make one curve.
        solver: the solver's name.
        flow: the case follows the probability flow, without noise after the prior.
        order: the solver's order, if it has several.
        grid: the time grid, if it has one.
        budget: the most network evaluations of a sample; None for an adaptive solver.
        tolerance: the relative tolerance of an adaptive solver.
        options: further options of the solver.
        reference: the others are compared with this case, and it does not compete.
    """

    name: str
    solver: str
    flow: bool
    order: int | None = None
    grid: str | None = None
    budget: int | None = None
    tolerance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False

    def case_fields(self) -> dict[str, Any]:
        """Return the fields of the case alone, without those of a subclass."""
        return {field.name: getattr(self, field.name) for field in fields(Case)}

    @property
    def key(self) -> str:
        """A text that is equal for equal cases, also when one of them was read from a file."""
        return json.dumps(self.case_fields(), sort_keys=True)

    def __str__(self) -> str:
        """Return the name, and in brackets order, grid and tolerance."""
        order = f"order {self.order}" if self.order is not None else None
        tolerance = f"tolerance {self.tolerance:g}" if self.tolerance is not None else None
        details = ", ".join(part for part in (order, self.grid, tolerance) if part)
        return f"{self.name} ({details})" if details else self.name


class Priority(IntEnum):
    """The order in which candidates are measured: those that tell most come first."""

    USUAL = 0
    """A solver at its usual order on the grid that suits the SDE."""
    REFERENCE = 1
    OTHER_GRID = 2
    OTHER_ORDER = 3
    OTHER_BOTH = 4


class Drawn(NamedTuple):
    """Samples (N, C, H, W) of N seeds in their order, and the mean number of network evaluations of each."""

    samples: Tensor
    nfe: float


@dataclass(frozen=True)
class Prepared:
    """A candidate that can run.

    Attributes:
        nfe: network evaluations of a sample; an estimate where the run decides.
        digest: identifies the method, whatever its name: a kept result is reused while the digest is the same.
        draw: returns the samples of seeds.
        warm_up: does what should not be timed.
        steps: their number, where it is fixed.
        flow_end: of a deterministic solver, returns the end of the flow at the SDE's eps, before any denoising.
    """

    nfe: float
    digest: str
    draw: Callable[[Sequence[int]], Drawn]
    warm_up: Callable[[], object]
    steps: int | None = None
    flow_end: Callable[[Sequence[int]], Tensor] | None = None


@dataclass(frozen=True)
class Candidate:
    """A case and the way to run it.

    Attributes:
        case: what is compared.
        priority: when it is measured.
        prepare: raises ValueError, with the reason, where the case cannot run on the model.
    """

    case: Case
    priority: Priority
    prepare: Callable[[], Prepared]


Family = Callable[[ScoreFunction, ComparisonOptions], Iterable[Candidate]]
"""Returns the candidates of one kind on a model."""

SUITED_GRIDS = {"vesde": "karras", "vpsde": "quadratic", "subvpsde": "quadratic", "cld": "quadratic"}
"""By SDE, the grid that suits few steps; it is measured first."""

REFERENCES: dict[str, dict[str, Any]] = {
    "vesde": {"solver": "ancestral", "grid": "uniform"},
    "vpsde": {"solver": "ancestral", "grid": "uniform"},
    "subvpsde": {"solver": PREDICTOR_CORRECTOR, "grid": "uniform"},
    "cld": {"solver": "sscs", "grid": "quadratic"},
}
"""By SDE, the published sampler, which takes many steps."""

FORMS: dict[str, tuple[tuple[str, bool, dict[str, Any]], ...]] = {
    "ddim": (("eta 1", False, {"eta": 1.0}),),
    "heun": (("churn 4", False, {"churn": 4.0}),),
    # Nearer to the data the error of a small network acts as noise.
    "dpmpp_2m_sde": (("eps 0.01", False, {"eps": 0.01}),),
    "sa": (("eps 0.01", False, {"eps": 0.01}),),
    # Further down an error in the velocity's score is amplified in the position's.
    "gddim": (("eps 0.02", True, {"eps": 0.02}), ("eta 1, eps 0.005", False, {"eta": 1.0, "eps": 0.005})),
}
"""By solver, its further curves: the name, whether it follows the probability flow, and the options."""
RESTARTED = ("heun", "dpmpp_2m")
RESTART = (0.06, 0.3, 2, 3)
"""Solvers that are also measured with Restart, and its settings: two noise-to-signal ratios, repetitions and steps."""

TOLERANCES = {
    "rk45": {1e-1: 27, 3e-2: 32, 1e-2: 49, 1e-3: 65, 1e-4: 110, 1e-5: 350},
    "ggf": {0.2: 30, 0.1: 50, 0.05: 80, 0.02: 150},
}
"""By adaptive solver, relative tolerances with the approximate evaluations of a sample on digits-vp. The absolute
tolerance is the same for "rk45", and the usual one for "ggf"."""
MANY = 100
"""Adaptive candidates with more evaluations come last."""


def fixed_step(model: ScoreFunction, options: ComparisonOptions) -> Iterator[Candidate]:
    """Return every registered solver of the model's SDE, or the wanted ones, in all forms, orders, grids and budgets.

    Raises:
        ValueError: a solver or a grid is unknown, or a solver is not defined on the SDE.
    """
    sde = model.sde
    for grid in options.grids:
        if grid not in GRIDS:
            raise ValueError(unknown_message("time grid", grid, GRIDS))
    grids = options.grids or tuple(GRIDS)
    suited = SUITED_GRIDS[sde.name] if SUITED_GRIDS[sde.name] in grids else grids[0]
    for name in _wanted(sde, options):
        solver = find_solver("reverse_diffusion" if name == PREDICTOR_CORRECTOR else name, sde)
        evaluations = solver.evaluations * (2 if name == PREDICTOR_CORRECTOR else 1)
        usual = solver.options.get("order")
        orders = solver.orders if usual is not None else (None,)
        every = product(_forms(name, solver, sde), orders, grids, options.budgets)
        for (label, flow, more), order, grid, budget in every:
            case = Case(label, name, flow, order, grid, budget, options=more)
            priority = _priority(order == usual, grid == suited)
            yield fixed_step_candidate(model, options, case, priority, evaluations=evaluations)
    if options.reference_steps is not None:
        chosen = REFERENCES[sde.name]
        case = Case(f"{chosen['solver']}, {options.reference_steps} steps", **chosen, flow=False, reference=True)
        yield fixed_step_candidate(model, options, case, Priority.REFERENCE, steps=options.reference_steps)


def fixed_step_candidate(
    model: ScoreFunction,
    options: ComparisonOptions,
    case: Case,
    priority: Priority,
    *,
    steps: int | None = None,
    evaluations: int = 1,
) -> Candidate:
    """Return a candidate with ``steps``, or by default with as many steps as its budget allows.

    ``evaluations`` of a step, roughly, tell where the search for that number begins.
    """

    def chosen(steps: int) -> dict[str, Any]:
        known = {
            "solver": case.solver,
            "order": case.order,
            "grid": case.grid,
            "probability_flow": case.flow,
            "steps": steps,
        }
        return {**known, **case.options}

    def table(steps: int) -> StepTable:
        found = solver_options(model, {**chosen(steps), "denoise": True})
        assert isinstance(found, SolverOptions)
        return build_table(model.sde, found)

    def prepare() -> Prepared:
        count = steps if steps is not None else _fitting(table, case.budget or 0, evaluations)
        built = table(count)
        # A compiler's minutes for every candidate would be most of the comparison.
        found = {**chosen(count), "compile": False}
        to_eps = case.flow and "eps" not in case.options
        return replace(_prepared(model, options, found, built.nfe, digest(built), flow=to_eps), steps=count)

    return Candidate(case, priority, prepare)


def _fitting(table: Callable[[int], StepTable], budget: int, evaluations: int) -> int:
    """Return the largest number of steps whose table keeps to the budget."""
    steps = max(1, budget // evaluations)
    try:
        while (nfe := table(steps).nfe) > budget:
            if steps == 1:
                raise ValueError(f"one step takes {nfe}")
            steps = max(1, min(steps - 1, steps * budget // nfe))
    except ValueError as error:
        raise ValueError(f"the budget is too small: {error}") from error
    while table(steps + 1).nfe <= budget:
        steps += 1
    return steps


def _prepared(
    model: ScoreFunction, options: ComparisonOptions, chosen: Mapping[str, Any], nfe: float, digest: str, *, flow: bool
) -> Prepared:
    """Prepare the samplers of a solver's options, with and without denoising; each is made when it is first needed."""

    @cache
    def sampler(denoise: bool) -> Sampler:
        return Sampler(
            model,
            **chosen,
            denoise=denoise,
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
        )

    def draw(seeds: Sequence[int]) -> Drawn:
        samples = sampler(True).sample(seeds)
        return Drawn(samples, mean(sampler(True).evaluations(seeds)))

    def warm_up() -> None:
        sampler(True).runner.refresh()  # folds the network
        if sampler(True).device.type == "cuda":
            sampler(True).sample(range(options.batch_size))  # captures and allocates

    def flow_end(seeds: Sequence[int]) -> Tensor:
        return sampler(False).sample(seeds)

    return Prepared(nfe, digest, draw, warm_up, flow_end=flow_end if flow else None)


def digest(table: StepTable) -> str:
    """Return the SHA-256 of a table's times and coefficients, to the digits that rounding keeps."""
    found = hashlib.sha256()
    for row in table.rows:
        kind = (row.save, row.derive is None, row.langevin is None, len(row.outputs))
        found.update(f"{kind} {row.t:.10e} {' '.join(f'{number:.10e}' for number in row.numbers())}\n".encode())
    return found.hexdigest()


def _wanted(sde: SDE, options: ComparisonOptions) -> list[str]:
    """Return the names of the fixed-step solvers, each once and without aliases."""
    fitting = [solver.name for solver in SOLVERS.values() if isinstance(sde, solver.sdes)]
    if isinstance(sde, ScalarSDE):
        fitting.append(PREDICTOR_CORRECTOR)
    elif PREDICTOR_CORRECTOR in options.solvers:
        raise ValueError(f"solver {PREDICTOR_CORRECTOR!r} is not defined on the SDE {sde.name!r}; leave it out")
    asked = [name for name in (*options.solvers, *options.extra) if name not in ADAPTIVE]
    known = [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]
    for name in asked:
        if name not in known:
            raise ValueError(unknown_message("solver", name, [*known, *ADAPTIVE]))
    named = [name if name in fitting else find_solver(name, sde).name for name in asked]
    return list(dict.fromkeys(named)) if options.solvers else fitting


def _forms(name: str, solver: Solver, sde: SDE) -> Iterator[tuple[str, bool, Mapping[str, Any]]]:
    """Return the curve's name, whether it follows the probability flow, and further options, of each form."""
    if not solver.deterministic:
        yield name, False, {}
    # A solver with "eta" and the predictor-corrector become, without their noise, solvers that have other names.
    if solver.deterministic or (
        solver.probability_flow and "eta" not in solver.options and name != PREDICTOR_CORRECTOR
    ):
        yield name if solver.deterministic else f"{name}, flow", True, {}
    for form, flow, options in FORMS.get(name, ()):
        yield f"{name}, {form}", flow, options
    if name in RESTARTED:
        yield f"{name}, restart", False, {"restart": (restart_interval(sde),)}


def restart_interval(sde: SDE) -> RestartInterval:
    """Return `RESTART` in times of the SDE, to four digits."""
    low, high, times, steps = RESTART
    found = time_of(sde, np.array([low, high]), sde.sampling_eps, sde.T)
    return float(f"{found[0]:.4g}"), float(f"{found[1]:.4g}"), times, steps


def _priority(usual_order: bool, suited_grid: bool) -> Priority:
    if suited_grid:
        return Priority.USUAL if usual_order else Priority.OTHER_ORDER
    return Priority.OTHER_GRID if usual_order else Priority.OTHER_BOTH


def adaptive(model: ScoreFunction, options: ComparisonOptions) -> Iterator[Candidate]:
    """Return the adaptive solvers of the model's SDE, or the wanted ones, at each of `TOLERANCES`.

    Raises:
        ValueError: a wanted solver is not defined on the SDE.
    """
    for name, solver in ADAPTIVE.items():
        defined = solver.on_cld or model.sde.parts == 1
        if name in options.solvers and not defined:
            raise ValueError(f"solver {name!r} is not defined on the SDE {model.sde.name!r}; leave it out")
        if defined and (not options.solvers or name in options.solvers):
            for tolerance, expected in TOLERANCES[name].items():
                flow = name == "rk45"
                case = Case(name, name, flow, tolerance=tolerance, options={"atol": tolerance} if flow else {})
                yield _adaptive_candidate(model, options, case, expected)


def _adaptive_candidate(model: ScoreFunction, options: ComparisonOptions, case: Case, expected: float) -> Candidate:
    def prepare() -> Prepared:
        chosen = {"solver": case.solver, "rtol": case.tolerance, **case.options}
        known = repr((__version__, asdict(solver_options(model, {**chosen, "denoise": True}))))
        digest = hashlib.sha256(known.encode()).hexdigest()
        return _prepared(model, options, chosen, expected, digest, flow=case.flow)

    return Candidate(case, Priority.USUAL if expected <= MANY else Priority.OTHER_BOTH, prepare)


def load_solvers(path: Path) -> tuple[str, ...]:
    """Run a user's Python file, and return the names of the solvers that it registers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no Python file, fails, registers nothing, or takes the name of another solver.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no plugin {str(path)!r}")
    module_name = f"solver_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"the plugin {str(path)!r} is no Python file: give a FILE.py")
    before = dict(SOLVERS)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        names = tuple(name for name in SOLVERS if SOLVERS[name] is not before.get(name))
        for name in names:
            if name in before and before[name].fill.__module__ != module_name:
                raise ValueError(f"it registers {name!r}, which is another solver's name: choose a new one")
        if not names:
            raise ValueError("it registers no solver: decorate a function with @scoresde_fast.solver(...)")
    except Exception as error:  # whatever the user's code does
        SOLVERS.clear()
        SOLVERS.update(before)
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"the plugin {str(path)!r} cannot be used: {said}") from error
    return names
