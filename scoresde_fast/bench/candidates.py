# SPDX-License-Identifier: Apache-2.0
"""Candidates of the solver comparison: solvers with their orders, grids and budgets, and their samplers."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import IntEnum
from functools import cache, partial
from itertools import product
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast import __version__
from scoresde_fast.bench.measures import MIN_SAMPLES
from scoresde_fast.devices import Precision
from scoresde_fast.errors import unknown_message
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.loop.inputs import InputValues, NetworkInputs
from scoresde_fast.loop.network_guidance import NetworkGuidance
from scoresde_fast.loop.program import Program
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import SDE, Betas, ScalarSDE
from scoresde_fast.solver_choice import solver_options
from scoresde_fast.solvers import (
    GRIDS,
    SOLVERS,
    RestartInterval,
    Solver,
    SolverOptions,
    StepTable,
    build_table,
    find_solver,
    grids_of,
)
from scoresde_fast.solvers.noise_schedule import time_of
from scoresde_fast.solvers.options import PREDICTOR_CORRECTOR
from scoresde_fast.solvers.registry import ALIASES


@dataclass(frozen=True)
class ComparisonOptions:
    """Settings of a comparison, and the selection of candidates.

    Attributes:
        budgets: network evaluations a sample, each at least 1.
        solvers: names; by default all solvers of the model's SDE.
        extra: solvers that are always included, such as those of a plugin.
        grids: names; by default all.
        variants: also compare the other orders and forms of each solver. Without them each solver has its default
            order and form. The grids are then by default the one that suits the SDE, and adaptive solvers, which have
            no budgets, are compared only if ``solvers`` names them.
        peers: also compare the solvers of other libraries that are installed, see `scoresde_fast.bench.peers`. Without
            ``variants`` each has its default form.
        reference_steps: number of steps of the reference sampler; None to omit it.
        samples: samples of each candidate; by default 2 000 images or 20 000 scalars.
        batch_size: samples a batch; by default 100 images or 20 000 scalars.
        seconds: time limit; candidates that are not expected to finish within it are listed as left out.
        timing_seconds: time budget for timing the measured cases; 0 skips timing. By default 120, or 30 for scalars.
        device, precision, inputs, guidance: as of `Sampler`.

    Raises:
        ValueError: a number is out of range.
    """

    budgets: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    solvers: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    grids: tuple[str, ...] = ()
    variants: bool = True
    peers: bool = False
    reference_steps: int | None = None
    samples: int | None = None
    batch_size: int | None = None
    seconds: float | None = None
    timing_seconds: float | None = None
    device: torch.device | str = "cpu"
    precision: Precision = "auto"
    inputs: InputValues = None
    guidance: NetworkGuidance | None = None

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ValueError("no budget of network evaluations is given: name at least one")
        for value in self.budgets:
            if value < 1:
                raise ValueError(f"a budget is {value} network evaluations; it must be at least 1")
        if self.samples is not None and self.samples < MIN_SAMPLES:
            raise ValueError(
                f"samples is {self.samples}; it must be at least {MIN_SAMPLES}, so that halves can be compared"
            )
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"the time limit is {self.seconds} seconds; it must be finite and greater than 0")
        if self.timing_seconds is not None and not 0 <= self.timing_seconds < math.inf:
            raise ValueError(
                f"the timing budget is {self.timing_seconds} seconds; it must be finite and at least 0 (no timing)"
            )
        if self.reference_steps is not None and self.reference_steps < 1:
            raise ValueError(f"the reference takes {self.reference_steps} steps; it must take at least 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"the batch size is {self.batch_size}; it must be at least 1")


@dataclass(frozen=True)
class Case:
    """A solver with its options and its budget; each case is measured once.

    Attributes:
        name: label in plots; cases with the same name form one curve.
        solver: the solver's name; of another library's solver, the library and the name there.
        probability_flow: whether the case integrates the probability-flow ODE, without noise after the prior.
        order: the solver's order, if it has several.
        grid: the time grid, if it has one.
        budget: maximum number of network evaluations a sample; None for an adaptive solver.
        tolerance: relative tolerance of an adaptive solver.
        options: further options of the solver.
        reference: whether this is the baseline; it is excluded from the ranking.
    """

    name: str
    solver: str
    probability_flow: bool
    order: int | None = None
    grid: str | None = None
    budget: int | None = None
    tolerance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: bool = False

    def case_fields(self) -> dict[str, Any]:
        """Return the fields of `Case` itself, without those that subclasses add."""
        return {member.name: getattr(self, member.name) for member in fields(Case)}

    @property
    def key(self) -> str:
        """A string that is equal for equal cases, also after a JSON round trip."""
        return json.dumps(self.case_fields(), sort_keys=True)

    @property
    def library(self) -> str | None:
        """The library of a peer; None for solvers of this package and the user's own."""
        library, _, solver = self.solver.partition(" ")
        return library if solver else None

    @property
    def end(self) -> str | None:
        """How a peer lowers its order at the end, if it has a choice."""
        return self.options.get("end") if self.library else None

    def __str__(self) -> str:
        """Return the name, and in brackets order, grid, tolerance and end."""
        order = f"order {self.order}" if self.order is not None else None
        tolerance = f"tolerance {self.tolerance:g}" if self.tolerance is not None else None
        details = ", ".join(part for part in (order, self.grid, tolerance, self.end) if part)
        return f"{self.name} ({details})" if details else self.name


