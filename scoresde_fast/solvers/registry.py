# SPDX-License-Identifier: Apache-2.0
"""Solvers by name.  A solver is a function from an SDE and a time grid to the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.table import AnyRow, PairRow

Fill = Callable[..., list[AnyRow]]
Finish = Callable[..., PairRow]


@dataclass(frozen=True)
class Solver:
    """What is known of a solver.

    Attributes:
        name: as the user writes it.
        fill: ``fill(sde, grid, flow=...)`` -> the rows of its steps; ``order=`` and ``parity=`` too, where it has them.
        sdes: the SDEs it is defined on.
        orders: its orders, of weak convergence of its noisy form and of convergence of its flow; more than one: the
            user may choose.
        flow: whether it has a probability-flow form.
        source: where its equations are.
        finish: on pairs, ``finish(sde, t, dt)``: the row that ends a run at t without noise.
        deterministic: it has no noisy form.
        parity: whether it can reproduce what the original program does otherwise.
    """

    name: str
    fill: Fill
    sdes: tuple[type[SDE], ...]
    orders: tuple[int, ...]
    flow: bool
    source: str
    finish: Finish | None = None
    deterministic: bool = False
    parity: bool = False


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(
    name: str,
    *,
    sdes: tuple[type[SDE], ...],
    flow: bool,
    source: str,
    orders: tuple[int, ...] = (1,),
    aliases: tuple[str, ...] = (),
    finish: Finish | None = None,
    deterministic: bool = False,
    parity: bool = False,
) -> Callable[[Fill], Fill]:
    """Register the decorated function as the solver ``name``; the arguments are `Solver`'s."""

    def register(fill: Fill) -> Fill:
        SOLVERS[name] = Solver(name, fill, sdes, orders, flow, source, finish, deterministic, parity)
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
