# SPDX-License-Identifier: Apache-2.0
"""The registry of solvers, and `build_table`: from options to the step table of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from inspect import Parameter, signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from scoresde_fast.errors import RENAMED, unknown_message
from scoresde_fast.sdes import CLDSDE, EDM, SDE, SDES, DiscretisedSDE, ScalarSDE
from scoresde_fast.solvers.correctors import with_corrector
from scoresde_fast.solvers.grid_values import grid_of_values, times_of_sigmas
from scoresde_fast.solvers.grids import TimeGrid, make_grid, require_steps
from scoresde_fast.solvers.noise_schedule import starting_row
from scoresde_fast.solvers.options import SolverOptions
from scoresde_fast.solvers.restart import with_restarts
from scoresde_fast.solvers.spacings import GRID_PARAMETERS
from scoresde_fast.solvers.table import ZERO, AnyRow, LongStepsError, Row, StepTable

Fill = Callable[..., list[AnyRow]]
Finish = Callable[..., AnyRow]
ARGUMENTS_OF_THE_RUN = frozenset({"probability_flow", "denoise", "steps", "joined"})
"""Keyword arguments of `Solver.fill` that are not options of the solver."""


@dataclass(frozen=True)
class Solver:
    """A registered solver.

    Attributes:
        name: name under which users choose it.
        fill: ``fill(sde, grid, *, probability_flow)`` -> the rows of the steps.  Further keyword arguments, such as
            ``order=3`` or ``eta=0.0``, are options: fields of `SolverOptions`, with the solver's defaults.  There are
            three exceptions.  ``steps`` receives the number of steps of the run, and ``denoise`` whether denoising
            follows.  ``joined`` is False if a corrector is used: then no row may belong to two steps.
        source: publication of its equations.
        sdes: SDEs on which it is defined; the default is `ScalarSDE`: all but CLD.
        probability_flow: whether it has a probability-flow form.
        orders: values of the option ``order``, or the only order.  Each is the order of convergence, strong on the flow
            and weak with noise, unless ``corrected``, ``highest_order`` or ``weak_order`` changes it.
        finish: ``finish(sde, t, dt)`` -> the row that denoises at the end of a run; without it, denoising omits the
            noise of the last step.
        deterministic: whether it draws no noise by default.
        evaluations: network evaluations per step, or if they differ a tuple with those of each of ``orders``.
        starting_evaluations: further evaluations at the start of a run, by methods that need a history.
        grid: the default of the option ``grid``; see `default_grid`.
        published: whether it is a solver of score_sde.  If so, its uniform grid on a `DiscretisedSDE` ends one step
            below eps, and denoising on a `ScalarSDE` ignores ``finish``.
        correctable: whether a corrector can precede each step, which requires a solver without a history.
        corrected: whether it has a corrector that costs no extra evaluation and raises the order by one.
        highest_order: highest order of convergence, if lower than the largest of ``orders``.
        weak_order: highest weak order with noise, if lower than the order on the flow.
    """

    name: str
    fill: Fill
    source: str
    sdes: tuple[type[SDE], ...] = (ScalarSDE,)
    probability_flow: bool = True
    orders: tuple[int, ...] = (1,)
    finish: Finish | None = None
    deterministic: bool = False
    evaluations: int | tuple[int, ...] = 1
    starting_evaluations: int = 0
    grid: str = "logsnr"
    published: bool = False
    correctable: bool = False
    corrected: bool = False
    highest_order: int | None = None
    weak_order: int | None = None

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of ``fill`` and their defaults, `Parameter.empty` if there is no default."""
        parameters = signature(self.fill).parameters.values()
        return {p.name: p.default for p in parameters if p.kind == Parameter.KEYWORD_ONLY}

    @cached_property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Values of the options that are a choice between names."""
        hints = {name: hint for name, hint in get_type_hints(self.fill).items() if get_origin(hint) is Literal}
        return {name: get_args(hints[name]) for name in self.options if name in hints}

    @property
    def options(self) -> dict[str, Any]:
        """Options of this solver and their defaults."""
        return {name: default for name, default in self.keywords.items() if name not in ARGUMENTS_OF_THE_RUN}

    @property
    def sde_names(self) -> list[str]:
        """Names of the official SDEs on which it is defined."""
        return [name for name, sde in SDES.items() if issubclass(sde, self.sdes)]

    def convergence(self, order: int | None = None, *, noisy: bool = False) -> int:
        """Return the order of convergence: strong on the flow or, with ``noisy``, weak."""
        strong = (self.orders[0] if order is None else order) + self.corrected
        limits = (self.highest_order, self.weak_order if noisy else None)
        return min([strong, *(limit for limit in limits if limit is not None)])

    def evaluations_per_step(self, order: int) -> int:
        """Return the number of network evaluations per step at this order."""
        counts = self.evaluations
        return counts if isinstance(counts, int) else counts[self.orders.index(order)]


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(name: str, *, aliases: tuple[str, ...] = (), **attributes: Any) -> Callable[[Fill], Fill]:
    """Register the decorated function as the solver ``name``.

    Args:
        name: name under which users choose it.
        aliases: other names for it.
        attributes: further attributes of `Solver`.  ``source`` is required; ``sdes`` is by default `ScalarSDE`.

    Raises:
        TypeError: an option of the function has no default, or a keyword or an attribute has a former name.
    """

    def register(fill: Fill) -> Fill:
        for former in RENAMED.keys() & {*attributes, *signature(fill).parameters}:
            raise TypeError(f"solver {name!r}: {former!r} is now called {RENAMED[former]!r}")
        entry = Solver(name, fill, **attributes)
        for option, default in entry.options.items():
            if default is Parameter.empty:
                raise TypeError(f"solver {name!r} has the option {option!r} without a default; add one")
        SOLVERS[name] = entry
        ALIASES.update(dict.fromkeys(aliases, name))
        return fill

    return register


def find_solver(name: str, sde: SDE, *, probability_flow: bool = False) -> Solver:
    """Return the solver whose name or alias is ``name``.

    Raises:
        ValueError: the name is unknown, or the solver is not defined on ``sde`` or has no probability-flow form.
    """
    name = ALIASES.get(name, name)
    if name not in SOLVERS:
        raise ValueError(unknown_message("solver", name, [*SOLVERS, *ALIASES, "pc"]))
    entry = SOLVERS[name]
    if not isinstance(sde, entry.sdes):
        defined = ", ".join(map(repr, entry.sde_names))
        raise ValueError(
            f"solver {name!r} is not defined on the SDE {sde.name!r}, only on {defined}; "
            f"on {sde.name!r} choose from: {_names(lambda other: isinstance(sde, other.sdes))}"
        )
    if probability_flow and not entry.probability_flow:
        choices = _names(lambda other: other.probability_flow and isinstance(sde, other.sdes))
        raise ValueError(f"solver {name!r} has no probability-flow form; choose from: {choices}")
    return entry


def default_grid(sde: SDE, options: SolverOptions) -> str:
    """Return the grid of a run for which none is given: that of the solver, but "karras" for uniform steps on EDM."""
    grid = find_solver(options.predictor, sde).grid
    return "karras" if grid == "uniform" and isinstance(sde, EDM) else grid


def few_steps_solver(sde: SDE) -> str:
    """Return the name of a solver that is good with few steps; benchmarks/studies/few_steps.py compares them."""
    return "gddim" if isinstance(sde, CLDSDE) else "unipc"


def with_grid(sde: SDE, options: SolverOptions) -> SolverOptions:
    """Return the options with the solver's default grid if none is given."""
    return options if options.grid is not None else replace(options, grid=default_grid(sde, options))


