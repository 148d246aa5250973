# SPDX-License-Identifier: Apache-2.0
"""The options of a `Sampler`: those that the user gave, completed from the model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scoresde_fast.errors import unknown
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.model import ScoreFunction, ScoreModel
from scoresde_fast.run_options import names
from scoresde_fast.solvers.options import PREDICTOR_CORRECTOR, SolverOptions
from scoresde_fast.solvers.registry import ALIASES, SOLVERS

PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "sscs": "sscs",
    "gddim": "gddim",
}
"""Solver names for the predictors of configurations; "none" means reverse diffusion, as in the original."""
NEUTRAL = {"original": False, "langevin_norm": "sample"}
"""Option values that adaptive solvers accept, because they change nothing."""
DESCRIPTION_KEYS = {"probability_flow": "flow", "original": "parity"}
"""Options that descriptions keep under their former names, so that older sets can be resumed."""
AnyOptions = SolverOptions | AdaptiveOptions


def solver_options(model: ScoreFunction, given: Mapping[str, Any]) -> AnyOptions:
    """Return the options in ``given``, by name, completed by the model's own.

    ``given["solver"]`` may be a complete options object; no other option may be given then.

    Raises:
        ValueError: the solver is unknown, or it does not have one of the options.
    """
    solver = given.get("solver")
    if isinstance(solver, SolverOptions | AdaptiveOptions):
        return _complete(model, solver, [name for name in given if name != "solver"])
    if solver in ADAPTIVE:
        return _adaptive(model, given)
    for name, value in given.items():
        if name not in names(SolverOptions):
            raise ValueError(
                f"{name} is {value!r}; only the solvers {' and '.join(map(repr, ADAPTIVE))} take it: leave it out"
            )
    own = _own(model)
    if solver is not None:
        if solver not in (known := [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]):
            raise ValueError(unknown("solver", solver, [*known, *ADAPTIVE]))
        # The configuration's corrector and order belong to its own predictor.
        own = {name: value for name, value in own.items() if name not in ("corrector", "order")}
    return SolverOptions(**{**own, **given})


def describe_options(options: AnyOptions) -> dict[str, Any]:
    """Return the options as plain values, under the keys of a description."""
    return {DESCRIPTION_KEYS.get(name, name): value for name, value in asdict(options).items()}


def described_options(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for which ``Sampler(model, **options).describe() == described``.

    Conditions are left out; `scoresde_fast.conditions.descriptions.described_conditions` rebuilds them.
    """
    option = {key: name for name, key in DESCRIPTION_KEYS.items()}
    return {option.get(key, key): value for key, value in described.items() if key not in ("model", "condition")}


def _complete(model: ScoreFunction, options: AnyOptions, others: list[str]) -> AnyOptions:
    """Check options that the user gave as one object."""
    if others:
        raise ValueError(f"{others[0]} is given besides {options!r}; set it there")
    if (options.solver in ADAPTIVE) != isinstance(options, AdaptiveOptions):
        kind = "AdaptiveOptions" if options.solver in ADAPTIVE else "SolverOptions"
        raise ValueError(f"solver {options.solver!r} takes {kind}, not {options!r}")
    return options.on(model.sde) if isinstance(options, AdaptiveOptions) else options


def _adaptive(model: ScoreFunction, given: Mapping[str, Any]) -> AdaptiveOptions:
    solver, own = given["solver"], _own(model)
    of_flow = solver == "rk45"
    if given.get("probability_flow", of_flow) != of_flow:
        raise ValueError(
            f"probability_flow is {given['probability_flow']}; 'rk45' integrates the probability flow, 'ggf' the "
            "reverse SDE: leave it out"
        )
    asked = [pair for pair in given.items() if pair not in NEUTRAL.items()]
    chosen = {name: value for name, value in asked if name != "probability_flow"}
    for name, value in chosen.items():
        if name not in names(AdaptiveOptions):
            raise ValueError(f"{name} is {value!r}; solver {solver!r} chooses its steps by rtol and atol: leave it out")
    common = {name: value for name, value in own.items() if name in ("denoise", "eps")}
    return AdaptiveOptions(**{**common, **chosen}).on(model.sde)


def _own(model: ScoreFunction) -> dict[str, Any]:
    """Return the options of the model's configuration; without one, SSCS as published on CLD, and none elsewhere."""
    if not isinstance(model, ScoreModel):
        return {"solver": "sscs", "grid": "quadratic"} if model.sde.parts == 2 else {}
    sampling = model.config.sampling
    return {
        "solver": PREDICTORS.get(sampling.predictor, "reverse_diffusion"),
        "steps": sampling.steps or model.config.model.num_scales or SolverOptions.steps,
        "corrector": sampling.corrector,
        "corrector_steps": sampling.n_steps_each,
        "snr": sampling.snr,
        "probability_flow": sampling.probability_flow,
        "denoise": sampling.noise_removal,
        "grid": sampling.grid,
        "order": sampling.order,
        "eps": sampling.eps,
    }
