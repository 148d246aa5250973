# SPDX-License-Identifier: Apache-2.0
"""The contenders that choose their own steps: for each a few tolerances in the place of budgets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from statistics import fmean

from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.bench.solvers.contender import Case, Drawn, Ready, Rules, Telling, warm_up
from scoresde_fast.flow.options import ADAPTIVE
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler

TOLERANCES = {
    "rk45": {1e-1: 27, 3e-2: 32, 1e-2: 49, 1e-3: 65, 1e-4: 110, 1e-5: 350},
    "ggf": {0.2: 30, 0.1: 50, 0.05: 80, 0.02: 150},
}
"""By solver: relative ones, and about how many evaluations of digits-vp a sample takes, for the plan of time.  The
absolute tolerance of "rk45" is the same, that of "ggf" its usual one."""
MANY = 100
"""Evaluations that few ask for: such lines come last."""


@dataclass(frozen=True, eq=False)
class Adaptive:
    """A solver at one tolerance; see `Contender`."""

    model: ScoreFunction
    rules: Rules
    case: Case
    telling: Telling
    expected: float

    def ready(self) -> Ready:
        sampler = cache(partial(self._sampler, denoise=True))
        known = repr((__version__, asdict(sampler().options)))

        def draw(seeds: Sequence[int]) -> Drawn:
            return Drawn(sampler().sample(seeds), fmean(sampler().evaluations(seeds)))

        return Ready(
            self.expected,
            None,
            hashlib.sha256(known.encode()).hexdigest(),
            draw=draw,
            warm_up=lambda: warm_up(sampler()),
            flow_end=self._flow_end if self.case.flow else None,
        )

    def _sampler(self, *, denoise: bool) -> Sampler:
        rules, case = self.rules, self.case
        return Sampler(
            self.model,
            case.solver,
            rtol=case.tolerance,
            **case.options,
            denoise=denoise,
            device=rules.device,
            precision=rules.precision,
            batch_size=rules.batch_size,
        )

    def _flow_end(self, seeds: Sequence[int]) -> Tensor:
        return self._sampler(denoise=False).sample(seeds)


def adaptive(model: ScoreFunction, rules: Rules) -> Iterator[Adaptive]:
    """The adaptive solvers that are defined on the model's SDE, or those that are wanted.

    Raises:
        ValueError: one that is wanted is not defined on the SDE.
    """
    for name, solver in ADAPTIVE.items():
        defined = solver.on_cld or model.sde.parts == 1
        if name in rules.solvers and not defined:
            raise ValueError(f"solver {name!r} is not defined on the SDE {model.sde.name!r}; leave it out")
        if not defined or (rules.solvers and name not in rules.solvers):
            continue
        flow = name == "rk45"
        for tolerance, expected in TOLERANCES[name].items():
            case = Case(name, name, flow, tolerance=tolerance, options={"atol": tolerance} if flow else {})
            telling = Telling.USUAL if expected <= MANY else Telling.OTHER_BOTH
            yield Adaptive(model, rules, case, telling, expected)
