# SPDX-License-Identifier: Apache-2.0
"""Adaptive samplers: exact flows, distributions, evaluation counts, independence of the batch, and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.flow import adaptive
from scoresde_fast.flow.codes import Decoder
from scoresde_fast.flow.integrate import IntegrationError
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.flow.probability_flow import CHUNK_SHARE
from scoresde_fast.loop.batches import CHUNK_PIXELS
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, ScalarSDE, SubVPSDE
from tests.support.chance import assert_moments
from tests.support.flow_models import small_network

MEAN, STD = 0.3, 0.5
SDE_OF: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_rk45_on_a_gaussian(name: str) -> None:
    """The flow of Gaussian data is known: a sample's distance from the mean, in standard deviations, is constant."""
    sde = SDE_OF[name]
    assert isinstance(sde, ScalarSDE)
    model = sf.GaussianMixture.gaussian(sde, MEAN, STD, (1, 3, 3))
    sampler = sf.Sampler(model, solver="rk45", denoise=False, rtol=1e-8, atol=1e-8)
    prior = model.prior(Noise(0, torch.arange(4)).normal(0, (1, 3, 3))).double()
    scale_T, std_T = map(float, sde.marginal(1.0))
    scale_eps, std_eps = map(float, sde.marginal(sde.sampling_eps))
    state_std_T, state_std_eps = math.hypot(scale_T * STD, std_T), math.hypot(scale_eps * STD, std_eps)
    exact = scale_eps * MEAN + state_std_eps / state_std_T * (prior - scale_T * MEAN)
    torch.testing.assert_close(sampler.sample(range(4)).double(), exact.clamp(0, 1), rtol=0, atol=2e-6)


def test_denoising_takes_one_more_evaluation() -> None:
    """Denoising ends at E[x(0) | x(eps)], which is known for Gaussian data."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 3, 3))
    noisy = sf.Sampler(model, solver="rk45", denoise=False)
    denoised = sf.Sampler(model, solver="rk45")
    x, x_0 = noisy.sample(range(3)), denoised.sample(range(3))
    assert [count + 1 for count in noisy.evaluations(range(3))] == denoised.evaluations(range(3))
    scale, std = map(float, VPSDE().marginal(1e-3))
    gain = scale * STD**2 / (scale**2 * STD**2 + std**2)
    inside = (x > 0) & (x < 1)
    torch.testing.assert_close(x_0[inside], (MEAN + gain * (x - scale * MEAN)).float()[inside], rtol=0, atol=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_ggf_samples_the_data(name: str, run_seed: int) -> None:
    """The mean and standard deviation of 6144 elements are those of Gaussian data, to 1 % of the standard deviation.

    The bound allows for the solver's error at a quarter of the default tolerances: over 147 456 elements the standard
    deviation was 0.3 to 0.5 % too small, with a standard error of 0.2 %, and the mean showed no error.
    """
    sde = SDE_OF[name]
    assert isinstance(sde, ScalarSDE)
    model = sf.GaussianMixture.gaussian(sde, MEAN, 0.05, (3, 16, 16))
    sampler = sf.Sampler(model, solver="ggf", rtol=0.005, atol=0.002, denoise=False, eps=1e-3, run_seed=run_seed)
    scale, std = map(float, sde.marginal(1e-3))
    assert_moments(sampler.sample(range(8)), scale * MEAN, math.hypot(scale * 0.05, std), bias=0.01)


def test_looser_tolerances_need_fewer_evaluations() -> None:
    """With looser tolerances ggf needs fewer evaluations; each attempt takes two."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 4, 4))
    counts = []
    for rtol in (0.01, 0.05):
        sampler = sf.Sampler(model, solver="ggf", rtol=rtol, denoise=False)
        sampler.sample(range(4))
        counts.append(sampler.evaluations(range(4)))
        assert all(count % 2 == 0 for count in counts[-1])
    assert all(fine > coarse for fine, coarse in zip(*counts, strict=True))


