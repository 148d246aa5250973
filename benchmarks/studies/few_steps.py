# SPDX-License-Identifier: Apache-2.0
"""Errors of deterministic solvers with few evaluations: python -m benchmarks.studies.few_steps [--only NAME ...]

Each solver of this package and each one of diffusers and k-diffusion, in each of its forms and on each grid, solves the
probability flow from T to eps with 8, 10, 15, 20 and 50 evaluations.  The error is the root mean square distance from
the converged flow with the same start.  The models are Gaussian mixtures with the exact score, broad and sharp, five of
each, and the embedded models.  The result is saved after each model; finished models are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.candidates import ComparisonOptions
from scoresde_fast.bench.measures import ConvergedFlow
from scoresde_fast.bench.peers.cases import PeerCase, PlannedRun, peer_cases
from scoresde_fast.bench.peers.predictions import ModelPredictions
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import EDM, SDE, VESDE, VPSDE, Betas, RectifiedFlow, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, Row, Solver, SolverOptions, StepTable, build_table, grids_of

STEPS = (8, 10, 15, 20, 50)
SDE_OF: dict[str, SDE] = {
    "ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "edm": EDM(), "betas": Betas.linear(), "flow": RectifiedFlow(),
}  # fmt: skip
STDS = {"broad": (0.2, 0.5), "sharp": (0.03, 0.06)}
"""Range of the standard deviations of the mixtures' components."""
SEEDS = range(5)
MODELS = [
    *[f"{sde}-{kind}-{seed}" for sde in SDE_OF for kind in STDS for seed in SEEDS],
    "digits-ve", "digits-vp", "digits-subvp",
]  # fmt: skip
COMPONENTS, SHAPE = 3, (1, 2, 2)
STATES = {"mixture": 256, "digits": 16}
REFERENCE_STEPS = 400
EXCLUDED = {"dpmpp_2m_sde", "dpmpp_3m_sde", "sa", "dpm_v3"}
"""Without noise, or statistics of the model, these are `dpmpp_2m` and `unipc`."""


@dataclass(frozen=True)
class Form:
    """A solver with the options that differ from its defaults."""

    solver: Solver
    options: dict[str, Any]

    def __str__(self) -> str:
        values = [name if value is True else str(value) for name, value in self.options.items() if value is not False]
        return " ".join([self.solver.name, *values])


def forms(sde: SDE) -> Iterator[Form]:
    """Yield every form of every deterministic solver of an SDE."""
    for solver in SOLVERS.values():
        if not solver.deterministic or not isinstance(sde, solver.sdes) or solver.name in EXCLUDED:
            continue
        choices = dict(solver.choices)
        if "order" in solver.options:
            choices["order"] = solver.orders
        if "lower_order_final" in solver.options:
            choices["lower_order_final"] = (False, True)
        for values in product(*choices.values()):
            yield Form(solver, dict(zip(choices, values, strict=True)))


def mixture(name: str) -> GaussianMixture:
    """Return the mixture of a name such as "vp-sharp-3"."""
    sde, kind, seed = name.split("-")
    random = torch.Generator().manual_seed(int(seed))
    low, high = STDS[kind]
    means = torch.rand(COMPONENTS, *SHAPE, generator=random) * 2 - 1
    stds = torch.rand(COMPONENTS, generator=random) * (high - low) + low
    weights = torch.rand(COMPONENTS, generator=random) + 0.2
    return GaussianMixture(SDE_OF[sde], weights.tolist(), means, stds.tolist(), is_image=False)


@torch.inference_mode()
def run(model: ScoreFunction, table: StepTable, x: Tensor) -> Tensor:
    """Return the states after a table without noise, in the dtype of ``x``."""
    saved, derived = x, list[Tensor]()
    for row in table.rows:
        assert isinstance(row, Row) and not row.has_noise
        if row.derive is not None:
            score = model.score(x, torch.full((len(x),), row.t, dtype=x.dtype))
            derived = [row.derive[0] * x + row.derive[1] * score, *derived[:3]]
        after = row.state * x + row.saved * saved
        for weight, output in zip(row.outputs, derived, strict=False):
            after = after + weight * output
        x, saved = after, x if row.save else saved
    return x


