# SPDX-License-Identifier: Apache-2.0
"""Solver options by name, completed with the defaults of a model and its SDE."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scoresde_fast.errors import shown, unknown_message
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.model import ScoreFunction, ScoreModel
from scoresde_fast.model_statistics import SOLVER as DPM_V3
from scoresde_fast.model_statistics import named_statistics
from scoresde_fast.run_options import names
from scoresde_fast.sdes import CLDSDE, SDE, Betas, DiscretisedSDE, ScalarSDE
from scoresde_fast.solvers import SolverOptions
from scoresde_fast.solvers.grid_values import grid_values
from scoresde_fast.solvers.options import PREDICTOR_CORRECTOR
from scoresde_fast.solvers.registry import ALIASES, SOLVERS, few_steps_solver, parameters_of, with_grid
from scoresde_fast.tuned import TUNED, Tuned, is_tuned

PREDICTORS = {"none": "reverse_diffusion", "ancestral_sampling": "ancestral"}
"""Solvers of a configuration's predictors whose names differ; "none" is as in the official code."""
NEUTRAL = {"original": False, "langevin_norm": "sample"}
"""Option values that adaptive solvers accept, because they have no effect."""
NOT_OPTIONS = ("model", "condition", "inputs", "guidance")
"""Keys of descriptions that are no options."""
DESCRIPTION_KEYS = {"probability_flow": "flow", "original": "parity"}
"""Options with an older name in descriptions, so that existing sets can be resumed."""
DEFAULT_STEPS = 50
"""Default number of steps of solvers for few steps."""
FEW_STEPS = 100
"""With fewer steps than these, and than the model's own sampler takes, a solver for few steps is the default."""
OF_THE_SOLVER = ("solver", "corrector", "order", "grid")
"""Options of a configuration that are for its own solver only."""
OF_THE_OWN_SAMPLER = frozenset({"corrector", "corrector_steps", "snr", "langevin_norm", "original"})
"""Options that solvers for few steps do not have; with one of them, the model's own solver is the default."""
OF_TUNED = ("solver", "steps", "probability_flow")
"""Options beside the solver "tuned"."""
AnyOptions = SolverOptions | AdaptiveOptions


def solver_options(model: ScoreFunction, options: Mapping[str, Any], *, conditioned: bool = False) -> AnyOptions:
    """Return the named options, with defaults from the model and its SDE.

    ``options["solver"]`` may be a complete options object, without any other option.  Without a solver, a run is that
    of the model's configuration, or with fewer steps, unless it is ``conditioned``, that of `few_steps_solver`.

    Raises:
        ValueError: the solver is unknown, or one of the options is not an option of the solver.
    """
    solver = options.get("solver")
    if isinstance(solver, SolverOptions | AdaptiveOptions):
        return _complete(model, solver, [name for name in options if name != "solver"])
    if not isinstance(solver, str | None):
        raise ValueError(
            f"solver is {shown(solver)}; it must be the name of a solver, such as 'ddim', or all solver options as "
            "one SolverOptions or AdaptiveOptions"
        )
    if solver in ADAPTIVE:
        return _adaptive(model, options)
    if solver is not None and is_tuned(solver):
        return _tuned(model, options)
    if solver is not None and solver.partition(":")[0] == DPM_V3 and "statistics" not in options:
        options = {**options, "solver": DPM_V3}
        if solver == DPM_V3 and model.folder is None:
            warnings.warn(
                f"solver {DPM_V3!r} has no statistics of this model, so it is unipc in noise prediction: pass "
                "statistics=scoresde_fast.empirical_statistics(model)",
                UserWarning,
                stacklevel=4,
            )
        else:
            options["statistics"] = named_statistics(solver, model)
        solver = DPM_V3
    for name, value in options.items():
        if name not in names(SolverOptions):
            raise ValueError(
                f"{name} is {shown(value)}, but only the solvers {' and '.join(map(repr, ADAPTIVE))} take it: leave "
                "it out"
            )
    defaults = _defaults(model)
    if solver is None and not conditioned and OF_THE_OWN_SAMPLER.isdisjoint(options):
        steps, few = options.get("steps"), few_steps_solver(model.sde)
        most = min(FEW_STEPS, defaults.get("steps", SolverOptions.steps))
        if isinstance(steps, int) and steps < most and defaults.get("solver") != few:
            solver = few
    elif solver is not None and solver not in (solvers := [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR, TUNED]):
        raise ValueError(unknown_message("solver", solver, [*solvers, *ADAPTIVE]))
    if solver is not None:
        defaults = {name: value for name, value in defaults.items() if name not in OF_THE_SOLVER}
        options = {**options, "solver": solver}
        entry = SOLVERS.get(ALIASES.get(solver, solver))
        if entry is not None and not entry.published and isinstance(model.sde, ScalarSDE):
            defaults["steps"] = _fitting(model.sde, DEFAULT_STEPS)
    gives_times = options.get("grid") is not None and not isinstance(grid_values(options["grid"]), str)
    if gives_times:
        defaults.pop("steps", None)
    if gives_times or options.get("sigma_min") is not None:
        defaults.pop("eps", None)
    return _with_defaults(model, SolverOptions(**{**defaults, **options}))