@pytest.mark.parametrize("solver", ["rk45", "ggf"])
def test_samples_do_not_depend_on_their_batch(solver: str) -> None:
    """A sample has the same bits and number of evaluations alone and in a batch; without strict it is close."""
    options: dict[str, Any] = {"solver": solver, "rtol": 0.02, "atol": 0.02}
    together = sf.Sampler(small_network("vpsde", centered=True), **options)
    images = together.sample([4, 9, 2])
    alone = sf.Sampler(small_network("vpsde", centered=True), **options)
    assert torch.equal(alone.sample([9])[0], images[1])
    assert alone.evaluations([9]) == together.evaluations([9])
    not_strict = sf.sample(small_network("vpsde", centered=True), [2, 4], strict=False, **options)
    torch.testing.assert_close(not_strict, images[[2, 0]], rtol=0, atol=1e-3)


class Perceptron(nn.Module):
    """A network whose products PyTorch computes differently, in the last bits, for one row and for several."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Linear(96, 48))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x.flatten(1)).view_as(x)


@pytest.mark.parametrize("function", ["rk45", "ggf", "likelihood", "encode", "decode"])
def test_batch_size_changes_no_bit(function: str, threads: Callable[[int], None]) -> None:
    """Seeds 0 to 7 have the same bits in one batch with two threads, and one by one with one; not so without strict."""
    shape = (3, 4, 4)
    model = sf.wrap(Perceptron(), VPSDE(), prediction="epsilon", shape=shape, labels="time", data_range=None)
    data = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))

    def run(batch_size: int, **strict: Any) -> Tensor:
        options = {"rtol": 0.01, "atol": 0.01, **strict}
        if function in ADAPTIVE:
            return sf.sample(model, range(8), solver=function, batch_size=batch_size, **options)
        of_batch: Callable[[list[int]], Tensor] = {
            "likelihood": lambda rows: sf.likelihood(model, data[rows], rows, **options).log_density,
            "encode": lambda rows: sf.encode(model, data[rows], rows, **options),
            "decode": lambda rows: Decoder(model, **options).decode(data[rows], rows),
        }[function]
        return torch.cat([of_batch(list(range(start, start + batch_size))) for start in range(0, 8, batch_size)])

    threads(2)
    together = run(8)
    threads(1)
    assert torch.equal(together, run(1)) and len(together.unique(dim=0)) == 8
    assert not torch.equal(run(8, strict=False), run(1, strict=False))


def test_equal_seeds_of_different_data() -> None:
    """Samples of the same seed but other data, or other noise of one's own, keep their own results."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    images, options = torch.tensor([0.2, 0.7]).view(2, 1, 1, 1).expand(2, 1, 2, 2), {"rtol": 0.01, "atol": 0.01}
    codes = sf.encode(model, images, seeds=[1, 1], **options)
    assert torch.equal(codes[1:], sf.encode(model, images[1:], seeds=[1], **options))
    sampler = sf.Sampler(model, "ddim", 3, strict=True)
    noise = torch.stack([-torch.ones(1, 2, 2), torch.ones(1, 2, 2)])
    assert not torch.equal(*sampler.sample([1, 1], noise=noise))


def test_padding_cannot_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that fill the gaps of a chunk take no steps, so that a network that fails on them stops no run."""
    monkeypatch.setitem(CHUNK_PIXELS, "cpu", 4 * CHUNK_SHARE * 4)  # chunks of four
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    score = model.network.forward
    for solver in ("rk45", "ggf"):
        expected = sf.sample(model, [2], solver=solver)

        def forward(x: Tensor, t: Tensor) -> Tensor:
            broken = torch.tensor([math.nan, math.nan, 0.0, math.nan]).view(-1, 1, 1, 1)
            return score(x, t) + (broken if len(x) == 4 else 0)

        with monkeypatch.context() as patch:
            patch.setattr(model.network, "forward", forward)
            sampler = sf.Sampler(model, solver, denoise=False)
            assert sampler.sample([2]).isfinite().all()
            with pytest.raises(IntegrationError, match="the sample of seed 3 stopped"):
                sampler.sample([2, 3])
        assert torch.equal(sf.sample(model, [2], solver=solver), expected)


def test_evaluations_are_known_after_a_run() -> None:
    """Before a run, only fixed-step solvers know the number of evaluations."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    sampler = sf.Sampler(model, solver="rk45")
    assert sampler.nfe is None
    with pytest.raises(ValueError, match="seed 3 has not been sampled"):
        sampler.evaluations([3])
    sampler.sample([3])
    assert sampler.evaluations([3])[0] > 20
    assert sf.Sampler(model, solver="em", steps=7).evaluations([1, 2]) == [7, 7]


