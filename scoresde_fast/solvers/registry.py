# SPDX-License-Identifier: Apache-2.0
"""The solvers by name, and the step table of a solver with its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from inspect import Parameter, signature
from typing import Any

import numpy as np

from scoresde_fast.errors import RENAMED, unknown_message
from scoresde_fast.sdes import IMAGE_SDES, SDE, ScalarSDE
from scoresde_fast.solvers.correctors import with_corrector
from scoresde_fast.solvers.grids import TimeGrid, make_grid, require_steps
from scoresde_fast.solvers.options import SolverOptions
from scoresde_fast.solvers.restart import with_restarts
from scoresde_fast.solvers.table import ZERO, AnyRow, Row, StepTable

Fill = Callable[..., list[AnyRow]]
Finish = Callable[..., AnyRow]
ARGUMENTS_OF_THE_RUN = frozenset({"probability_flow", "steps", "joined"})
"""Keyword arguments of a `Solver.fill` that are not options of the solver."""


@dataclass(frozen=True)
class Solver:
    """A registered solver.

    Attributes:
        name: the name that users give.
        fill: ``fill(sde, grid, *, probability_flow)`` -> the rows of the steps.  Further keyword arguments, such as
            ``order=3`` or ``eta=0.0``, are options: fields of `SolverOptions`, with the solver's defaults.  ``steps``
            receives the steps of the whole run.  ``joined=False`` asks for rows between which a corrector fits.
        source: the source of its equations.
        sdes: the SDEs on which it is defined.
        probability_flow: whether it has a probability-flow form.
        orders: the orders of convergence, strong on the flow and weak with noise; the user chooses from several.
        finish: ``finish(sde, t, dt)`` -> the row that denoises at the end of a run; without it, denoising leaves out
            the noise of the last step.
        deterministic: whether it draws noise only if an option asks for it.
        evaluations: network evaluations a step.
        published: whether it is a solver of score_sde.  On images its uniform grid then ends one step beyond eps, and
            denoising ignores ``finish``.
        correctable: whether a corrector can go before each step, which needs a solver without a history.
        corrected: whether it has a corrector that costs no extra evaluation and raises the order by one.
        weak_order: the highest weak order of its noisy form, where that is below the order of the flow.
    """

    name: str
    fill: Fill
    source: str
    sdes: tuple[type[SDE], ...] = IMAGE_SDES
    probability_flow: bool = True
    orders: tuple[int, ...] = (1,)
    finish: Finish | None = None
    deterministic: bool = False
    evaluations: int = 1
    published: bool = False
    correctable: bool = False
    corrected: bool = False
    weak_order: int | None = None

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of ``fill`` and their defaults, `Parameter.empty` where there is no default."""
        parameters = signature(self.fill).parameters.values()
        return {p.name: p.default for p in parameters if p.kind == Parameter.KEYWORD_ONLY}

    @property
    def options(self) -> dict[str, Any]:
        """The options of this solver and their defaults."""
        return {name: default for name, default in self.keywords.items() if name not in ARGUMENTS_OF_THE_RUN}

    def convergence(self, order: int | None = None, *, noisy: bool = False) -> int:
        """The order of convergence: strong on paths of the flow or, with ``noisy``, weak."""
        reached = (self.orders[0] if order is None else order) + self.corrected
        return min(reached, self.weak_order) if noisy and self.weak_order is not None else reached


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(name: str, *, aliases: tuple[str, ...] = (), **attributes: Any) -> Callable[[Fill], Fill]:
    """Register the decorated function as the solver ``name``; ``attributes`` are those of `Solver`.

    Raises:
        TypeError: an option of the function has no default, or has the former name of another.
    """

    def register(fill: Fill) -> Fill:
        for former in RENAMED.keys() & {*attributes, *signature(fill).parameters}:
            raise TypeError(f"solver {name!r}: {former!r} is now called {RENAMED[former]!r}")
        registered = Solver(name, fill, **attributes)
        for option, default in registered.options.items():
            if default is Parameter.empty:
                raise TypeError(f"solver {name!r} has the option {option!r} without a default: give its usual value")
        SOLVERS[name] = registered
        ALIASES.update(dict.fromkeys(aliases, name))
        return fill

    return register


