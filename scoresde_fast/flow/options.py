# SPDX-License-Identifier: Apache-2.0
"""Options of adaptive solvers, of the probability flow and of divergence estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from scoresde_fast.errors import unknown_message
from scoresde_fast.run_options import require_types
from scoresde_fast.sdes import CLDSDE, SDE, VESDE
from scoresde_fast.solvers.options import Norm, require_norm


class AdaptiveSolver(NamedTuple):
    """Properties of an adaptive solver.

    Attributes:
        probability_flow: whether it solves the probability flow rather than the reverse SDE.
        on_cld: whether it is defined on CLD.
        batch_norm: whether it supports error_norm="batch".
        rtol, atol: default tolerances.
        ve_atol: default absolute tolerance on VE, whose images are in [0, 1] rather than [-1, 1].
    """

    probability_flow: bool
    on_cld: bool
    batch_norm: bool
    rtol: float
    atol: float
    ve_atol: float


ADAPTIVE = {
    # Dormand & Prince 1980.
    "rk45": AdaptiveSolver(probability_flow=True, on_cld=True, batch_norm=True, rtol=1e-5, atol=1e-5, ve_atol=1e-5),
    # Jolicoeur-Martineau et al. 2021, algorithm 1; its absolute tolerance is one 8-bit step.
    "ggf": AdaptiveSolver(
        probability_flow=False, on_cld=False, batch_norm=False, rtol=0.02, atol=2 / 256, ve_atol=1 / 256
    ),
}
"""Adaptive solvers by name; `scoresde_fast.flow.adaptive.MAKERS` has their implementations."""


@dataclass(frozen=True)
class AdaptiveOptions:
    """Options of sampling with an adaptive solver.

    Attributes:
        solver: rk45 (the probability flow) or ggf (the reverse SDE; not on CLD).
        rtol: Relative error tolerance per step; by default 1e-5 for rk45 and 0.02 for ggf.
        atol: Absolute error tolerance per step; by default 1e-5 for rk45 and one 8-bit step for ggf.
        error_norm: Error norm of rk45: "sample" for each sample; "batch" for the whole batch, as in the official code,
            which makes a sample depend on its batch.
        denoise: End at E[x(0) | x(eps)], with one more evaluation; on CLD with an Euler step of length eps.
        eps: Final time; by default that of the SDE.
    """

    solver: str = "rk45"
    rtol: float | None = None
    atol: float | None = None
    error_norm: Norm = "sample"
    denoise: bool = True
    eps: float | None = None

    def __post_init__(self) -> None:
        require_types(self)

    def on(self, sde: SDE) -> AdaptiveOptions:
        """Return these options with the defaults of the solver and the SDE filled in.

        Raises:
            ValueError: the solver is unknown, is not defined on the SDE or does not support an option, or an option is
                out of range.
        """
        if self.solver not in ADAPTIVE:
            raise ValueError(unknown_message("adaptive solver", self.solver, ADAPTIVE))
        solver = ADAPTIVE[self.solver]
        if isinstance(sde, CLDSDE) and not solver.on_cld:
            others = ", ".join(repr(name) for name, other in ADAPTIVE.items() if other.on_cld)
            raise ValueError(
                f"solver {self.solver!r} is not defined on the SDE {sde.name!r}; choose {others} or a fixed-step solver"
            )
        eps = sde.sampling_eps if self.eps is None else self.eps
        if not 0 < eps < sde.T:
            raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
        require_norm("error_norm", self.error_norm)
        if self.error_norm == "batch" and not solver.batch_norm:
            others = " or ".join(repr(name) for name, other in ADAPTIVE.items() if other.batch_norm)
            raise ValueError(f"solver {self.solver!r} supports only error_norm='sample'; 'batch' needs solver {others}")
        atol = solver.ve_atol if isinstance(sde, VESDE) else solver.atol
        return replace(
            self,
            rtol=solver.rtol if self.rtol is None else self.rtol,
            atol=atol if self.atol is None else self.atol,
            eps=eps,
        )


@dataclass(frozen=True)
class FlowOptions:
    """Options of integrating the probability flow between data and prior.

    Attributes:
        rtol: Relative error tolerance per step of RK45; by default 1e-5 for likelihoods and 1e-6 for codes.
        atol: Absolute error tolerance per step; by default 1e-5 for likelihoods and 1e-6 for codes.
        error_norm: Error norm: "sample" for each sample; "batch" for the whole batch, as in the official code.
        steps: Number of fixed steps, of six evaluations each; they replace steps chosen by tolerances.
        grid: Spacing of fixed steps: uniform, quadratic, sqrt, karras, logsnr (the default), beta, kl_optimal, ays or
            ays_sdxl; see the grids of sampling.
        eps: Time at the data. The default is 1e-5 on the SDEs of the papers, and elsewhere that at which sampling
            stops.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    error_norm: Norm = "sample"
    steps: int | None = None
    grid: str = "logsnr"
    eps: float | None = None

    def __post_init__(self) -> None:
        require_types(self)


ProbeKind = Literal["rademacher", "normal", "exact"]


@dataclass(frozen=True)
class Probes:
    """The method of computing the divergence.

    Args:
        kind: "rademacher" or "normal": Hutchinson's estimate with probes of that distribution; "exact": the exact
            trace, from one directional derivative per image element.
        count: number of probes per sample.
        draw: the draw of the first probe, see `scoresde_fast.rng`.

    Raises:
        ValueError: the kind is unknown, ``count`` is not an integer of at least 1, or it is above 1 for "exact".
    """

    kind: ProbeKind = "rademacher"
    count: int = 1
    draw: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(ProbeKind):
            raise ValueError(unknown_message("kind of probe", self.kind, get_args(ProbeKind)))
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"the number of probes is {self.count!r}; it must be an integer of at least 1")
        if self.kind == "exact" and self.count > 1:
            raise ValueError(f"the number of probes is {self.count}, but the exact trace uses none; leave it out")
