# SPDX-License-Identifier: Apache-2.0
"""What the user asks of the flow: for samples by a solver that chooses its own steps, for codes and for likelihoods."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from scoresde_fast.errors import unknown
from scoresde_fast.sdes import CLDSDE, SDE
from scoresde_fast.solvers.options import Norm, require_norm


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
    """How a solver that chooses its own steps goes from noise to data.

    Attributes:
        solver: rk45 (the probability flow) or ggf (the reverse SDE; not on CLD).
        rtol: Relative error allowed in a step of rk45 (usually 1e-5) and ggf (0.02).
        atol: Absolute error allowed in a step of rk45 (usually 1e-5) and ggf (one level of 8 bits).
        error_norm: Steps of rk45 by each sample's own error, or by that of its whole batch, as the original does, which
            makes a sample depend on its batch.
        denoise: End at E[x(0) | x(eps)], by one more evaluation; on CLD by an Euler step of length eps.
        eps: The time to stop at; else the SDE's own.
    """

    solver: str = "rk45"
    rtol: float | None = None
    atol: float | None = None
    error_norm: Norm = "sample"
    denoise: bool = True
    eps: float | None = None

    def on(self, sde: SDE) -> AdaptiveOptions:
        """These options on an SDE, with a number wherever one was left open.

        Raises:
            ValueError: the solver is not defined on the SDE, or an option is not the solver's or out of its range.
        """
        found = ADAPTIVE[self.solver]
        if isinstance(sde, CLDSDE) and not found.on_pairs:
            raise ValueError(
                f"solver {found.name!r} is not defined on the SDE {sde.name!r}; choose 'rk45', or a fixed step"
            )
        eps = sde.sampling_eps if self.eps is None else self.eps
        if not 0 < eps < sde.T:
            raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
        require_norm("error_norm", self.error_norm)
        if self.solver == "ggf" and self.error_norm == "batch":
            raise ValueError("error_norm='batch' is for solver 'rk45', whose original has it; 'ggf' has 'sample' alone")
        # VE's images are in [0, 1], where a level is half as large.
        level = found.atol / (2 if sde.name == "vesde" and self.solver == "ggf" else 1)
        rtol, atol = found.rtol if self.rtol is None else self.rtol, level if self.atol is None else self.atol
        return replace(self, rtol=rtol, atol=atol, eps=eps)


@dataclass(frozen=True)
class FlowOptions:
    """How the probability flow is solved between data and prior.

    Attributes:
        rtol: Relative error allowed in a step of RK45; usually 1e-5 for likelihoods and 1e-6 for codes.
        atol: Absolute error allowed in a step; usually the same.
        error_norm: Steps by each sample's own error, or by that of its whole batch, as the original does.
        steps: So many fixed steps, of six evaluations each, in place of tolerances.
        grid: How fixed steps are spaced: uniform, quadratic, sqrt, karras or logsnr, which is usual.
        eps: The data's time, usually 1e-5.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    error_norm: Norm = "sample"
    steps: int | None = None
    grid: str = "logsnr"
    eps: float = 1e-5


ProbeKind = Literal["rademacher", "normal", "exact"]


@dataclass(frozen=True)
class Probes:
    """How the divergence is found.

    Args:
        kind: "rademacher" or "normal": Hutchinson's estimate by fields of such numbers; "exact": the trace itself, by
            as many tangents as an image has elements.
        count: fields a sample.
        draw: the number of the first field in the run, see `scoresde_fast.rng`.

    Raises:
        ValueError: the kind is unknown, ``count`` is below 1, or there is more than one exact trace.
    """

    kind: ProbeKind = "rademacher"
    count: int = 1
    draw: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(ProbeKind):
            raise ValueError(unknown("kind of probe", self.kind, get_args(ProbeKind)))
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"the number of probes is {self.count!r}; it must be a whole number of at least 1")
        if self.kind == "exact" and self.count > 1:
            raise ValueError(f"{self.count} probes: the exact trace needs none; leave the number out")
