# SPDX-License-Identifier: Apache-2.0
"""Solvers that choose their own steps: exact where the flow is known, the data's distribution, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.flow import adaptive
from scoresde_fast.flow.integrate import IntegrationError
from scoresde_fast.loop.evaluator import evaluator
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, ScalarSDE, SubVPSDE
from tests.support.chance import assert_moments
from tests.support.flow_models import small_network

MEAN, STD = 0.3, 0.5
SDE_OF: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}
"""The SDEs by name."""


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_rk45_on_a_gaussian(name: str) -> None:
    """The flow of Gaussian data is known: each sample keeps its distance from the mean in deviations."""
    sde = SDE_OF[name]
    assert isinstance(sde, ScalarSDE)
    model = sf.GaussianMixture.gaussian(sde, MEAN, STD, (1, 3, 3))
    sampler = sf.Sampler(model, solver="rk45", denoise=False, rtol=1e-8, atol=1e-8)
    prior = model.prior(Noise(0, torch.arange(4)).normal(0, (1, 3, 3))).double()
    (scale, scale_0), (std, std_0) = (
        values for values in zip(*map(sde.marginal, (1.0, sde.sampling_eps)), strict=True)
    )
    spread, spread_0 = (math.hypot(a * STD, s) for a, s in ((scale, std), (scale_0, std_0)))
    exact = scale_0 * MEAN + spread_0 / spread * (prior - scale * MEAN)
    torch.testing.assert_close(sampler.sample(range(4)).double(), exact.clamp(0, 1), rtol=0, atol=2e-6)


def test_denoising_is_one_evaluation_more() -> None:
    """It ends at E[x(0) | x(eps)], which for Gaussian data is known."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 3, 3))
    kept = sf.Sampler(model, solver="rk45", denoise=False)
    ended = sf.Sampler(model, solver="rk45")
    x, x_0 = kept.sample(range(3)), ended.sample(range(3))
    assert [a + 1 for a in kept.evaluations(range(3))] == ended.evaluations(range(3))
    scale, std = map(float, VPSDE().marginal(1e-3))
    gain = scale * STD**2 / (scale**2 * STD**2 + std**2)
    inside = (x > 0) & (x < 1)
    torch.testing.assert_close(x_0[inside], (MEAN + gain * (x - scale * MEAN)).float()[inside], rtol=0, atol=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_ggf_draws_the_data(name: str, run_seed: int) -> None:
    """6 144 elements of Gaussian data have its mean and deviation, but for a hundredth of the deviation.

    That is the solver's own error at tolerances a quarter of the usual: of 147 456 elements the deviation was 0.003 to
    0.005 too small, with a standard error of 0.002, and the mean nothing that could be seen.
    """
    sde = SDE_OF[name]
    assert isinstance(sde, ScalarSDE)
    model = sf.GaussianMixture.gaussian(sde, MEAN, 0.05, (3, 16, 16))
    sampler = sf.Sampler(model, solver="ggf", rtol=0.005, atol=0.002, denoise=False, eps=1e-3, run_seed=run_seed)
    scale, std = map(float, sde.marginal(1e-3))
    assert_moments(sampler.sample(range(8)), scale * MEAN, math.hypot(scale * 0.05, std), bias=0.01)


def test_ggf_goes_faster_with_looser_tolerances() -> None:
    """Looser tolerances take fewer evaluations, two for each attempt."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 4, 4))
    counts = []
    for rtol in (0.01, 0.05):
        sampler = sf.Sampler(model, solver="ggf", rtol=rtol, denoise=False)
        sampler.sample(range(4))
        counts.append(sampler.evaluations(range(4)))
        assert all(count % 2 == 0 for count in counts[-1])
    assert all(fine > coarse for fine, coarse in zip(*counts, strict=True))


@pytest.mark.parametrize("solver", ["rk45", "ggf"])
def test_strict_samples_do_not_know_their_batch(solver: str) -> None:
    """Alone, in another order and beside others: the same bits, and the same number of evaluations."""
    options: dict[str, Any] = {"solver": solver, "strict": True, "rtol": 0.02, "atol": 0.02}
    together = sf.Sampler(small_network("vpsde", centered=True), **options)
    images = together.sample([4, 9, 2])
    alone = sf.Sampler(small_network("vpsde", centered=True), **options)
    assert torch.equal(alone.sample([9])[0], images[1])
    assert alone.evaluations([9]) == together.evaluations([9])
    loose = sf.sample(small_network("vpsde", centered=True), [2, 4], solver=solver, rtol=0.02, atol=0.02)
    torch.testing.assert_close(loose, images[[2, 0]], rtol=0, atol=1e-3)


def test_what_an_image_costs_is_known_afterwards() -> None:
    """The evaluations are unknown before a run, except those of a fixed-step solver."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    sampler = sf.Sampler(model, solver="rk45")
    assert sampler.nfe is None
    with pytest.raises(ValueError, match="seed 3 has not been drawn"):
        sampler.evaluations([3])
    sampler.sample([3])
    assert sampler.evaluations([3])[0] > 20
    assert sf.Sampler(model, solver="em", steps=7).evaluations([1, 2]) == [7, 7]


def test_the_batch_norm_depends_on_the_batch() -> None:
    """By the batch's norm all samples take the same steps, and a sample depends on the others."""
    model = sf.GaussianMixture(VPSDE(), [1, 1], torch.tensor([0.1, 0.8]).view(2, 1, 1, 1), [0.02, 0.1])
    sampler = sf.Sampler(model, solver="rk45", error_norm="batch", rtol=1e-3, atol=1e-3)
    assert sampler.batch_dependent
    together = sampler.sample(range(6))
    assert len(set(sampler.evaluations(range(6)))) == 1
    assert not torch.equal(sampler.sample([2])[0], together[2])


def test_nan_names_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is NaN below t = 0.5, and one that is from the start."""
    for high in (0.5, 2.0):
        model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
        score = model.network.forward

        def breaking(x: Tensor, t: Tensor, score: Callable[..., Tensor] = score, high: float = high) -> Tensor:
            return score(x, t) * torch.where(t > high, 1.0, math.nan).view(-1, 1, 1, 1)

        monkeypatch.setattr(model.network, "forward", breaking)
        for solver in ("rk45", "ggf"):
            with pytest.raises(IntegrationError, match=r"the sample of seed 7 stopped at t = .*NaN or infinite"):
                sf.sample(model, [7], solver=solver)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"solver": "rk45", "steps": 10}, "steps is 10, but solver 'rk45' chooses its steps"),
        ({"solver": "rk45", "grid": "karras"}, "grid is 'karras'"),
        ({"solver": "rk45", "rtol": 0.0}, "rtol is 0.0"),
        ({"solver": "ggf", "error_norm": "batch"}, "'ggf' has only error_norm='sample'"),
        ({"solver": "ggf", "probability_flow": True}, "probability_flow is True"),
        ({"solver": "rk45", "eps": 1.5}, "eps is 1.5"),
        ({"solver": "em", "rtol": 0.1}, "rtol is 0.1, but only the solvers 'rk45' and 'ggf'"),
        ({"solver": "rk46"}, "did you mean 'rk45'"),
        ({"solver": "rk45", "error_norm": "max"}, "unknown error_norm 'max'"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    """One sentence with the value and the fix."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    with pytest.raises(ValueError, match=sentence):
        sf.Sampler(model, **options)


def test_ggf_is_not_defined_on_cld() -> None:
    """The message names the solver that is."""
    model = sf.GaussianMixture.gaussian(CLDSDE(), MEAN, STD, (1, 2, 2))
    with pytest.raises(ValueError, match="'ggf' is not defined on the SDE 'cld'; choose 'rk45'"):
        sf.Sampler(model, solver="ggf")


def test_a_change_that_cannot_be_followed_yet_is_followed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out while a changed network is prepared, the next run has the change in every step."""
    model = sf.load("digits-vp")
    sampler = sf.Sampler(model, "rk45", rtol=0.5, atol=0.5)
    sampler.sample([0])
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.25)
    made = evaluator

    def short(*arguments: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(adaptive, "evaluator", short)
    with pytest.raises(torch.OutOfMemoryError):
        sampler.sample([0])
    monkeypatch.setattr(adaptive, "evaluator", made)
    assert torch.equal(sampler.sample([0]), sf.sample(model, [0], solver="rk45", rtol=0.5, atol=0.5))


def test_neutral_values_are_no_options() -> None:
    """Options with a neutral value are accepted."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    assert (
        sf.Sampler(model, "rk45", original=False, langevin_norm="sample", probability_flow=True).options.solver
        == "rk45"
    )
    with pytest.raises(ValueError, match="original is True, but solver 'rk45' chooses its steps"):
        sf.Sampler(model, "rk45", original=True)