class Priority(IntEnum):
    """Measurement order, most informative first."""

    DEFAULT = 0
    """A solver with its default order on the SDE's suited grid."""
    REFERENCE = 1
    OTHER_GRID = 2
    OTHER_ORDER = 3
    OTHER_GRID_AND_ORDER = 4


class SampleBatch(NamedTuple):
    """Samples (N, C, H, W) in the order of their seeds, and the mean number of network evaluations a sample."""

    samples: Tensor
    nfe: float


@dataclass(frozen=True)
class Prepared:
    """A candidate that is ready to run.

    Attributes:
        nfe: network evaluations a sample; an estimate for adaptive solvers.
        digest: hash of the method, independent of its name; a saved result with the same digest is reused.
        draw: returns the samples of seeds.
        warm_up: untimed setup for batches of a size: folds the network, captures graphs.
        steps: number of steps; None for adaptive solvers.
        flow_end: for probability-flow solvers: returns x(eps) of seeds, before denoising.
        options: the options of a solver of this package.
    """

    nfe: float
    digest: str
    draw: Callable[[Sequence[int]], SampleBatch]
    warm_up: Callable[[int], object]
    steps: int | None = None
    flow_end: Callable[[Sequence[int]], Tensor] | None = None
    options: SolverOptions | AdaptiveOptions | None = None


@dataclass(frozen=True)
class Candidate:
    """A case and how to run it.

    Attributes:
        case: the compared solver and its options.
        priority: position in the measurement order.
        prepare: raises ValueError, with the reason, if the case cannot run on the model.
        expected_nfe: network evaluations a sample that are expected before the case is prepared; None: its budget.
    """

    case: Case
    priority: Priority
    prepare: Callable[[], Prepared]
    expected_nfe: float | None = None

    @property
    def cost(self) -> float:
        """Expected network evaluations a sample; 0 if unknown."""
        return self.expected_nfe or self.case.budget or 0.0


Family = Callable[[ScoreFunction, ComparisonOptions], Iterable[Candidate]]
"""Returns the candidates of one kind for a model."""

SUITED_GRIDS = {
    "vesde": "karras",
    "vpsde": "quadratic",
    "subvpsde": "quadratic",
    "cld": "quadratic",
    "edm": "karras",
    "betas": "quadratic",
    "rectified_flow": "quadratic",
}
"""By SDE, a grid that suits few steps; it is measured first."""

REFERENCES: dict[str, dict[str, Any]] = {
    "vesde": {"solver": "ancestral", "grid": "uniform"},
    "vpsde": {"solver": "ancestral", "grid": "uniform"},
    "subvpsde": {"solver": PREDICTOR_CORRECTOR, "grid": "uniform"},
    "cld": {"solver": "sscs", "grid": "quadratic"},
    "edm": {"solver": "heun", "grid": "karras", "probability_flow": True},
    "betas": {"solver": "ddim", "grid": "uniform", "options": {"eta": 1.0}},
    "rectified_flow": {"solver": "ddim", "grid": "uniform", "probability_flow": True},
}
"""By SDE, the published sampler, which takes many steps: on betas DDPM's chain, on a rectified flow Euler steps."""
OTHER_REFERENCE: dict[str, Any] = {"solver": "sa", "grid": "logsnr"}
"""The sampler of many steps on other SDEs: noise corrects the errors of earlier steps."""


