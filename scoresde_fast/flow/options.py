# SPDX-License-Identifier: Apache-2.0
"""Options of adaptive solvers, of the probability flow and of divergence estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from scoresde_fast.errors import unknown_message
from scoresde_fast.sdes import CLDSDE, SDE
from scoresde_fast.solvers.options import Norm, require_norm


class AdaptiveSolver(NamedTuple):
    """What an adaptive solver is defined on, and its default tolerances; those of "ggf" are for images in [-1, 1]."""

    on_cld: bool
    rtol: float
    atol: float


ADAPTIVE = {
    "rk45": AdaptiveSolver(True, 1e-5, 1e-5),  # the probability flow; Dormand & Prince 1980
    "ggf": AdaptiveSolver(False, 0.02, 2 / 256),  # the reverse SDE; Jolicoeur-Martineau et al. 2021, algorithm 1
}


@dataclass(frozen=True)
class AdaptiveOptions:
    """How an adaptive solver goes from noise to data.

    Attributes:
        solver: rk45 (the probability flow) or ggf (the reverse SDE; not on CLD).
        rtol: Relative error allowed in a step of rk45 (default 1e-5) and ggf (0.02).
        atol: Absolute error allowed in a step of rk45 (default 1e-5) and ggf (one step of 8-bit pixel values).
        error_norm: Error norm of rk45: each sample's own, or that of its whole batch as in the original, which
            makes a sample depend on its batch.
        denoise: End at E[x(0) | x(eps)], by one more evaluation; on CLD by an Euler step of length eps.
        eps: The time to stop at; by default the SDE's own.
    """

    solver: str = "rk45"
    rtol: float | None = None
    atol: float | None = None
    error_norm: Norm = "sample"
    denoise: bool = True
    eps: float | None = None

    def on(self, sde: SDE) -> AdaptiveOptions:
        """Return these options with the defaults of the solver and the SDE filled in.

        Raises:
            ValueError: the solver is not defined on the SDE, it lacks an option, or an option is out of range.
        """
        solver = ADAPTIVE[self.solver]
        if isinstance(sde, CLDSDE) and not solver.on_cld:
            raise ValueError(
                f"solver {self.solver!r} is not defined on the SDE {sde.name!r}; choose 'rk45' or a fixed-step solver"
            )
        eps = sde.sampling_eps if self.eps is None else self.eps
        if not 0 < eps < sde.T:
            raise ValueError(f"eps is {eps!r}; it must be greater than 0 and smaller than {sde.T:g}")
        require_norm("error_norm", self.error_norm)
        if self.solver == "ggf" and self.error_norm == "batch":
            raise ValueError("error_norm='batch' is an option of solver 'rk45'; 'ggf' has only error_norm='sample'")
        # VE's images are in [0, 1], a range half as long.
        atol = solver.atol / 2 if self.solver == "ggf" and sde.name == "vesde" else solver.atol
        return replace(
            self,
            rtol=solver.rtol if self.rtol is None else self.rtol,
            atol=atol if self.atol is None else self.atol,
            eps=eps,
        )


@dataclass(frozen=True)
class FlowOptions:
    """How the probability flow is integrated between data and prior.

    Attributes:
        rtol: Relative error allowed in a step of RK45; by default 1e-5 for likelihoods and 1e-6 for codes.
        atol: Absolute error allowed in a step; by default the same.
        error_norm: Error norm: each sample's own, or that of its whole batch, as in the original.
        steps: Number of fixed steps, of six evaluations each, to take instead of steps by tolerances.
        grid: Spacing of fixed steps: uniform, quadratic, sqrt, karras or logsnr (the default).
        eps: The time of the data, by default 1e-5.
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
    """How the divergence is computed.

    Args:
        kind: "rademacher" or "normal": Hutchinson's estimate with probe fields of such numbers; "exact": the trace
            itself, from one tangent for each element of an image.
        count: probe fields for each sample.
        draw: the draw of the first probe, see `scoresde_fast.rng`.

    Raises:
        ValueError: the kind is unknown, ``count`` is below 1, or "exact" is given a count.
    """

    kind: ProbeKind = "rademacher"
    count: int = 1
    draw: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(ProbeKind):
            raise ValueError(unknown_message("kind of probe", self.kind, get_args(ProbeKind)))
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError(f"the number of probes is {self.count!r}; it must be a whole number of at least 1")
        if self.kind == "exact" and self.count > 1:
            raise ValueError(f"the number of probes is {self.count}, but the exact trace needs none; leave it out")