def _with_defaults(model: ScoreFunction, options: SolverOptions) -> SolverOptions:
    """Return the options with the defaults that depend on the model's SDE and the range of its data."""
    if options.sigma_data is None and "sigma_data" in parameters_of(model.sde, options):
        options = replace(options, sigma_data=model.span / 4)
    return with_grid(model.sde, options)


def described_options(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for which ``Sampler(model, **options).describe() == described``.

    Conditions, inputs and guidance are omitted; `scoresde_fast.conditions.classes.described_conditions` and
    `scoresde_fast.loop.network_guidance.described_guidance` restore two of them.
    """
    option_names = {key: name for name, key in DESCRIPTION_KEYS.items()}
    return {option_names.get(key, key): value for key, value in described.items() if key not in NOT_OPTIONS}


def _complete(model: ScoreFunction, options: AnyOptions, others: list[str]) -> AnyOptions:
    """Check options that the user passed as one object, with ``others`` by name, and return them with all defaults."""
    if others:
        raise ValueError(f"{others[0]} is passed in addition to {options!r}; set it there")
    if (options.solver in ADAPTIVE) != isinstance(options, AdaptiveOptions):
        kind = "AdaptiveOptions" if options.solver in ADAPTIVE else "SolverOptions"
        raise ValueError(f"solver {options.solver!r} takes {kind}, not {options!r}")
    return options.on(model.sde) if isinstance(options, AdaptiveOptions) else _with_defaults(model, options)


def _tuned(model: ScoreFunction, options: Mapping[str, Any]) -> SolverOptions:
    """Return the options that `scoresde_fast.tune` found."""
    for name, value in options.items():
        if name not in OF_TUNED:
            raise ValueError(f"{name} is {shown(value)}, but solver {TUNED!r} has its own options: leave it out")
    tuned = Tuned.named(options["solver"], model)
    if "steps" not in options:
        raise ValueError(f"solver {TUNED!r} needs a number of steps: choose from {shown(sorted(tuned.flow))}")
    return tuned.options(options["steps"], probability_flow=bool(options.get("probability_flow", False)))


def _adaptive(model: ScoreFunction, options: Mapping[str, Any]) -> AdaptiveOptions:
    solver = options["solver"]
    is_flow = ADAPTIVE[solver].probability_flow
    if (flow := options.get("probability_flow", is_flow)) is not is_flow and isinstance(flow, bool):
        equation = "the probability flow" if is_flow else "the reverse SDE"
        raise ValueError(
            f"probability_flow is {options['probability_flow']}, but solver {solver!r} always integrates {equation}: "
            "leave it out"
        )
    neutral = NEUTRAL | {"probability_flow": is_flow}
    adaptive = {
        name: value
        for name, value in options.items()
        if not (isinstance(value, bool | str) and (name, value) in neutral.items())
    }
    for name, value in adaptive.items():
        if name not in names(AdaptiveOptions):
            raise ValueError(
                f"{name} is {shown(value)}, but solver {solver!r} chooses its steps by rtol and atol: leave it out"
            )
    defaults = {name: value for name, value in _defaults(model).items() if name in ("denoise", "eps")}
    return AdaptiveOptions(**{**defaults, **adaptive}).on(model.sde)


def _defaults(model: ScoreFunction) -> dict[str, Any]:
    """Return the options of the model's configuration; without one, those that suit its SDE."""
    if not isinstance(model, ScoreModel):
        if isinstance(model.sde, CLDSDE):
            return {"solver": "sscs", "grid": "quadratic"}
        if isinstance(model.sde, DiscretisedSDE):
            return {}
        return {"solver": few_steps_solver(model.sde), "steps": _fitting(model.sde, DEFAULT_STEPS)}
    sampling = model.config.sampling
    return {
        "solver": PREDICTORS.get(sampling.predictor, sampling.predictor),
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


def _fitting(sde: SDE, steps: int) -> int:
    """Return the number of steps, at most as many as an SDE allows."""
    return min(steps, len(sde) - 1) if isinstance(sde, Betas) else steps