def test_the_batch_norm_depends_on_the_batch() -> None:
    """With error_norm="batch" all samples take the same steps, and a sample depends on the others."""
    model = sf.GaussianMixture(VPSDE(), [1, 1], torch.tensor([0.1, 0.8]).view(2, 1, 1, 1), [0.02, 0.1])
    sampler = sf.Sampler(model, solver="rk45", error_norm="batch", rtol=1e-3, atol=1e-3)
    assert sampler.batch_dependent
    together = sampler.sample(range(6))
    assert len(set(sampler.evaluations(range(6)))) == 1
    assert not torch.equal(sampler.sample([2])[0], together[2])


def test_nan_names_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the seed, whether the network returns NaN below t = 0.5 or from the start."""
    for threshold in (0.5, 2.0):
        model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
        score = model.network.forward

        def forward(x: Tensor, t: Tensor, score: Callable[..., Tensor] = score, threshold: float = threshold) -> Tensor:
            return score(x, t) * torch.where(t > threshold, 1.0, math.nan).view(-1, 1, 1, 1)

        monkeypatch.setattr(model.network, "forward", forward)
        for solver in ("rk45", "ggf"):
            with pytest.raises(IntegrationError, match=r"the sample of seed 7 stopped at t = .*NaN or infinite"):
                sf.sample(model, [7], solver=solver)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk45", "steps": 10}, "steps is 10, but solver 'rk45' chooses its steps"),
        ({"solver": "rk45", "grid": "karras"}, "grid is 'karras'"),
        ({"solver": "rk45", "rtol": 0.0}, "rtol is 0.0"),
        ({"solver": "ggf", "error_norm": "batch"}, "'ggf' supports only error_norm='sample'"),
        ({"solver": "ggf", "probability_flow": True}, "probability_flow is True"),
        ({"solver": "rk45", "eps": 1.5}, "eps is 1.5"),
        ({"solver": "em", "rtol": 0.1}, "rtol is 0.1, but only the solvers 'rk45' and 'ggf'"),
        ({"solver": "rk46"}, "did you mean 'rk45'"),
        ({"solver": "rk45", "error_norm": "max"}, "unknown error_norm 'max'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """The error names the value and the remedy."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    with pytest.raises(ValueError, match=message):
        sf.Sampler(model, **options)


def test_ggf_is_not_defined_on_cld() -> None:
    """The message names the solver that supports CLD."""
    model = sf.GaussianMixture.gaussian(CLDSDE(), MEAN, STD, (1, 2, 2))
    with pytest.raises(ValueError, match="'ggf' is not defined on the SDE 'cld'; choose 'rk45'"):
        sf.Sampler(model, solver="ggf")


def test_solvers_are_implemented(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name in `ADAPTIVE` has an implementation; other names raise an error."""
    assert adaptive.MAKERS.keys() == ADAPTIVE.keys()
    with pytest.raises(ValueError, match="unknown adaptive solver 'rk54' - did you mean 'rk45'"):
        AdaptiveOptions("rk54").on(VPSDE())
    monkeypatch.setitem(ADAPTIVE, "new", ADAPTIVE["ggf"])
    with pytest.raises(KeyError, match="new"):
        sf.Sampler(sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2)), "new")


def test_failed_refresh_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out while a changed network is prepared, the next run uses the change in every step."""
    model = sf.load("digits-vp")
    sampler = sf.Sampler(model, "rk45", rtol=0.5, atol=0.5)
    sampler.sample([0])
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.25)

    def out_of_memory(*arguments: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(adaptive, "evaluators", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            sampler.sample([0])
    assert torch.equal(sampler.sample([0]), sf.sample(model, [0], solver="rk45", rtol=0.5, atol=0.5))


def test_unsupported_options_at_their_defaults() -> None:
    """rk45 accepts options of other solvers only at values without effect."""
    model = sf.GaussianMixture.gaussian(VPSDE(), MEAN, STD, (1, 2, 2))
    sampler = sf.Sampler(model, "rk45", original=False, langevin_norm="sample", probability_flow=True)
    assert sampler.options.solver == "rk45"
    with pytest.raises(ValueError, match="original is True, but solver 'rk45' chooses its steps"):
        sf.Sampler(model, "rk45", original=True)