class Errors:
    """The errors of runs on one model."""

    def __init__(self, name: str) -> None:
        self.is_mixture = not name.startswith("digits")
        self.model: ScoreFunction = mixture(name) if self.is_mixture else sf.load(name)
        self.seeds = range(STATES["mixture" if self.is_mixture else "digits"])
        self.sigma_data = self.model.span / 4
        self.model.data_range = None  # states are compared, not images
        if self.is_mixture:
            self.flow = ConvergedFlow.of(self.model, len(self.seeds))
            noise = Noise(0, torch.arange(len(self.seeds))).normal(0, self.model.state_shape)
            self.start = self.model.prior(noise).double()
        else:
            coarse, fine = (
                self._sampled(SolverOptions("heun", n, grid="karras", probability_flow=True, denoise=False))
                for n in (REFERENCE_STEPS // 2, REFERENCE_STEPS)
            )
            self.flow = ConvergedFlow(fine.double(), float((fine - coarse).square().mean().sqrt()))

    def of(self, options: SolverOptions) -> float:
        """Return the error of a run."""
        if self.is_mixture:
            return self.flow.error(run(self.model, _table(self.model.sde, options), self.start))
        return self.flow.error(self._sampled(options))

    def of_peer(self, case: PeerCase) -> float:
        """Return the error of a run of another library."""
        if self.is_mixture:
            return self.flow.error(case.end(ModelPredictions(self.model), self.start))
        planned = PlannedRun(self.model, ComparisonOptions(), case.peer, case.grid, case.steps, denoise=False)
        return self.flow.error(planned.states(self.seeds))

    def _sampled(self, options: SolverOptions) -> Tensor:
        return sf.Sampler(self.model, options, compile=False, batch_size=len(self.seeds)).sample(self.seeds)


@cache
def _table(sde: SDE, options: SolverOptions) -> StepTable:
    return build_table(sde, options)


def measure(name: str) -> dict[str, Any]:
    """Return the errors of our solvers and of peers, by number of evaluations, form and grid."""
    errors = Errors(name)
    found: dict[str, Any] = {"gap": errors.flow.gap, "ours": {}, "peers": {}}
    for nfe in STEPS:
        found["ours"][str(nfe)] = _collected(ours(errors, nfe))
        found["peers"][str(nfe)] = _collected(peers(errors, nfe))
    return found


Run = tuple[str, str, Callable[[], float]]
"""The name of a form, its grid, and a function that returns its error."""


def ours(errors: Errors, nfe: int) -> Iterator[Run]:
    """Yield every form of our solvers on every grid."""
    sde = errors.model.sde
    for form, grid in product(forms(sde), grids_of(sde)):
        options: dict[str, Any] = {"grid": grid, **form.options}
        if grid == "kl_optimal" or form.solver.name == "trigflow":
            options["sigma_data"] = errors.sigma_data
        yield str(form), grid, partial(_error, errors, nfe, form, options)


def _error(errors: Errors, nfe: int, form: Form, options: dict[str, Any]) -> float:
    return errors.of(within(errors.model.sde, nfe, form.solver.name, options))


def peers(errors: Errors, nfe: int) -> Iterator[Run]:
    """Yield every deterministic solver of other libraries on every grid, theirs and ours."""
    assert isinstance(errors.model.sde, ScalarSDE)
    for case in peer_cases(errors.model.sde, nfe):
        yield str(case.peer), case.grid, partial(errors.of_peer, case)


def _collected(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """Return the errors by form and grid, of the forms that can run."""
    found: dict[str, dict[str, float]] = {}
    for form, grid, error_of in runs:
        try:
            error = error_of()
        except (ValueError, NonFiniteError):
            continue  # too few steps, or more than there are betas
        if np.isfinite(error):
            found.setdefault(form, {})[grid] = error
    return found


def within(sde: SDE, nfe: int, solver: str, options: dict[str, Any]) -> SolverOptions:
    """Return the options of the longest run of the probability flow within ``nfe`` evaluations.

    Raises:
        ValueError: no run fits.
    """
    for steps in range(nfe, 0, -1):
        run = SolverOptions(solver, steps, **{"probability_flow": True, "denoise": False, **options})
        if _table(sde, run).nfe <= nfe:
            return run
    raise ValueError(f"{nfe} evaluations are too few for solver {solver!r}")


def main() -> None:
    """Measure the models that the result lacks."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    arguments.add_argument("--out", type=Path, default=RESULTS / "few-steps.json")
    chosen = arguments.parse_args()
    result = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"models": {}}
    for name in chosen.only:
        if name not in result["models"]:
            result["models"][name] = measure(name)
            save({"models": result["models"]}, chosen.out)
            print(name, flush=True)


if __name__ == "__main__":
    main()