def suited_grid(sde: SDE) -> str:
    """Return a grid that suits few steps. On an SDE of one's own it does not depend on how time is measured."""
    if sde.name in SUITED_GRIDS:
        return SUITED_GRIDS[sde.name]
    keeps_scale = isinstance(sde, ScalarSDE) and np.ptp(sde.marginal(sde.checked_times()).scale) == 0
    return "karras" if keeps_scale else "logsnr"


class Form(NamedTuple):
    """A form of a solver, which has its own curve: its label, and the options that differ from the solver's default."""

    label: str
    probability_flow: bool
    options: Mapping[str, Any]


EXTRA_FORMS: dict[str, tuple[Form, ...]] = {
    "ddim": (Form("eta 1", False, {"eta": 1.0}),),
    "heun": (Form("churn 4", False, {"churn": 4.0}),),
    # Stop early: below this time a small network's error dominates.
    "dpmpp_2m_sde": (Form("eps 0.01", False, {"eps": 0.01}),),
    "sa": (Form("eps 0.01", False, {"eps": 0.01}),),
    # Stop early: closer to t = 0 an error in the velocity's score is amplified in the position.
    "gddim": (Form("eps 0.02", True, {"eps": 0.02}), Form("eta 1, eps 0.005", False, {"eta": 1.0, "eps": 0.005})),
}
"""Forms that are measured besides a solver's default forms, by solver; the label is added to the solver's name."""

RESTART_SOLVERS = ("heun", "dpmpp_2m")
"""Solvers that are also measured with Restart."""
RESTART_NOISE_TO_SIGNAL = (0.06, 0.3)
"""Noise-to-signal ratios at the two ends of the restart interval."""
RESTART_TIMES, RESTART_STEPS = 2, 3
"""How often the interval is repeated, and steps of each repetition."""

TOLERANCES = {
    "rk45": {1e-1: 27, 3e-2: 32, 1e-2: 49, 1e-3: 65, 1e-4: 110, 1e-5: 350},
    "ggf": {0.2: 30, 0.1: 50, 0.05: 80, 0.02: 150},
}
"""By adaptive solver, relative tolerances, each with the approximate NFE a sample on digits-vp. The absolute
tolerance is equal for solvers of the probability flow, and the default for others."""
BAR_AFTER = 2.0
"""Seconds after which a terminal shows a bar of the samples of a candidate."""
CHEAP_NFE = 100
"""Adaptive candidates above this NFE are measured last."""


def fixed_step(model: ScoreFunction, options: ComparisonOptions) -> Iterator[Candidate]:
    """Yield a candidate for each selected solver, form, order, grid and budget, then the reference.

    Raises:
        ValueError: a solver or a grid is unknown, or a solver is not defined on the SDE.
    """
    sde = model.sde
    for grid in options.grids:
        if grid not in GRIDS:
            raise ValueError(unknown_message("time grid", grid, GRIDS))
    suited = suited_grid(sde)
    grids = options.grids or (grids_of(sde) if options.variants else (suited,))
    if suited not in grids:
        suited = grids[0]
    for name in _selected_solvers(sde, options):
        solver = find_solver("reverse_diffusion" if name == PREDICTOR_CORRECTOR else name, sde)
        default_order = solver.options.get("order")
        orders = solver.orders if default_order is not None else (None,)
        forms = list(_forms(name, solver, sde))
        if not options.variants:
            orders, forms = (default_order,), forms[:1]
        for form, order, grid, budget in product(forms, orders, grids, options.budgets):
            case = Case(
                name=form.label,
                solver=name,
                probability_flow=form.probability_flow,
                order=order,
                grid=grid,
                budget=budget,
                options=form.options,
            )
            priority = _priority(default_order=order == default_order, suited_grid=grid == suited)
            yield Candidate(case, priority, partial(prepare_fixed_step, model, options, case))
    if options.reference_steps is not None:
        steps = min(options.reference_steps, most_steps(sde))
        sampler = {"probability_flow": False, **REFERENCES.get(sde.name, OTHER_REFERENCE)}
        case = Case(f"{sampler['solver']}, {steps} steps", **sampler, reference=True)
        prepare = partial(prepare_fixed_step, model, options, case, steps)
        yield Candidate(case, Priority.REFERENCE, prepare, expected_nfe=steps)


def most_steps(sde: SDE) -> int:
    """Return the largest number of steps: a chain of n betas has n times, between which there are n - 1 steps."""
    return len(sde) - 1 if isinstance(sde, Betas) else sys.maxsize


