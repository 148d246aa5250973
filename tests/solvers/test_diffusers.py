# SPDX-License-Identifier: Apache-2.0
"""Multistep solvers compared with the kind of diffusers, on the same mixture and the same times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.solvers import StepTable
from tests.support.toy_solvers import SDE_OF, STEPS, Mixture, X, rows_of, schedule_of

diffusers = pytest.importorskip("diffusers")

DPM, UNIPC, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    *[
        (
            "unipc", {"order": order, "variant": variant, "prediction": prediction},
            UNIPC, {"solver_order": order, "solver_type": variant, "predict_x0": prediction == "data"},
        )
        for order in (1, 2, 3) for variant in ("bh1", "bh2") for prediction in ("data", "noise")
    ],
    *[("deis", {"order": order, "variable": "log_rho"}, DEIS, {"solver_order": order}) for order in (2, 3)],
    ("dpm_2m", {}, DPM, {"algorithm_type": "dpmsolver"}),
    ("dpmpp_2m", {}, DPM, {}),
    ("dpmpp_2m_sde", {"variant": "heun", "probability_flow": True}, DPM, {"solver_type": "heun"}),
]  # fmt: skip
"""Our solver with its options, and their scheduler with its options, which computes the same."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("lower", [False, True], ids=["", "lower_order_final"])
@pytest.mark.parametrize(("solver", "options", "kind", "theirs"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
@pytest.mark.parametrize("name", SDE_OF)
def test_same_as_diffusers(
    name: str, solver: str, options: dict[str, Any], kind: str, theirs: dict[str, Any], lower: bool
) -> None:
    """The end of the probability flow is that of the scheduler."""
    sde = SDE_OF[name]
    schedule, x = schedule_of(sde), sde.prior_std * X
    rows = rows_of(sde, solver, lower_order_final=lower, **options)
    end = Mixture().run(sde, StepTable.of(rows), x)
    chosen = {"final_sigmas_type": "sigma_min"} if kind != DEIS else {}
    scheduler = getattr(diffusers, kind)(lower_order_final=lower, **chosen, **theirs)
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = torch.from_numpy(schedule.noise_to_signal)
    scheduler.timesteps = torch.arange(STEPS)
    norm = np.sqrt(schedule.scale**2 + schedule.std**2)  # their states have scale^2 + std^2 = 1
    state = torch.from_numpy(x / norm[0])[:, None]
    for i in range(STEPS):
        noise = -schedule.std[i] * Mixture().score(sde, state[:, 0].numpy() * norm[i], schedule.times[i])
        state = scheduler.step(torch.from_numpy(noise)[:, None], i, state, return_dict=False)[0]
    precision = 1e-5 if kind.startswith("DPM") else 1e-9  # those compute in float32
    np.testing.assert_allclose(end, state[:, 0].numpy() * norm[-1], rtol=precision, atol=precision)