def parameters_of(sde: SDE, options: SolverOptions) -> set[str]:
    """Return the names of the options that the solver and the grid of a run have."""
    grid = with_grid(sde, options).grid
    of_grid = GRID_PARAMETERS.get(grid, ()) if isinstance(grid, str) else ()
    return {*find_solver(options.predictor, sde).options, *of_grid}


def is_published(sde: SDE, options: SolverOptions) -> bool:
    """Return whether a run is on the uniform grid of score_sde, with the tables of its discrete processes."""
    entry = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    uniform = entry.published and not options.restart and with_grid(sde, options).grid == "uniform"
    return uniform and isinstance(sde, DiscretisedSDE) and start_time(sde, options) == sde.T


def start_time(sde: SDE, options: SolverOptions) -> float:
    """Return the time at which a run starts: T, or that of ``sigma_max``.

    Raises:
        ValueError: ``sigma_max`` is given on CLD, or out of range.
    """
    if options.sigma_max is None:
        return sde.T
    if not isinstance(sde, ScalarSDE):
        raise ValueError(
            f"sigma_max is {options.sigma_max!r}, but on {sde.name!r} runs start at T, where position and velocity "
            "are independent: leave it out"
        )
    return _time_of_sigma(sde, options.sigma_max, "sigma_max")


