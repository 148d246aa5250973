# SPDX-License-Identifier: Apache-2.0
"""Solvers by name.  A solver is a function from an SDE and a time grid to the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any

from scoresde_fast.errors import RENAMED, unknown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.table import AnyRow

Fill = Callable[..., list[AnyRow]]
Finish = Callable[..., AnyRow]
OF_EVERY_RUN = frozenset({"probability_flow", "steps", "joined"})
"""Keyword arguments of a ``fill`` that are no options of its own."""


@dataclass(frozen=True)
class Solver:
    """What is known of a solver.

    Attributes:
        name: as the user writes it.
        fill: ``fill(sde, grid, *, probability_flow)`` -> the rows of its steps.  Its other keyword arguments are the
            fields of `SolverOptions` that it has, with its usual values as defaults: ``order=3``, ``eta=0.0``.  It may
            also take ``steps``, those of the whole run, and ``joined=True``: with False the end of a step and the
            beginning of the next are rows of their own, between which a corrector can go.
        sdes: the SDEs it is defined on.
        probability_flow: whether it has a probability-flow form.
        source: where its equations are.
        orders: its orders, of weak convergence of its noisy form and of convergence of its flow; more than one: the
            user may choose.
        finish: ``finish(sde, t, dt)``: the row that ends a run at t without noise; None: the noise of the last step is
            left out instead.
        deterministic: it draws no noise unless an option asks for it.
        evaluations: network evaluations a step.
        published: on images it is as in score_sde: its uniform grid ends beyond eps, and the noise of its last step is
            left out.
        correctable: a corrector may go before each step, which takes nothing from the steps before it.
        corrected: a corrector at no cost makes it converge one order faster than the order by which it is named.
        weak_order: the most that the order of a noisy form can be, where that is less than the flow's.
    """

    name: str
    fill: Fill
    sdes: tuple[type[SDE], ...]
    probability_flow: bool
    source: str
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
        """The keyword arguments of ``fill`` with their defaults, `Parameter.empty` for those without a default."""
        parameters = signature(self.fill).parameters.values()
        return {p.name: p.default for p in parameters if p.kind == Parameter.KEYWORD_ONLY}

    @property
    def options(self) -> dict[str, Any]:
        """The options that it has besides those of every run, with its usual values."""
        return {name: usual for name, usual in self.keywords.items() if name not in OF_EVERY_RUN}

    def convergence(self, order: int | None = None, *, noisy: bool = False) -> int:
        """The power of the step size with which the error falls: with ``noisy`` that of the moments, else of a path."""
        reached = (self.orders[0] if order is None else order) + self.corrected
        return min(reached, self.weak_order) if noisy and self.weak_order is not None else reached


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(name: str, *, aliases: tuple[str, ...] = (), **known: Any) -> Callable[[Fill], Fill]:
    """Register the decorated function, `Solver.fill`, as the solver ``name``; ``known`` are `Solver`'s attributes.

    Raises:
        TypeError: an option of the function has no default, or the former name of another.
    """

    def register(fill: Fill) -> Fill:
        for former in RENAMED.keys() & {*known, *signature(fill).parameters}:
            raise TypeError(f"solver {name!r}: {former!r} is now called {RENAMED[former]!r}")
        registered = Solver(name, fill, **known)
        for option, usual in registered.options.items():
            if usual is Parameter.empty:
                raise TypeError(f"solver {name!r} has the option {option!r} without a default: give its usual value")
        SOLVERS[name] = registered
        ALIASES.update(dict.fromkeys(aliases, name))
        return fill

    return register


def find_solver(name: str, sde: SDE, *, probability_flow: bool = False) -> Solver:
    """The solver ``name``, checked to fit.

    Raises:
        ValueError: the name is unknown, the solver is not defined on ``sde``, or has no probability flow.
    """
    name = ALIASES.get(name, name)
    if name not in SOLVERS:
        raise ValueError(unknown("solver", name, [*SOLVERS, *ALIASES, "pc"]))
    found = SOLVERS[name]
    if not isinstance(sde, found.sdes):
        fitting = [other.name for other in SOLVERS.values() if isinstance(sde, other.sdes)]
        raise ValueError(
            f"solver {name!r} is not defined on the SDE {sde.name!r}, only on {_names(found.sdes)}; "
            f"on {sde.name!r} choose from: {', '.join(sorted(fitting))}"
        )
    if probability_flow and not found.probability_flow:
        having = [other.name for other in SOLVERS.values() if other.probability_flow and isinstance(sde, other.sdes)]
        raise ValueError(f"solver {name!r} has no probability-flow form; choose from: {', '.join(sorted(having))}")
    return found


def _names(sdes: tuple[type[SDE], ...]) -> str:
    return ", ".join(repr(sde.name) for sde in sdes)
