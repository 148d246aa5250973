# SPDX-License-Identifier: Apache-2.0
"""Solver options of a `Sampler`: the user's options, with defaults from the model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scoresde_fast.errors import unknown_message
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
"""Solver for each predictor of a configuration; "none" means reverse diffusion, as in the official code."""
NEUTRAL = {"original": False, "langevin_norm": "sample"}
"""Option values that adaptive solvers accept, because they have no effect."""
DESCRIPTION_KEYS = {"probability_flow": "flow", "original": "parity"}
"""Options with an older name in descriptions, so that existing sets can be resumed."""
AnyOptions = SolverOptions | AdaptiveOptions


def solver_options(model: ScoreFunction, options: Mapping[str, Any]) -> AnyOptions:
    """Return the named options, with defaults from the model.

    ``options["solver"]`` may be a complete options object, without any other option.

    Raises:
        ValueError: the solver is unknown, or does not have one of the options.
    """
    solver = options.get("solver")
    if isinstance(solver, SolverOptions | AdaptiveOptions):
        return _complete(model, solver, [name for name in options if name != "solver"])
    if solver in ADAPTIVE:
        return _adaptive(model, options)
    for name, value in options.items():
        if name not in names(SolverOptions):
            raise ValueError(
                f"{name} is {value!r}, but only the solvers {' and '.join(map(repr, ADAPTIVE))} take it: leave it out"
            )
    defaults = _defaults(model)
    if solver is not None:
        if solver not in (solvers := [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]):
            raise ValueError(unknown_message("solver", solver, [*solvers, *ADAPTIVE]))
        # The configuration's corrector and order are for its own predictor.
        defaults = {name: value for name, value in defaults.items() if name not in ("corrector", "order")}
    return SolverOptions(**{**defaults, **options})


def describe_options(options: AnyOptions) -> dict[str, Any]:
    """Return the options as JSON values, with the keys of a description."""
    return {DESCRIPTION_KEYS.get(name, name): value for name, value in asdict(options).items()}


def described_options(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for which ``Sampler(model, **options).describe() == described``.

    Conditions are omitted; `scoresde_fast.conditions.classes.described_conditions` restores them.
    """
    option_names = {key: name for name, key in DESCRIPTION_KEYS.items()}
    return {option_names.get(key, key): value for key, value in described.items() if key not in ("model", "condition")}


def _complete(model: ScoreFunction, options: AnyOptions, others: list[str]) -> AnyOptions:
    """Check the options that the user passed as one object, and return them."""
    if others:
        raise ValueError(f"{others[0]} is passed in addition to {options!r}; set it there")
    if (options.solver in ADAPTIVE) != isinstance(options, AdaptiveOptions):
        kind = "AdaptiveOptions" if options.solver in ADAPTIVE else "SolverOptions"
        raise ValueError(f"solver {options.solver!r} takes {kind}, not {options!r}")
    return options.on(model.sde) if isinstance(options, AdaptiveOptions) else options


def _adaptive(model: ScoreFunction, options: Mapping[str, Any]) -> AdaptiveOptions:
    solver = options["solver"]
    is_flow = solver == "rk45"
    if options.get("probability_flow", is_flow) != is_flow:
        raise ValueError(
            f"probability_flow is {options['probability_flow']}, but 'rk45' always integrates the probability flow and "
            "'ggf' the reverse SDE: leave it out"
        )
    effective = [option for option in options.items() if option not in NEUTRAL.items()]
    adaptive = {name: value for name, value in effective if name != "probability_flow"}
    for name, value in adaptive.items():
        if name not in names(AdaptiveOptions):
            raise ValueError(
                f"{name} is {value!r}, but solver {solver!r} chooses its steps by rtol and atol: leave it out"
            )
    defaults = {name: value for name, value in _defaults(model).items() if name in ("denoise", "eps")}
    return AdaptiveOptions(**{**defaults, **adaptive}).on(model.sde)


def _defaults(model: ScoreFunction) -> dict[str, Any]:
    """Return the options of the model's configuration; without one, those published for CLD, or none for other SDEs."""
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