def end_time(sde: SDE, options: SolverOptions) -> float:
    """Return the time at which a run ends, before denoising; the grid of score_sde goes one step further."""
    if not isinstance(options.grid, str | None):
        return float(grid_of_values(sde, tuple(options.grid)).edges[-1])
    if options.sigma_min is not None:
        return _time_of_sigma(sde, options.sigma_min, "sigma_min")
    eps = sde.sampling_eps if options.eps is None else options.eps
    return float(sde.trained_times(np.array([eps]))[0])


def _time_of_sigma(sde: SDE, sigma: float, option: str) -> float:
    """Return the time, one at which networks are trained, at which std / scale is the value of an option."""
    times = times_of_sigmas(sde, np.array([sigma]), f"{option} is {sigma!r}")
    return float(sde.trained_times(times)[0])


def build_table(sde: SDE, options: SolverOptions) -> StepTable:
    """Return the table of a run: for each step the rows of the corrector, if any, then those of the solver.

    Raises:
        ValueError: an option is unknown or out of range, two options exclude each other, or the steps are too few.
    """
    options = with_grid(sde, options)
    try:
        return _table(sde, options)
    except LongStepsError as error:
        if not isinstance(options.grid, str):
            raise
        raise ValueError(
            f"{options.steps} steps are too few for solver {options.solver!r} on grid {options.grid!r}: take "
            f"at least {_least_steps(sde, options)}, or a solver for few steps, such as {few_steps_solver(sde)!r}"
        ) from error


def _least_steps(sde: SDE, options: SolverOptions) -> int:
    """Return the smallest number of steps with finite coefficients, above ``options.steps``, which has none."""

    def works(steps: int) -> bool:
        try:
            _table(sde, replace(options, steps=steps))
        except LongStepsError:
            return False
        return True

    low, high = options.steps, 2 * options.steps
    while not works(high):  # `make_grid` ends this with its largest number of steps
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _table(sde: SDE, options: SolverOptions) -> StepTable:
    entry = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    fill = _fill(sde, entry, options)
    start, eps = start_time(sde, options), end_time(sde, options)
    if eps >= start and (options.sigma_min is not None or options.sigma_max is not None):
        given = [(name, getattr(options, name)) for name in ("sigma_min", "sigma_max", "eps")]
        values = " and ".join(f"{name} is {value!r}" for name, value in given if value is not None)
        raise ValueError(
            f"{values}, so that the run would start at t={start:g} and stop at t={eps:g}: choose a larger sigma_max, "
            "or a smaller sigma_min or eps"
        )
    # On images the solvers of score_sde have no denoising step.
    finish = None if not options.denoise or (entry.published and isinstance(sde, ScalarSDE)) else entry.finish
    # Steps that are too long give NaN, which `StepTable.of` reports.
    with np.errstate(invalid="ignore", divide="ignore"):
        if isinstance(options.grid, str):
            require_steps(options.steps, 1 if finish is None else 2)
            steps = options.steps - (finish is not None)
            _warn_of_few_steps(entry, options, steps)
            published = is_published(sde, options)
            parameters = {name: getattr(options, name) for name in GRID_PARAMETERS.get(options.grid, ())}
            parameters = {name: value for name, value in parameters.items() if value is not None}
            grid_of = partial(make_grid, options.grid, sde, start=start, published=published, parameters=parameters)
            if options.restart:
                assert not isinstance(options.restart, str)  # parsed by `SolverOptions`
                rows = with_restarts(sde, options.restart, steps, start, eps, grid_of, fill)
            else:
                rows = fill(grid_of(steps, eps))
        else:
            assert options.grid is not None  # by `with_grid`
            grid = grid_of_values(sde, tuple(options.grid))
            _warn_of_few_steps(entry, options, len(grid))
            rows = fill(grid)
    if finish is not None:
        rows.append(finish(sde, eps, eps))
    elif options.denoise:
        last = rows[-1]
        rows[-1] = replace(last, noise=0.0) if isinstance(last, Row) else replace(last, noise=ZERO)
    if start < sde.T:
        assert isinstance(sde, ScalarSDE)  # by `start_time`
        rows.insert(0, starting_row(sde, start))
    return StepTable.of(rows)


