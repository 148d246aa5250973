# SPDX-License-Identifier: Apache-2.0
"""Samples of diffusers' schedulers and of our solvers, with the same network, start and times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import scoresde_fast as sf
from tests.support.diffusers_models import diffusers, our_samples, start, their_samples, unet

SEEDS = range(2)
STEPS = 10
SOLVERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
BETAS: dict[str, dict[str, Any]] = {
    # The scale of the data at T is 0.13. With less data the prediction of noise by random weights gives huge samples,
    # whose rounding errors are as large as the tolerance.
    "epsilon": {"prediction_type": "epsilon", "beta_start": 1e-4, "beta_end": 0.008},
    "sample": {"prediction_type": "sample", "beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.02},
    "v": {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    "trained": {"prediction_type": "v_prediction", "trained_betas": np.linspace(1e-3, 0.03, 400), "num": 400},
}
TOLERANCE = 1e-4


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_schedulers_with_betas(solver: str, betas: str) -> None:
    """Samples agree to 1e-4 with those of the scheduler that implements the same solver."""
    name, options = SOLVERS[solver]
    schedule = dict(BETAS[betas])
    number = schedule.pop("num", 1000)
    # "leading" timesteps are integers for every scheduler, so that the network is the same function of them.
    scheduler = getattr(diffusers(), name)(
        num_train_timesteps=number, timestep_spacing="leading", **options, **schedule
    )
    scheduler.set_timesteps(STEPS)
    network = unet()
    model = sf.from_diffusers(network, scheduler)
    theirs = their_samples(scheduler, network, start(model, SEEDS) * scheduler.init_noise_sigma)
    timesteps = dict.fromkeys(scheduler.timesteps.tolist())  # Heun's method repeats them
    ours = our_samples(model, solver, [(t + 1) / number for t in timesteps], SEEDS)
    assert len(timesteps) == STEPS
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("solver", "spacing"),
    [
        ("ddim", "trailing"),  # with "linspace" diffusers' DDIM steps to other times than the next timestep
        ("dpmpp_2m", "trailing"),
        ("dpmpp_2m", "linspace"),
        ("unipc", "trailing"),
        ("unipc", "linspace"),
    ],
)
def test_other_spacings(solver: str, spacing: str) -> None:
    """Timesteps with other spacings are times of our grid too."""
    name, options = SOLVERS[solver]
    schedule = {"prediction_type": "v_prediction", "timestep_spacing": spacing}
    scheduler = getattr(diffusers(), name)(**options, **schedule)
    scheduler.set_timesteps(STEPS)
    network = unet()
    model = sf.from_diffusers(network, scheduler)
    theirs = their_samples(scheduler, network, start(model, SEEDS))
    ours = our_samples(model, solver, [(t + 1) / 1000 for t in scheduler.timesteps.tolist()], SEEDS)
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("solver", "name"), [("ddim", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")]
)
def test_edm_schedulers(solver: str, name: str, prediction: str) -> None:
    """DDIM is Euler's method on EDM; samples and preconditioning agree with those of the schedulers."""
    scheduler = getattr(diffusers(), name)(sigma_min=0.01, sigma_max=20.0, sigma_data=0.7, prediction_type=prediction)
    scheduler.set_timesteps(STEPS)
    network = unet()
    model = sf.from_diffusers(network, scheduler)
    theirs = their_samples(scheduler, network, start(model, SEEDS))
    ours = our_samples(model, solver, scheduler.sigmas[:-1].double().tolist(), SEEDS)
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_flow_matching() -> None:
    """DDIM is Euler's method on rectified flow; the timesteps are 1000 sigma, also after a shift."""
    scheduler = diffusers().FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.05, STEPS))
    network = unet()
    model = sf.from_diffusers(network, scheduler)
    theirs = their_samples(scheduler, network, start(model, SEEDS))
    ours = our_samples(model, "ddim", scheduler.sigmas[:-1].double().tolist(), SEEDS)
    assert (ours - theirs).abs().max() <= TOLERANCE


def test_zero_terminal_snr() -> None:
    """With zero terminal SNR sampling starts at the last index that has data; samples from there on agree."""
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "clip_sample": False}
    scheduler = diffusers().DDIMScheduler(**options)
    scheduler.set_timesteps(STEPS)
    network = unet()
    model = sf.from_diffusers(network, scheduler)
    assert isinstance(model.sde, sf.Betas)
    scales = model.sde.marginal(np.arange(1, 1000) / 999).scale
    assert np.abs(scales - scheduler.alphas_cumprod[:-1].double().sqrt().numpy()).max() < 1e-6
    theirs = their_samples(scheduler, network, start(model, SEEDS))
    ours = our_samples(model, "ddim", [(t + 1) / 999 for t in scheduler.timesteps.tolist()], SEEDS)
    assert (ours - theirs).abs().max() <= TOLERANCE
