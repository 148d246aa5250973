# SPDX-License-Identifier: Apache-2.0
"""What the user asks of a solver, and whether the solver has it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from scoresde_fast.errors import unknown
from scoresde_fast.solvers.registry import SOLVERS, Solver

PREDICTOR_CORRECTOR = "pc"
"""The paper's own pair: reverse diffusion with the Langevin corrector."""

Interval = tuple[float, float, int, int]
"""(t_min, t_max, times, steps) of Restart."""
Norm = Literal["sample", "batch"]
"""Over what a norm is taken."""


@dataclass(frozen=True)
class SolverOptions:
    """How a solver of fixed steps goes from noise to data.

    Attributes:
        solver: "pc" (reverse diffusion with the Langevin corrector), or a solver's name. Of Song et al. (2021):
            euler_maruyama, reverse_diffusion, ancestral. For few steps: ddim, deis, ipndm, dpmpp_2m, dpmpp_3m,
            dpmpp_2m_sde, dpmpp_2s, dpmpp_3s, unipc, sa, heun. On CLD: sscs, euler_maruyama, gddim. With steps as long
            as tolerances allow: rk45 (the probability flow) and ggf (the reverse SDE; not on CLD).
        steps: Steps of the solver.
        corrector: What corrects before each step: langevin, ald (annealed; the only one on CLD) or none. Of "pc"
            langevin unless another is named, of other solvers none.
        corrector_steps: Corrector steps before each step.
        snr: Signal-to-noise ratio of the corrector.
        grid: How the times are spaced: uniform (as published), quadratic, sqrt, karras or logsnr.
        probability_flow: Solve the probability-flow ODE instead of the reverse SDE: no noise after the prior.
        denoise: End without noise. The solvers of Song et al. leave out the noise of the last step; the others, and all
            on CLD, use the last step to go from eps to the data.
        eps: The time to stop at; of the SDE 1e-5 on VE and 1e-3 on the others.
        order: Order of the solver, where it has several: unipc and sa 1 to 3, deis and ipndm 2 to 4, gddim 1 to 4.
        original: Do what the original program does where it departs from the paper: sscs with a changing beta.
        eta: Noise of ddim, sa, dpmpp_2m_sde and gddim, as a share of the reverse SDE's; 0 is the probability flow, and
            gddim has 0 and 1 only.
        churn: Noise that heun adds, and takes away again, over all steps together.
        restart: Intervals (t_min, t_max, times, steps), or text like 0.1:0.3:2:5, several with commas between: on
            reaching t_min, go back to t_max with noise and return in ``steps`` steps; do this ``times`` times (Xu et
            al. 2023).
        langevin_norm: Langevin's step size from the norms of each sample, or from their mean over the batch, as
            published, which makes a sample depend on its batch.

    Raises:
        ValueError: a value is out of its range, or two exclude each other.
    """

    solver: str = PREDICTOR_CORRECTOR
    steps: int = 1000
    corrector: str | None = None
    corrector_steps: int = 1
    snr: float = 0.16
    grid: str = "uniform"
    probability_flow: bool = False
    denoise: bool = True
    eps: float | None = None
    order: int | None = None
    original: bool = False
    eta: float | None = None
    churn: float | None = None
    restart: str | tuple[Interval, ...] | None = None
    langevin_norm: Norm = "sample"

    def __post_init__(self) -> None:
        for name in ("eta", "churn"):
            self._require_noise(name, getattr(self, name))
        require_norm("langevin_norm", self.langevin_norm)
        object.__setattr__(self, "restart", _intervals(self.restart))

    @property
    def predictor(self) -> str:
        """The name of the solver itself: "pc" is a pair."""
        return "reverse_diffusion" if self.solver == PREDICTOR_CORRECTOR else self.solver

    @property
    def paired_corrector(self) -> str:
        """The corrector's name, or "none"."""
        return self.corrector or ("langevin" if self.solver == PREDICTOR_CORRECTOR else "none")

    def _require_noise(self, name: str, amount: Any) -> None:
        if amount is None:
            return
        if isinstance(amount, bool) or not isinstance(amount, (int, float)) or not 0 <= amount < math.inf:
            raise ValueError(f"{name} is {amount!r}; it must be a finite number of at least 0")
        if self.probability_flow and amount:
            raise ValueError(f"{name} is {amount!r}, but probability_flow=True draws no noise: leave out one of them")


def require_norm(name: str, norm: str) -> None:
    """Raises ``ValueError`` unless it is a `Norm`."""
    if norm not in get_args(Norm):
        raise ValueError(unknown(name, norm, get_args(Norm)))


def arguments(found: Solver, options: SolverOptions) -> dict[str, Any]:
    """The keyword arguments of the solver's ``fill``.

    Raises:
        ValueError: an option that the solver does not have, or an order that it does not have.
    """
    of_some_solver = {name for other in SOLVERS.values() for name in other.options}
    for field in fields(options):
        asked = getattr(options, field.name)
        if field.name in of_some_solver - set(found.options) and asked != field.default:
            _require_usual(found, field.name, asked)
    given = {name: getattr(options, name, None) for name in found.keywords}
    chosen = {name: value for name, value in given.items() if value is not None}
    if "order" in chosen and chosen["order"] not in found.orders:
        raise ValueError(
            f"order is {options.order!r}; solver {found.name!r} has the orders {found.orders[0]} to {found.orders[-1]}"
        )
    return chosen


def _require_usual(found: Solver, name: str, asked: Any) -> None:
    """Raises ``ValueError`` where a value is asked of a solver that lacks the option."""
    if name == "order":
        if asked != found.orders[0]:
            raise ValueError(f"order is {asked!r}; solver {found.name!r} has order {found.orders[0]} alone")
        return
    fitting = sorted(
        other.name for other in SOLVERS.values() if name in other.options and set(other.sdes) & set(found.sdes)
    )
    choice = f", or choose {', '.join(fitting)}" if fitting else ""
    raise ValueError(f"{name} is {asked!r}; solver {found.name!r} has none: leave it out{choice}")


def _intervals(restart: Any) -> Any:
    """Restart's intervals as tuples, from text or any sequences; `restart.require_intervals` looks at the numbers."""
    if not isinstance(restart, str):
        return None if restart is None else tuple(tuple(i) if isinstance(i, list) else i for i in restart)
    intervals = []
    for part in restart.split(","):
        try:
            low, high, times, steps = part.split(":")
            intervals.append((float(low), float(high), int(times), int(steps)))
        except ValueError:
            raise ValueError(
                f"restart {part!r} cannot be read; it is T_MIN:T_MAX:TIMES:STEPS, as in 0.1:0.3:2:5"
            ) from None
    return tuple(intervals)