def _fill(sde: SDE, entry: Solver, options: SolverOptions) -> Callable[[TimeGrid], list[AnyRow]]:
    """Return the function from a grid to the rows of the solver and the corrector."""
    arguments, corrector = _arguments(sde, entry, options), options.paired_corrector
    if corrector == "none":
        return partial(entry.fill, sde, **arguments)
    if not entry.correctable:
        choices = _names(lambda other: other.correctable and isinstance(sde, other.sdes))
        raise ValueError(
            f"corrector {corrector!r} cannot be used with solver {entry.name!r}, only with {choices}; "
            "choose corrector='none'"
        )
    if "joined" in entry.keywords:
        arguments["joined"] = False
    fill = partial(entry.fill, sde, **arguments)
    return with_corrector(corrector, sde, fill, steps=options.corrector_steps, snr=options.snr)


def _warn_of_few_steps(entry: Solver, options: SolverOptions, steps: int) -> None:
    """Warn once per process if a multistep method has too few steps for the values that its order interpolates."""
    global _warned
    order = options.order or entry.options.get("order", entry.orders[0])
    if _warned or steps >= order or order <= entry.evaluations_per_step(order) or entry.starting_evaluations:
        return
    _warned = True
    have = "1 step" if steps == 1 else f"{steps} steps"
    warnings.warn(
        f"solver {entry.name!r} of order {order} combines the outputs of {order} steps, but the run has only {have} "
        f"besides denoising, so that it uses order {steps}: take more steps, or a lower order (this warning is given "
        "once)",
        UserWarning,
        stacklevel=3,
    )


_warned = False


def _arguments(sde: SDE, entry: Solver, options: SolverOptions) -> dict[str, Any]:
    """Return the keyword arguments of ``entry.fill``; refuse options and orders that the solver does not have."""
    other_options = {name for other in SOLVERS.values() for name in other.options} - parameters_of(sde, options)
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name in other_options:
            _refuse_option(entry, field.name, value)
    arguments = {name: getattr(options, name, None) for name in entry.keywords}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if "order" in arguments and arguments["order"] not in entry.orders:
        orders = f"{entry.orders[0]} to {entry.orders[-1]}"
        raise ValueError(f"order is {options.order!r}; solver {entry.name!r} has the orders {orders}")
    for name, choices in entry.choices.items():
        if arguments.get(name, choices[0]) not in choices:
            raise ValueError(unknown_message(f"{name} of solver {entry.name!r}", arguments[name], choices))
    return arguments


def _refuse_option(entry: Solver, option: str, value: Any) -> None:
    """Raise ``ValueError`` for an option that the solver does not have, unless it is the solver's only order."""
    if option == "order":
        if value != entry.orders[0]:
            raise ValueError(f"order is {value!r}; solver {entry.name!r} has order {entry.orders[0]} only")
        return
    choices = _names(lambda other: option in other.options and bool({*other.sde_names} & {*entry.sde_names}))
    choice = f", or choose {choices}" if choices else ""
    raise ValueError(f"{option} is {value!r}; solver {entry.name!r} has no such option: leave it out{choice}")


def _names(condition: Callable[[Solver], bool]) -> str:
    """Return the names of the solvers that satisfy ``condition``."""
    return ", ".join(sorted(other.name for other in SOLVERS.values() if condition(other)))
