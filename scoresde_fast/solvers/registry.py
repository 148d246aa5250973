# SPDX-License-Identifier: Apache-2.0
"""Solvers by name.  A solver is a function from an SDE and a time grid to the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.table import AnyRow

Fill = Callable[..., list[AnyRow]]
Finish = Callable[..., AnyRow]


@dataclass(frozen=True)
class Solver:
    """What is known of a solver.

    Attributes:
        name: as the user writes it.
        fill: ``fill(sde, grid, flow=...)`` -> the rows of its steps; ``order=``, ``parity=``, ``eta=`` and ``churn=``
            too, where it has them.
        sdes: the SDEs it is defined on.
        flow: whether it has a probability-flow form.
        source: where its equations are.
        orders: its orders, of weak convergence of its noisy form and of convergence of its flow; more than one: the
            user may choose.
        finish: ``finish(sde, t, dt)``: the row that ends a run at t without noise; None: the noise of the last step is
            left out instead.
        deterministic: it draws no noise unless ``eta`` or ``churn`` asks for it.
        parity: whether it can reproduce what the original program does otherwise.
        evaluations: network evaluations a step.
        published: on images it is as in score_sde: its uniform grid ends beyond eps, and the noise of its last step is
            left out.
        correctable: a corrector may go before each step, which takes nothing from the steps before it.
        joins: the end of a step and the beginning of the next are one row, unless ``fill`` has ``joined=False``.
        corrected: a corrector at no cost makes it converge one order faster than the order by which it is named.
        weak_order: the most that the order of a noisy form can be, where that is less than the flow's.
        eta: the usual noise, as a share of that of the reverse SDE, of a solver whose user may choose it.
        churn: whether noise may be added before its steps.
    """

    name: str
    fill: Fill
    sdes: tuple[type[SDE], ...]
    flow: bool
    source: str
    orders: tuple[int, ...] = (1,)
    finish: Finish | None = None
    deterministic: bool = False
    parity: bool = False
    evaluations: int = 1
    published: bool = False
    correctable: bool = False
    joins: bool = False
    corrected: bool = False
    weak_order: int | None = None
    eta: float | None = None
    churn: bool = False

    def convergence(self, order: int | None = None, *, noisy: bool = False) -> int:
        """The power of the step size with which the error falls: with ``noisy`` that of the moments, else of a path."""
        reached = (self.orders[0] if order is None else order) + self.corrected
        return min(reached, self.weak_order) if noisy and self.weak_order is not None else reached


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(name: str, *, aliases: tuple[str, ...] = (), **known: Any) -> Callable[[Fill], Fill]:
    """Register the decorated function, `Solver.fill`, as the solver ``name``; ``known`` are `Solver`'s attributes."""

    def register(fill: Fill) -> Fill:
        SOLVERS[name] = Solver(name, fill, **known)
        ALIASES.update(dict.fromkeys(aliases, name))
        return fill

    return register


def find_solver(name: str, sde: SDE, *, flow: bool = False) -> Solver:
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
    if flow and not found.flow:
        having = [other.name for other in SOLVERS.values() if other.flow and isinstance(sde, other.sdes)]
        raise ValueError(f"solver {name!r} has no probability-flow form; choose from: {', '.join(sorted(having))}")
    return found


def _names(sdes: tuple[type[SDE], ...]) -> str:
    return ", ".join(repr(sde.name) for sde in sdes)