def find_solver(name: str, sde: SDE, *, probability_flow: bool = False) -> Solver:
    """Return the solver ``name``.

    Raises:
        ValueError: the name is unknown, or the solver is not defined on ``sde`` or has no probability flow.
    """
    name = ALIASES.get(name, name)
    if name not in SOLVERS:
        raise ValueError(unknown_message("solver", name, [*SOLVERS, *ALIASES, "pc"]))
    found = SOLVERS[name]
    if not isinstance(sde, found.sdes):
        defined = ", ".join(repr(other.name) for other in found.sdes)
        raise ValueError(
            f"solver {name!r} is not defined on the SDE {sde.name!r}, only on {defined}; "
            f"on {sde.name!r} choose from: {_names(lambda other: isinstance(sde, other.sdes))}"
        )
    if probability_flow and not found.probability_flow:
        choices = _names(lambda other: other.probability_flow and isinstance(sde, other.sdes))
        raise ValueError(f"solver {name!r} has no probability-flow form; choose from: {choices}")
    return found


def build_table(sde: SDE, options: SolverOptions) -> StepTable:
    """Return the table of a run: at each time the corrector's rows, if any, then the solver's.

    Raises:
        ValueError: an option is unknown or out of range, two options exclude each other, or the steps are too few.
    """
    found = find_solver(options.predictor, sde, probability_flow=options.probability_flow)
    fill = _fill(sde, found, options)
    eps = sde.sampling_eps if options.eps is None else options.eps
    # On images the solvers of score_sde have no denoising step.
    finish = None if not options.denoise or (found.published and isinstance(sde, ScalarSDE)) else found.finish
    require_steps(options.steps, 1 if finish is None else 2)
    steps = options.steps - (finish is not None)
    # Restart needs grids that end exactly where they should.
    grid_of = partial(make_grid, options.grid, sde, published=found.published and not options.restart)
    # Steps that are too long give NaN here, which `StepTable.of` reports.
    with np.errstate(invalid="ignore", divide="ignore"):
        if options.restart:
            assert not isinstance(options.restart, str)  # `SolverOptions` has read it
            rows = with_restarts(sde, options.restart, steps, eps, grid_of, fill)
        else:
            rows = fill(grid_of(steps, eps))
    if finish is not None:
        rows.append(finish(sde, eps, eps))
    elif options.denoise:
        last = rows[-1]
        rows[-1] = replace(last, noise=0.0) if isinstance(last, Row) else replace(last, noise=ZERO)
    return StepTable.of(rows)


def _fill(sde: SDE, found: Solver, options: SolverOptions) -> Callable[[TimeGrid], list[AnyRow]]:
    """Return the function from a grid to the rows of the solver, with those of the corrector."""
    arguments, corrector = _arguments(found, options), options.paired_corrector
    if corrector == "none":
        return partial(found.fill, sde, **arguments)
    if not found.correctable:
        choices = _names(lambda other: other.correctable and isinstance(sde, other.sdes))
        raise ValueError(
            f"corrector {corrector!r} does not go with solver {found.name!r}, only with {choices}; "
            "choose corrector='none'"
        )
    if "joined" in found.keywords:
        arguments["joined"] = False
    fill = partial(found.fill, sde, **arguments)
    return with_corrector(corrector, sde, fill, steps=options.corrector_steps, snr=options.snr)


def _arguments(found: Solver, options: SolverOptions) -> dict[str, Any]:
    """Return the keyword arguments of ``found.fill``.

    Raises:
        ValueError: the solver lacks an option that is given, or the order.
    """
    of_other_solvers = {name for other in SOLVERS.values() for name in other.options} - set(found.options)
    for field in fields(options):
        given = getattr(options, field.name)
        if given != field.default and field.name in of_other_solvers:
            _require_default(found, field.name, given)
    arguments = {name: getattr(options, name, None) for name in found.keywords}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if "order" in arguments and arguments["order"] not in found.orders:
        raise ValueError(
            f"order is {options.order!r}; solver {found.name!r} has the orders {found.orders[0]} to {found.orders[-1]}"
        )
    return arguments


def _require_default(found: Solver, option: str, given: Any) -> None:
    """Raise ``ValueError`` for an option that the solver lacks; its only order is allowed."""
    if option == "order":
        if given != found.orders[0]:
            raise ValueError(f"order is {given!r}; solver {found.name!r} has order {found.orders[0]} only")
        return
    choices = _names(lambda other: option in other.options and bool({*other.sdes} & {*found.sdes}))
    choice = f", or choose {choices}" if choices else ""
    raise ValueError(f"{option} is {given!r}; solver {found.name!r} has no such option: leave it out{choice}")


def _names(condition: Callable[[Solver], bool]) -> str:
    """The names of the solvers that satisfy ``condition``."""
    return ", ".join(sorted(other.name for other in SOLVERS.values() if condition(other)))
