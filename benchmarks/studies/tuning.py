# SPDX-License-Identifier: Apache-2.0
"""Tuned solvers against all others on the embedded models: python -m benchmarks.studies.tuning [--only NAME ...]

``tune`` searches five minutes for 8 and 10 evaluations.  Its solvers and every form of every deterministic solver on
every grid then sample seeds that it has not seen; the error is the root mean square distance of the images, not
clipped, to those of the converged flow.  The forms are compared on the first seeds, and the best of them on all.
The result is saved after each model; finished models are kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from benchmarks.studies.few_steps import forms, within
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.model import ScoreFunction
from scoresde_fast.solver_choice import solver_options
from scoresde_fast.solvers import SolverOptions, grids_of
from scoresde_fast.tuning.fitting import error
from scoresde_fast.tuning.flow import ConvergedFlow

MODELS = ("digits-ve", "digits-vp", "digits-subvp", "digits-cld")
NFE = (8, 10)
SECONDS = 300.0
UNSEEN = range(1000, 1256)
FIRST, BEST = 32, 10
"""Seeds on which all forms are compared, and number of forms that are compared on all seeds."""


class Errors:
    """Errors of solvers on seeds that were not used for tuning."""

    def __init__(self, model: ScoreFunction) -> None:
        self.model = model
        self.flows = {count: ConvergedFlow(model, UNSEEN[:count]) for count in (FIRST, len(UNSEEN))}

    def of(self, options: SolverOptions, count: int) -> float:
        """Return the error on the first ``count`` seeds; infinity for steps that are too long."""
        flow = self.flows[count]
        try:
            _, trajectory = sf.Sampler(self.model, options).sample(flow.seeds, trajectory=True)
        except (ValueError, NonFiniteError):
            return float("inf")
        return error(flow.flat(trajectory.states[-1]), flow.images)


def untuned(model: ScoreFunction, nfe: int) -> Iterator[SolverOptions]:
    """Yield all forms on all grids, with and without a last evaluation that denoises."""
    for form in forms(model.sde):
        for grid in grids_of(model.sde):
            options: dict[str, Any] = {"grid": grid, **form.options}
            if grid == "kl_optimal" or form.solver.name == "trigflow":
                options["sigma_data"] = model.span / 4
            for denoise in (True, False):
                try:
                    yield within(model.sde, nfe, form.solver.name, {**options, "denoise": denoise})
                except ValueError:
                    continue  # too few steps


def measure(name: str) -> dict[str, Any]:
    """Return the errors of the tuned solvers, of the default and of the best untuned ones."""
    model = sf.load(name)
    start = time.monotonic()
    tuned = sf.tune(model, NFE, seconds=SECONDS)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    found: dict[str, Any] = {}
    errors = Errors(model)
    for nfe in NFE:
        ranked = sorted(untuned(model, nfe), key=lambda options: errors.of(options, FIRST))[:BEST]
        best = {_label(options): errors.of(options, len(UNSEEN)) for options in ranked}
        own, all_seeds = tuned.flow[nfe], len(UNSEEN)
        default = solver_options(model, {"steps": nfe, "probability_flow": True})
        assert isinstance(default, SolverOptions)
        found[str(nfe)] = {
            "tuned": errors.of(own.options, all_seeds),
            "times": own.options.grid,
            "curve": own.curve,
            "untuned": dict(sorted(best.items(), key=lambda item: item[1])),
            "default": errors.of(default, all_seeds),
        }
    return found


def _label(options: SolverOptions) -> str:
    """Return a solver's name, order, forms, grid and end."""
    values = [
        options.variant,
        options.prediction,
        options.variable,
        "lower_order_final" * bool(options.lower_order_final),
    ]
    named = [str(value) for value in (options.solver, options.order, *values, options.grid) if value]
    return " ".join([*named, "denoised" if options.denoise else "to eps"])


def main() -> None:
    """Measure the models that the result lacks."""
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    arguments.add_argument("--out", type=Path, default=RESULTS / "tuning.json")
    chosen = arguments.parse_args()
    result = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"models": {}}
    for name in chosen.only:
        if name not in result["models"]:
            result["models"][name] = measure(name)
            save({"models": result["models"]}, chosen.out)
            print(name, flush=True)


if __name__ == "__main__":
    main()
