# SPDX-License-Identifier: Apache-2.0
"""The sampler: a seed gives the same image in any batch, and invalid options are rejected at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sdes import VESDE, VPSDE
from scoresde_fast.solvers import SolverOptions
from tests.support.chance import assert_moments, binomial_bounds
from tests.support.tiny import ROUNDING


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_noise_does_not_depend_on_the_batch(batch_size: int) -> None:
    """The noise of a seed is bit-identical in every batch."""
    seeds = torch.tensor([5, 2, 9, 2**40, 0])
    whole = Noise(7, seeds).normal(3, (3, 5, 7))
    parts = [Noise(7, part).normal(3, (3, 5, 7)) for part in seeds.split(batch_size)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_images_do_not_depend_on_the_batch(tiny: sf.ScoreModel, batch_size: int) -> None:
    """With per-sample Langevin norms, PC images agree to float32 rounding for any batch size and order of seeds."""
    together = sf.sample(tiny, seeds=range(8), solver="pc", steps=6, batch_size=8)
    apart = sf.sample(tiny, seeds=range(7, -1, -1), solver="pc", steps=6, batch_size=batch_size)
    assert together.shape == (8, 3, 8, 8) and together.dtype == torch.float32
    assert together.min() >= 0 and together.max() <= 1 and together.std() > 0.05
    torch.testing.assert_close(together, apart.flip(0), rtol=0, atol=ROUNDING)


def test_langevin_norm_over_the_batch(tiny: sf.ScoreModel) -> None:
    """Langevin norms averaged over the batch, as published, are supported, and make an image depend on its batch."""
    sampler = sf.Sampler(tiny, "pc", 6, langevin_norm="batch")
    alone, together = sampler.sample([3]), sampler.sample([3, 4])[:1]
    assert sampler.batch_dependent and not torch.allclose(alone, together, atol=1e-4)


def test_run_seed_changes_the_images(tiny: sf.ScoreModel) -> None:
    """The same seeds give other images with another run seed."""
    first, second = (sf.sample(tiny, seeds=[1], steps=4, run_seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_defaults_are_the_models_own(tiny: sf.ScoreModel) -> None:
    """Options default to the configuration; if a solver is named, the configuration's corrector is not used."""
    own = sf.Sampler(tiny)
    assert isinstance(own.options, SolverOptions)
    assert (own.options.solver, own.options.corrector, own.options.steps) == ("reverse_diffusion", "langevin", 1000)
    assert own.nfe == 2000
    assert sf.Sampler(tiny, "euler_maruyama", 10).nfe == 10


def test_stream_yields_every_seed_in_order(tiny: sf.ScoreModel) -> None:
    """The batches carry their seeds; progress counts evaluations."""
    calls: list[tuple[int, int]] = []
    sampler = sf.Sampler(tiny, "euler_maruyama", 3)
    batches = list(sampler.stream([4, 2, 8], batch_size=2, on_step=lambda *call: calls.append(call)))
    assert [seeds for seeds, _ in batches] == [[4, 2], [8]]
    assert [len(images) for _, images in batches] == [2, 1]
    assert calls == [(1, 3), (2, 3), (3, 3)] * 2


def test_description_names_the_weights(tiny: sf.ScoreModel) -> None:
    """Two models that differ in one weight have different descriptions."""
    before = sf.Sampler(tiny, steps=2).describe()
    other = sf.create(tiny.config)
    other.load_state_dict(tiny.state_dict())
    assert sf.Sampler(other, steps=2).describe() == before
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert sf.Sampler(other, steps=2).describe()["model"]["weights_sha256"] != before["model"]["weights_sha256"]


class NaNNetwork(nn.Module):
    """A network that returns NaN for labels below 500."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return torch.where(labels[:, None, None, None] < 500, torch.nan, -x)


def test_nan_stops_the_run() -> None:
    """If the network returns NaN, the run stops with an error that names the step and the time."""
    model = ScoreFunction(NaNNetwork(), OfficialParametrisation(VPSDE()), (1, 2, 2))
    with pytest.raises(NonFiniteError, match=r"after step 21 of 40, at t = 0\.48"):
        sf.sample(model, seeds=[0, 1], solver="em", steps=40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langevin_norm": "batches"}, "unknown langevin_norm 'batches' - did you mean 'batch'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"run_seed": -1}, "run_seed is -1"),
        ({"seeds": [-4]}, r"seed -4 is out of range: choose an integer from 0 to 2\^63 - 1"),
        ({"seeds": [2**63]}, "seed 9223372036854775808 is out of range"),
        ({"seeds": [1.5]}, r"seed 1\.5 is out of range: choose an integer"),
        ({"seeds": "4"}, "seeds is '4'; pass a number of images or a sequence of integers"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not usable here( \(.*\))?; choose from: cpu"),
        ({"device": "gpu"}, "device 'gpu' is not usable here"),
        ({"device": "cpu:3"}, "device 'cpu:3' is not usable here"),
        ({"device": ""}, "device '' is not usable here"),
        ({"backend": ""}, "unknown backend ''"),
    ],
)
def test_bad_input(tiny: sf.ScoreModel, options: dict[str, Any], message: str) -> None:
    """The message gives the value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        sf.sample(tiny, **{"seeds": [0], "steps": 2, **options})


def test_name_instead_of_a_model() -> None:
    """If a name is passed instead of a model, the message gives the call that loads it."""
    with pytest.raises(TypeError, match=r"model is 'digits-vp'; pass a model, for example scoresde_fast\.load"):
        sf.sample("digits-vp", [0])  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.statistical
def test_mixture_samples_have_the_mixtures_moments(run_seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of a two-component mixture with the exact score have its weights, means and standard deviations.

    The bounds allow for the bias of only 200 steps and of a prior that ignores the data's mean.  Measured with 4 x 10^6
    samples, the bias was -0.008 in the larger weight and 2.1 % in a component's standard deviation.
    """
    means = torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1)
    model = sf.GaussianMixture(VESDE(0.01, 20.0), [0.3, 0.7], means, [0.2, 0.1])
    sampler = sf.Sampler(model, "reverse_diffusion", 200, batch_size=4000, run_seed=run_seed)
    monkeypatch.setattr(model, "to_images", lambda x: x)  # do not clip the samples
    x = sampler.sample(range(4000)).flatten()
    low, high = binomial_bounds(0.692, len(x))
    assert low <= (x > 0.5).float().mean() <= high
    assert_moments(x[x > 0.5], 2.0, 0.1, bias=0.021)
    assert_moments(x[x < 0.5], -1.0, 0.2, bias=0.021)