def _selected_solvers(sde: SDE, options: ComparisonOptions) -> list[str]:
    """Return the names of the selected fixed-step solvers, each once and without aliases."""
    defined = [solver.name for solver in SOLVERS.values() if isinstance(sde, solver.sdes)]
    if isinstance(sde, ScalarSDE):
        defined.append(PREDICTOR_CORRECTOR)
    elif PREDICTOR_CORRECTOR in options.solvers:
        raise ValueError(f"solver {PREDICTOR_CORRECTOR!r} is not defined on the SDE {sde.name!r}; leave it out")
    selected = [name for name in (*options.solvers, *options.extra) if name not in ADAPTIVE]
    registered = [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]
    for name in selected:
        if name not in registered:
            raise ValueError(unknown_message("solver", name, [*registered, *ADAPTIVE]))
    canonical = [name if name in defined else find_solver(name, sde).name for name in selected]
    return list(dict.fromkeys(canonical)) if options.solvers else defined


def _forms(name: str, solver: Solver, sde: SDE) -> Iterator[Form]:
    """Yield the forms of a solver; each label is the full name of its curve."""
    if not solver.deterministic:
        yield Form(name, False, {})
    # Without noise, solvers with "eta" and the predictor-corrector equal other registered solvers.
    has_flow = solver.probability_flow and "eta" not in solver.options and name != PREDICTOR_CORRECTOR
    if solver.deterministic or has_flow:
        yield Form(name if solver.deterministic else f"{name}, flow", True, {})
    for form in EXTRA_FORMS.get(name, ()):
        if not sde.sampling_eps < form.options.get("eps", sde.T) <= sde.T:
            continue  # the form would not stop early
        yield form._replace(label=f"{name}, {form.label}")
    if name in RESTART_SOLVERS:
        yield Form(f"{name}, restart", False, {"restart": (restart_interval(sde),)})


def restart_interval(sde: SDE) -> RestartInterval:
    """Return the restart interval in times of the SDE, rounded to four significant digits."""
    start, end = time_of(sde, np.array(RESTART_NOISE_TO_SIGNAL), sde.sampling_eps, sde.T)
    return float(f"{start:.4g}"), float(f"{end:.4g}"), RESTART_TIMES, RESTART_STEPS


def _priority(*, default_order: bool, suited_grid: bool) -> Priority:
    if suited_grid:
        return Priority.DEFAULT if default_order else Priority.OTHER_ORDER
    return Priority.OTHER_GRID if default_order else Priority.OTHER_GRID_AND_ORDER


def prepare_fixed_step(
    model: ScoreFunction, options: ComparisonOptions, case: Case, steps: int | None = None
) -> Prepared:
    """Prepare a case with ``steps`` steps, by default as many as its budget allows.

    Raises:
        ValueError: the solver cannot run with these steps, or within the budget.
    """
    if steps is None:
        steps = _steps_within_budget(model, options, case)
    solver, table = _with_steps(model, case, steps)
    with_flow_end = case.probability_flow and "eps" not in case.options
    nfe = evaluations(model, options, table)
    return _prepared(model, options, solver, nfe, table_digest(table), with_flow_end=with_flow_end)


def evaluations(model: ScoreFunction, options: ComparisonOptions, table: StepTable) -> int:
    """Return the network evaluations a sample of a table, as `Sampler.nfe` counts them: a guided one counts as two."""
    if options.guidance is None:
        return table.nfe
    return Program.of_model(model, table, "cpu", NetworkInputs(guidance=options.guidance)).nfe


def _with_steps(model: ScoreFunction, case: Case, steps: int) -> tuple[SolverOptions, StepTable]:
    chosen = {"order": case.order, "grid": case.grid, "probability_flow": case.probability_flow, **case.options}
    solver = solver_options(model, {"solver": case.solver, "steps": steps, "denoise": True, **chosen})
    assert isinstance(solver, SolverOptions)
    return solver, build_table(model.sde, solver)


