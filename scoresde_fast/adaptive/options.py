# SPDX-License-Identifier: Apache-2.0
"""What the user asks of a solver that chooses its own steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from scoresde_fast.ode import Tolerances
from scoresde_fast.sdes import CLDSDE, SDE


@dataclass(frozen=True)
class Adaptive:
    """What is known of such a solver.

    Attributes:
        name: as the user writes it.
        on_pairs: whether it is defined on CLD too.
        rtol, atol: the usual tolerances; of "ggf" for images in [-1, 1].
        source: where its equations are.
    """

    name: str
    on_pairs: bool
    rtol: float
    atol: float
    source: str


ADAPTIVE = {
    "rk45": Adaptive("rk45", True, 1e-5, 1e-5, "Dormand & Prince 1980; Song et al. 2021, appendix D.4"),
    "ggf": Adaptive("ggf", False, 0.02, 2 / 256, "Jolicoeur-Martineau et al. 2021, algorithm 1"),
}
"""The solvers by name: the probability flow's, and "gotta go fast", the reverse SDE's."""


@dataclass(frozen=True)
class AdaptiveOptions:
    """How to go from noise to data.

    Attributes:
        solver: "rk45" or "ggf".
        tolerances: see `Tolerances`; of "ggf" rtol is relative to the larger of a value and the one before.
        denoise: end at E[x(0) | x(eps)], by one more evaluation; on CLD by an Euler step of length eps.
        eps: the time to stop at.
    """

    solver: str
    tolerances: Tolerances
    denoise: bool
    eps: float

    @classmethod
    def of(cls, solver: str, sde: SDE, *, denoise: bool, eps: float | None, chosen: dict[str, Any]) -> AdaptiveOptions:
        """The options for an SDE; those of `Tolerances` that are not in ``chosen`` are the solver's usual ones.

        Raises:
            ValueError: the solver is not defined on the SDE, or a number is out of its range.
        """
        found = ADAPTIVE[solver]
        if isinstance(sde, CLDSDE) and not found.on_pairs:
            raise ValueError(
                f"solver {solver!r} is not defined on the SDE {sde.name!r}; choose 'rk45', or a fixed step"
            )
        eps = sde.sampling_eps if eps is None else eps
        if not 0 < eps < sde.T:
            raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
        usual = Tolerances(found.rtol, found.atol / (2 if sde.name == "vesde" and solver == "ggf" else 1))
        tolerances = replace(usual, **chosen)
        if solver == "ggf" and tolerances.norm == "batch":
            raise ValueError("error_norm='batch' is for solver 'rk45', whose original has it; 'ggf' has 'sample' alone")
        return cls(solver, tolerances, denoise, eps)
