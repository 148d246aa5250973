# SPDX-License-Identifier: Apache-2.0
"""Solvers by name.  A solver is a function from an SDE and a time grid to the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import SDE
from scoresde_fast.solvers.table import Row

Fill = Callable[..., list[Row]]


@dataclass(frozen=True)
class Solver:
    """What is known of a solver.

    Attributes:
        name: as the user writes it.
        fill: ``fill(sde, grid, flow=...)`` -> one row a step.
        sdes: the SDEs it is defined on.
        order: order of weak convergence of its noisy form, and of convergence of its flow.
        flow: whether it has a probability-flow form.
        source: where its equations are.
    """

    name: str
    fill: Fill
    sdes: tuple[type[SDE], ...]
    order: int
    flow: bool
    source: str


SOLVERS: dict[str, Solver] = {}
ALIASES: dict[str, str] = {}


def solver(
    name: str, *, sdes: tuple[type[SDE], ...], order: int, flow: bool, source: str, aliases: tuple[str, ...] = ()
) -> Callable[[Fill], Fill]:
    """Register the decorated function as the solver ``name``."""

    def register(fill: Fill) -> Fill:
        SOLVERS[name] = Solver(name, fill, sdes, order, flow, source)
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