def _steps_within_budget(model: ScoreFunction, options: ComparisonOptions, case: Case) -> int:
    """Return the largest number of steps that fits the budget.

    Raises:
        ValueError: no number of steps fits the budget, or the largest one also fits a smaller budget of the comparison.
    """
    assert case.budget is not None

    def nfe(steps: int) -> int:
        return evaluations(model, options, _with_steps(model, case, steps)[1])

    most = most_steps(model.sde)
    steps = min(case.budget, most)
    try:
        while (taken := nfe(steps)) > case.budget and steps > 1:
            steps = max(1, min(steps - 1, steps * case.budget // taken))
    except ValueError as error:
        if steps == most:
            raise
        raise ValueError(f"the budget is too small: {error}") from error  # the solver needs more steps
    if taken > case.budget:
        raise ValueError(f"the budget is too small: one step takes {taken}")
    while steps < most and (more := nfe(steps + 1)) <= case.budget:
        steps, taken = steps + 1, more
    smaller = [budget for budget in options.budgets if taken <= budget < case.budget]
    if smaller:
        raise ValueError(f"the {taken} evaluations of the longest run also fit the budget {min(smaller)}")
    return steps


def _prepared(
    model: ScoreFunction,
    options: ComparisonOptions,
    solver: SolverOptions | AdaptiveOptions,
    nfe: float,
    digest: str,
    *,
    with_flow_end: bool,
) -> Prepared:
    """Prepare a candidate; its samplers with and without denoising are created on first use."""

    @cache
    def sampler(denoise: bool) -> Sampler:
        return Sampler(
            model,
            replace(solver, denoise=denoise),
            compile=False,  # compiling each candidate takes minutes and would dominate the benchmark
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
            inputs=options.inputs,
            guidance=options.guidance,
        )

    def draw(seeds: Sequence[int]) -> SampleBatch:
        batches = []
        hide = len(seeds) <= sampler(True).batch_size or None  # one batch, such as one that is timed, has no bar
        with tqdm(total=len(seeds), unit=" samples", disable=hide, leave=False, delay=BAR_AFTER) as bar:
            for batch, samples in sampler(True).stream(seeds):
                batches.append(samples)
                bar.update(len(batch))
        return SampleBatch(torch.cat(batches), mean(sampler(True).evaluations(seeds)))

    def warm_up(batch: int) -> None:
        sampler(True).runner.refresh()  # folds the network
        if sampler(True).device.type == "cuda":
            sampler(True).sample(range(batch))  # captures and allocates

    def flow_end(seeds: Sequence[int]) -> Tensor:
        return sampler(False).sample(seeds)

    steps = solver.steps if isinstance(solver, SolverOptions) else None
    return Prepared(nfe, digest, draw, warm_up, steps, flow_end if with_flow_end else None, solver)


def table_digest(table: StepTable) -> str:
    """Return the SHA-256 of a table's times and coefficients, rounded to 11 digits to ignore rounding errors."""
    sha256 = hashlib.sha256()
    for row in table.rows:
        kind = (row.save, row.derive is None, row.langevin is None, len(row.outputs), *[row.forget] * bool(row.forget))
        sha256.update(f"{kind} {row.t:.10e} {' '.join(f'{number:.10e}' for number in row.coefficients())}\n".encode())
    return sha256.hexdigest()


def adaptive(model: ScoreFunction, options: ComparisonOptions) -> Iterator[Candidate]:
    """Yield a candidate for each selected adaptive solver of the model's SDE and each of its `TOLERANCES`.

    Raises:
        ValueError: a selected solver is not defined on the SDE.
    """
    for name, solver in ADAPTIVE.items():
        defined = solver.on_cld or model.sde.parts == 1
        if name in options.solvers and not defined:
            raise ValueError(f"solver {name!r} is not defined on the SDE {model.sde.name!r}; leave it out")
        if defined and (name in options.solvers or (options.variants and not options.solvers)):
            for tolerance, expected_nfe in TOLERANCES[name].items():
                on_flow = solver.probability_flow
                case_options = {"atol": tolerance} if on_flow else {}
                case = Case(name, name, probability_flow=on_flow, tolerance=tolerance, options=case_options)
                priority = Priority.DEFAULT if expected_nfe <= CHEAP_NFE else Priority.OTHER_GRID_AND_ORDER
                prepare = partial(_prepare_adaptive, model, options, case, expected_nfe)
                yield Candidate(case, priority, prepare, expected_nfe)


def _prepare_adaptive(model: ScoreFunction, options: ComparisonOptions, case: Case, expected_nfe: float) -> Prepared:
    solver = solver_options(model, {"solver": case.solver, "rtol": case.tolerance, "denoise": True, **case.options})
    digest = hashlib.sha256(repr((__version__, asdict(solver))).encode()).hexdigest()
    return _prepared(model, options, solver, expected_nfe, digest, with_flow_end=case.probability_flow)
