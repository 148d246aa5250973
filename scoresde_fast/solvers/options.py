# SPDX-License-Identifier: Apache-2.0
"""What the user asks of a solver, and whether the solver has it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scoresde_fast.solvers.registry import SOLVERS, Solver

USUAL_ORDER = 1
"""Which of a solver's orders is taken when none is named: the second."""
PREDICTOR_CORRECTOR = "pc"
"""The paper's own pair: reverse diffusion with the Langevin corrector."""

Interval = tuple[float, float, int, int]
"""(t_min, t_max, times, steps) of Restart."""


@dataclass(frozen=True)
class SolverOptions:
    """How to go from noise to data.

    Attributes:
        solver: a solver's name, or "pc": reverse diffusion with the Langevin corrector unless another is named.
        steps: steps of the solver; with ``denoise`` the last of them is the denoising, but for the solvers of
            score_sde ("pc", "euler_maruyama", "reverse_diffusion", "ancestral") on images.
        corrector: "langevin", "ald" or "none"; None leaves it to ``solver``.
        corrector_steps: corrector steps before each predictor step.
        snr: signal-to-noise ratio of the corrector.
        grid: "uniform" (for the solvers of score_sde as published), "quadratic", "sqrt", "karras" or "logsnr".
        flow: solve the probability-flow ODE instead of the reverse SDE.
        denoise: end without noise: at E[x(0) | x(eps)], or as published: score_sde's solvers leave out the noise of the
            last step, on CLD an Euler step goes from eps to the data ("gddim" takes the expectation).
        eps: the time to stop at; None takes the SDE's own (1e-3 VP, sub-VP and CLD, 1e-5 VE).
        order: of a solver that has several ("gddim": 1 to 4); None takes its usual one.
        parity: do what the original program does where that departs from the paper ("sscs" with a changing beta).
        eta: the noise of "ddim", "sa", "dpmpp_2m_sde" and "gddim", as a share of the reverse SDE's: 0 is the flow;
            "gddim" has 0 and 1 alone; None takes the solver's usual share, 0 or 1.
        churn: of "heun": the noise grows by this share over the steps together before they take it away again.
        restart: intervals (t_min, t_max, times, steps): at t_min go forward to t_max with noise, and back in so many
            steps, so many times (Xu et al. 2023).
    """

    solver: str = PREDICTOR_CORRECTOR
    steps: int = 1000
    corrector: str | None = None
    corrector_steps: int = 1
    snr: float = 0.16
    grid: str = "uniform"
    flow: bool = False
    denoise: bool = True
    eps: float | None = None
    order: int | None = None
    parity: bool = False
    eta: float | None = None
    churn: float | None = None
    restart: tuple[Interval, ...] | None = None


def arguments(found: Solver, options: SolverOptions) -> dict[str, Any]:
    """What the solver's ``fill`` takes beside the SDE and the grid.

    Raises:
        ValueError: an option that the solver does not have, or a value that it cannot take.
    """
    chosen: dict[str, Any] = {"flow": options.flow}
    if len(found.orders) > 1:
        chosen["order"] = found.orders[USUAL_ORDER] if options.order is None else options.order
        if chosen["order"] not in found.orders:
            raise ValueError(
                f"order is {options.order!r}; solver {found.name!r} has the orders "
                f"{found.orders[0]} to {found.orders[-1]}"
            )
    elif options.order not in (None, found.orders[0]):
        raise ValueError(f"order is {options.order!r}; solver {found.name!r} has order {found.orders[0]} alone")
    if found.parity:
        chosen["parity"] = options.parity
    elif options.parity:
        raise ValueError(f"parity has no meaning for solver {found.name!r}, which does as the original; leave it out")
    if found.eta is not None:
        chosen["eta"] = _noise("eta", options.eta, found.eta, options.flow)
    elif options.eta is not None:
        raise ValueError(_lacking(found, "eta", options.eta, [o for o in SOLVERS.values() if o.eta is not None]))
    if found.churn:
        chosen["churn"] = _noise("churn", options.churn, 0.0, options.flow) / options.steps
    elif options.churn is not None:
        raise ValueError(_lacking(found, "churn", options.churn, [o for o in SOLVERS.values() if o.churn]))
    return chosen


def _lacking(found: Solver, name: str, asked: float, having: list[Solver]) -> str:
    fitting = sorted(other.name for other in having if set(other.sdes) & set(found.sdes))
    choice = f", or choose {', '.join(fitting)}" if fitting else ""
    return f"{name} is {asked!r}; solver {found.name!r} has none: leave it out{choice}"


def _noise(name: str, asked: float | None, usual: float, flow: bool) -> float:
    """The amount of noise that is taken."""
    if asked is None:
        return 0.0 if flow else usual
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not (asked >= 0 and math.isfinite(asked)):
        raise ValueError(f"{name} is {asked!r}; it must be a finite number of at least 0")
    if flow and asked:
        raise ValueError(f"{name} is {asked!r}, but flow=True draws no noise: leave out one of them")
    return float(asked)
