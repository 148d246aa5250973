# SPDX-License-Identifier: Apache-2.0
"""The solver that a model is sampled by: what the user chose, and for the rest what its configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoresde_fast.adaptive import ADAPTIVE, AdaptiveOptions
from scoresde_fast.errors import unknown
from scoresde_fast.model import ScoreFunction, ScoreModel
from scoresde_fast.solvers import SOLVERS, SolverOptions
from scoresde_fast.solvers.options import PREDICTOR_CORRECTOR
from scoresde_fast.solvers.registry import ALIASES

PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "sscs": "sscs",
    "gddim": "gddim",
}
"""Our names of the configurations' predictors; "none" stands for reverse diffusion, as in the original."""


FIXED_ONLY = ("steps", "corrector", "corrector_steps", "snr", "grid", "order", "parity", "eta", "churn", "restart")
"""What a solver that chooses its own steps has no use for."""
TOLERANCES = {"rtol": "rtol", "atol": "atol", "error_norm": "norm"}
"""What only such a solver has, and what `Tolerances` calls it."""


def solver_options(model: ScoreFunction, chosen: Mapping[str, Any]) -> SolverOptions:
    """The options that are not None in ``chosen``; the others are the model's own.

    Raises:
        ValueError: the solver is unknown, or an option is one that it does not have.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    for name in TOLERANCES:
        if name in given:
            raise ValueError(
                f"{name} is {given[name]!r}; only {' and '.join(map(repr, ADAPTIVE))} choose their steps by it: leave "
                "it out"
            )
    own = _own(model)
    if "solver" in given:
        if given["solver"] not in (known := [*SOLVERS, *ALIASES, PREDICTOR_CORRECTOR]):
            raise ValueError(unknown("solver", given["solver"], [*known, *ADAPTIVE]))
        # these belong to the model's own predictor
        own = {name: value for name, value in own.items() if name not in ("corrector", "order")}
    return SolverOptions(**{**own, **given})


def adaptive_options(model: ScoreFunction, chosen: Mapping[str, Any]) -> AdaptiveOptions:
    """The same of a solver that chooses its own steps, ``chosen["solver"]``.

    Raises:
        ValueError: an option is one that it does not have, or out of its range.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    solver, own = given["solver"], _own(model)
    for name in FIXED_ONLY:
        if name in given:
            raise ValueError(
                f"{name} is {given[name]!r}; solver {solver!r} chooses its own steps by rtol and atol: leave it out"
            )
    if given.get("flow", solver == "rk45") != (solver == "rk45"):
        raise ValueError(
            f"flow is {given['flow']}; solver 'rk45' is the probability flow's, 'ggf' the reverse SDE's: leave it out"
        )
    tolerances = {inside: given[name] for name, inside in TOLERANCES.items() if name in given}
    denoise, eps = given.get("denoise", own.get("denoise", True)), given.get("eps", own.get("eps"))
    return AdaptiveOptions.of(solver, model.sde, denoise=denoise, eps=eps, chosen=tolerances)


def described_options(described: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which a `Sampler` describes itself so: ``Sampler(model, **options).describe() == described``.

    But for its conditions, which are no plain values; see `scoresde_fast.conditional.turns.described_conditions`.
    """
    options = {name: value for name, value in described.items() if name not in ("model", "tolerances", "condition")}
    for name, inside in TOLERANCES.items():
        if inside in described.get("tolerances", {}):
            options[name] = described["tolerances"][inside]
    if options.get("restart") is not None:
        options["restart"] = tuple(map(tuple, options["restart"]))
    return options


def _own(model: ScoreFunction) -> dict[str, Any]:
    """What the configuration asks for; where there is none, SSCS as published on CLD, and elsewhere nothing."""
    if not isinstance(model, ScoreModel):
        return {"solver": "sscs", "grid": "quadratic"} if model.sde.parts == 2 else {}
    sampling = model.config.sampling
    return {
        "solver": PREDICTORS.get(sampling.predictor, "reverse_diffusion"),
        "steps": sampling.steps or model.config.model.num_scales or SolverOptions.steps,
        "corrector": sampling.corrector,
        "corrector_steps": sampling.n_steps_each,
        "snr": sampling.snr,
        "flow": sampling.probability_flow,
        "denoise": sampling.noise_removal,
        "grid": sampling.grid,
        "order": sampling.order,
        "eps": sampling.eps,
    }
