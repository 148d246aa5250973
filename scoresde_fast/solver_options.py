# SPDX-License-Identifier: Apache-2.0
"""The solver that a model is sampled by: what the user chose, and for the rest what its configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoresde_fast.model import ScoreFunction, ScoreModel
from scoresde_fast.solvers import SolverOptions

PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
    "sscs": "sscs",
    "gddim": "gddim",
}
"""Our names of the configurations' predictors; "none" stands for reverse diffusion, as in the original."""


def solver_options(model: ScoreFunction, chosen: Mapping[str, Any]) -> SolverOptions:
    """The options of `SolverOptions` that are not None in ``chosen``; the others are the model's own."""
    own = _own(model)
    if chosen["solver"] is not None:
        # these belong to the model's own predictor
        own = {name: value for name, value in own.items() if name not in ("corrector", "order")}
    return SolverOptions(**{**own, **{name: value for name, value in chosen.items() if value is not None}})


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
