# SPDX-License-Identifier: Apache-2.0
"""Wrapped networks: every prediction on every schedule samples as the exact score does, and misuse is explained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.generate import generate
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.solvers import SolverOptions
from scoresde_fast.solvers.noise_schedule import time_of
from tests.support.own_networks import CASES, OwnNetwork, mixture, wrapped

SOLVERS = (
    SolverOptions("dpmpp_2m", 20, grid="logsnr"),
    SolverOptions("unipc", 12, grid="karras"),
    SolverOptions("heun", 12, grid="karras"),
    SolverOptions("sa", 15, grid="logsnr"),
    SolverOptions("pc", 40, grid="logsnr"),
    SolverOptions("reverse_diffusion", 40, "ald", grid="logsnr"),
)


@pytest.mark.parametrize("options", SOLVERS, ids=lambda options: f"{options.solver}-{options.paired_corrector}")
@pytest.mark.parametrize("name", CASES)
def test_same_samples_as_the_score(name: str, options: SolverOptions) -> None:
    """With the same noise, samples agree to 1e-5 with those of the score model."""
    sde = CASES[name].sde
    if options.paired_corrector == "langevin":
        # The step size needs the score. In float32, a prediction of x(0) does not determine it at very small noise.
        options = replace(options, eps=float(time_of(sde, np.array(0.05), sde.sampling_eps, sde.T)))
    expected = sf.Sampler(mixture(sde), options).sample(range(16))
    samples = sf.Sampler(wrapped(name), options).sample(range(16))
    # Cosine betas end at sigma / alpha = 20 000, which multiplies the rounding of the score.
    amplification = float(sde.noise_to_signal(sde.T))
    tolerance = 1e-5 if amplification <= 1000 else amplification * 2**-24
    assert (samples - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.statistical
@pytest.mark.parametrize("name", CASES)
def test_moments(name: str, run_seed: int) -> None:
    """20 000 samples have the mean and the covariance of the data, within four standard errors of each direction."""
    data = mixture(CASES[name].sde).network
    options = SolverOptions("dpmpp_2m", 60, grid="logsnr")
    samples = sf.Sampler(wrapped(name), options, run_seed=run_seed, batch_size=5000).sample(range(20_000))
    values = samples.flatten(1).double()
    weights, means = data.log_weights.exp(), data.means.flatten(1)
    mean = weights @ means
    # Along the line between the two means, and at right angles to it.
    along = nn.functional.normalize(means[1] - means[0], dim=0)
    across = torch.zeros_like(along)
    across[:2] = nn.functional.normalize(torch.stack([along[1], -along[0]]), dim=0)
    for direction in (along, across):
        projected = (values - mean) @ direction
        centres = (means - mean) @ direction
        variance = float(weights @ (data.stds**2 + centres**2))
        fourth = float(weights @ (3 * data.stds**4 + 6 * data.stds**2 * centres**2 + centres**4))
        assert abs(float(projected.mean())) <= 4 * math.sqrt(variance / 20_000)
        error = float(projected.square().mean()) - variance
        assert abs(error) <= 4 * math.sqrt((fourth - variance**2) / 20_000)


class Small(nn.Module):
    """A network with a weight and an embedding of integer labels, whose output is ``form`` of a tensor."""

    def __init__(self, form: Any = lambda output: output) -> None:
        super().__init__()
        self.convolution, self.embedding, self.form = nn.Conv2d(3, 3, 3, padding=1), nn.Embedding(1000, 3), form

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        return self.form(self.convolution(x) + self.embedding(labels)[:, :, None, None])


def small(network: nn.Module, **options: Any) -> ScoreFunction:
    """Return the model of a network with integer labels."""
    chosen: dict[str, Any] = {"prediction": "epsilon", "shape": (3, 4, 4), **options}
    return sf.wrap(network, sf.Betas.linear(), **chosen)


@pytest.mark.parametrize(
    "form",
    [
        lambda y: SimpleNamespace(sample=y),
        lambda y: (y,),
        lambda y: torch.cat([y, y**2], 1),
        lambda y: (SimpleNamespace(sample=y), 3),
    ],
    ids=["object", "tuple", "learned variance", "tuple of an object"],
)
def test_forms_of_the_output(form: Any) -> None:
    """Objects with a sample, tuples and learned variances give the samples of the tensor."""
    torch.manual_seed(0)
    network = Small()
    expected = sf.sample(small(network), 2, solver="ddim", steps=4)
    network.form = form
    assert torch.equal(sf.sample(small(network), 2, solver="ddim", steps=4), expected)


def test_labels_reach_the_network() -> None:
    """Indices are int64, and others float32; a network keeps its mode, and its weights may change later."""
    model = wrapped("betas-epsilon")
    network = model.network.network
    assert isinstance(network, OwnNetwork) and set(network.seen) == {torch.int64} and network.training
    sampler = sf.Sampler(model, "ddim", 4)
    first = sampler.sample(2)
    with torch.no_grad():
        network.weight.fill_(0.1)
    assert not torch.equal(sampler.sample(2), first)
    assert all(module.training for module in network.modules())
    other = wrapped("edm-denoiser").network.network
    assert isinstance(other, OwnNetwork) and set(other.seen) == {torch.float32}


class Normalised(nn.Module):
    """A network with batch normalisation and dropout, which differ in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.layers[2].eval()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("solver", ["ddim", "rk45"])
def test_mode_of_the_network(solver: str) -> None:
    """A run is in evaluation mode, and leaves the mode and the statistics of each module as they were."""
    torch.manual_seed(0)
    network = Normalised()
    model = sf.wrap(network, sf.EDM(), prediction="epsilon", shape=(3, 4, 4), data_range=None)
    options: dict[str, Any] = {"steps": 3} if solver == "ddim" else {"rtol": 0.1, "atol": 0.1}
    sampler = sf.Sampler(model, solver, **options)
    first = sampler.sample(4)
    network.train()
    network.layers[2].eval()
    assert torch.equal(sampler.sample(4), first)
    normalisation = network.layers[1]
    assert isinstance(normalisation, nn.BatchNorm2d) and normalisation.num_batches_tracked == 0
    assert network.training and normalisation.training and not network.layers[2].training


def test_networks_of_the_package_are_folded() -> None:
    """A wrapped NCSN++ is evaluated in its folded form, and gives the samples of the loaded model."""
    loaded = sf.load("digits-vp")
    model = sf.wrap(loaded.network, loaded.sde, prediction="epsilon", shape=(3, 16, 16))
    options: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 4, "grid": "logsnr"}
    assert torch.equal(sf.sample(model, 2, **options), sf.sample(loaded, 2, **options))


def test_cld() -> None:
    """On CLD a network predicts the score of the velocity, or its noise."""
    sde = CLDSDE()

    class Velocity(nn.Module):
        def forward(self, u: Tensor, t: Tensor) -> Tensor:
            return -u.chunk(2, dim=1)[1] * t.view(-1, 1, 1, 1)

    class Noise(nn.Module):
        def forward(self, u: Tensor, t: Tensor) -> Tensor:
            ell = torch.from_numpy(sde.ell(t.double().numpy())).float().view(-1, 1, 1, 1)
            return Velocity()(u, t) / -ell

    score = sf.wrap(Velocity(), sde, prediction="score", shape=(2, 3, 3), data_range=None)
    noise = sf.wrap(Noise(), sde, prediction="epsilon", shape=(2, 3, 3), data_range=None)
    expected = sf.sample(score, 3, solver="sscs", steps=10)
    assert (sf.sample(noise, 3, solver="sscs", steps=10) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_data_range() -> None:
    """Samples are scaled from the range of the training data to [0, 1]."""
    torch.manual_seed(0)
    network = Small()
    centred = sf.sample(small(network, data_range=None), 2, solver="ddim", steps=4)
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        images = sf.sample(small(network, data_range=(low, high)), 2, solver="ddim", steps=4)
        assert torch.equal(images, ((centred - low) / (high - low)).clamp(0, 1))
        model = small(network, data_range=(low, high))
        assert torch.allclose(model.to_images(model.from_images(images)), images, atol=1e-6)


def test_identity() -> None:
    """The description tells apart what decides the samples, and is the same for the same model."""

    class Renamed(Small):
        pass

    class Changed(Small):
        def forward(self, x: Tensor, labels: Tensor) -> Any:
            return 2 * super().forward(x, labels)

    def description(network: nn.Module, schedule: Any, **options: Any) -> dict[str, Any]:
        torch.manual_seed(1)
        for weight in network.parameters():
            nn.init.normal_(weight)
        chosen: dict[str, Any] = {"prediction": "epsilon", "shape": (3, 4, 4), **options}
        return sf.Sampler(sf.wrap(network, schedule, **chosen), "ddim", 3).describe()["model"]

    linear, cosine = sf.Betas.linear(), sf.Betas.cosine()
    index = lambda t: (999 * t).astype(int)  # noqa: E731
    descriptions = [
        description(Small(), linear),
        description(Small(), cosine),
        description(Small(), linear, prediction="sample"),
        description(Small(), linear, labels=index),
        description(Small(), linear, shape=(3, 4, 8)),
        description(Small(), linear, data_range=(0, 1)),
        description(Renamed(), linear),
        description(Changed(), linear),
        description(Small(), sf.Schedule(lambda t: 1 - t**2, lambda t: t, T=0.99), labels=index),
        description(Small(), sf.Schedule(lambda t: 1 - t**2, lambda t: t * 1.001, T=0.99), labels=index),
    ]
    for position, one in enumerate(descriptions):
        assert all(one != other for other in descriptions[:position]), position
    assert description(Small(), linear) == descriptions[0]
    assert description(Small(), linear, labels="index") == descriptions[0]


def test_sets_of_other_models_are_refused(tmp_path: Path) -> None:
    """A set of one network on one schedule is not continued on another; the message names the difference."""
    torch.manual_seed(0)
    network = Small()
    generate(sf.Sampler(small(network), "ddim", 3), [0, 1], tmp_path / "set", progress=False)
    other = sf.wrap(network, sf.Betas.cosine(), prediction="epsilon", shape=(3, 4, 4))
    with pytest.raises(ValueError, match=r"another configuration \(sampler.model.sde.marginals_sha256: .* saved, "):
        generate(sf.Sampler(other, "ddim", 3), [2], tmp_path / "set", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "eps"}, "unknown prediction 'eps' - did you mean 'epsilon'"),
        ({"prediction": "flow"}, r"prediction='flow' needs a schedule with alpha = 1 - t and sigma = t, but Betas"),
        ({"prediction": "denoiser"}, "prediction='denoiser' needs a schedule with alpha = 1"),
        ({"labels": "indices"}, "unknown labels 'indices' - did you mean 'index'"),
        ({"labels": lambda t: t[:3]}, r"labels returns an array of dtype float64 and shape \(3,\) for times \(257,\)"),
        ({"labels": "time"}, r"Small cannot be evaluated on float32 samples \(2, 3, 4, 4\) with float32 labels"),
        ({"labels": lambda t: (2000 * t).astype(int)}, "Small cannot be evaluated .*: index out of range"),
        ({"shape": (4, 4, 4)}, r"Small cannot be evaluated on float32 samples \(2, 4, 4, 4\)"),
        ({"shape": (3, 4.5, 4)}, r"shape is \(3, 4.5, 4\); it must be the shape of one sample"),
        ({"data_range": (1, -1)}, r"data_range is \(1, -1\); it must be \(low, high\)"),
        ({"data_range": (0, 10**400)}, r"data_range is \(0, 1000.*\); it must be \(low, high\)"),
    ],
)
def test_misuse(options: dict[str, Any], message: str) -> None:
    """A mistake is explained in one sentence."""
    with pytest.raises(ValueError, match=message):
        small(Small(), **options)


def test_misuse_of_networks() -> None:
    """Other shapes, dtypes and objects are explained in one sentence."""
    with pytest.raises(ValueError, match=r"Small returns shape \(2, 1, 4, 4\) for samples .*; with shape=\(3, 4, 4\)"):
        small(Small(lambda y: y[:, :1]))
    for change, message in (
        (Tensor.int, "numbers of torch.int32, not"),
        (lambda y: y + 0j, "numbers of torch.complex64, not floating-point numbers"),
        (Tensor.sum, r"a tensor of shape \(\), not one like its samples"),
    ):
        with pytest.raises(ValueError, match=rf"Small cannot be evaluated .*: it returns {message}"):
            small(Small(change))
    with pytest.raises(ValueError, match=r"the weights of Small are float16; call .float\(\) on it"):
        small(Small().half())
    with pytest.raises(TypeError, match="network is of type int; pass a module or function"):
        sf.wrap(3, sf.EDM(), prediction="denoiser", shape=(3, 4, 4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="network is of type ScoreFunction; pass a module or function"):
        small(small(Small()))
    with pytest.raises(TypeError, match="network is the class Small; pass a module or function"):
        small(Small)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Small cannot be evaluated .*: it returns dict, not a tensor or an object"):
        small(Small(lambda y: {"sample": y}))
    with pytest.raises(TypeError, match=r"labels fails for a NumPy array of times: .*; use functions of NumPy"):
        small(Small(), labels=lambda t: torch.cos(t))
    with pytest.raises(TypeError, match=r"schedule is of type list; pass a schedule such as Betas\(array\)"):
        sf.wrap(Small(), [0.1, 0.2], prediction="epsilon", shape=(3, 4, 4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model is of type Small; pass a model, for example scoresde_fast\.wrap"):
        sf.sample(Small(), 2)  # type: ignore[arg-type]
    for convert in (nn.Module.half, nn.Module.double):
        model = small(Small())
        convert(model)
        with pytest.raises(ValueError, match=r"the weights of Small are float(16|64); call \.float"):
            sf.sample(model, 2)


@pytest.mark.parametrize("state", ["default dtype", "default device", "autocast"])
def test_global_state_of_torch(state: str) -> None:
    """Default dtypes, default devices and an autocast of the caller do not change the samples."""
    torch.manual_seed(0)
    models: list[tuple[ScoreFunction, dict[str, Any]]] = [
        (small(Small()), {"solver": "ddim", "steps": 3}),
        (wrapped("edm-denoiser"), {"solver": "pc", "steps": 20, "grid": "karras"}),
        (sf.load("digits-vp"), {"solver": "unipc", "steps": 3}),
        (sf.load("digits-cld"), {"solver": "rk45", "rtol": 0.3, "atol": 0.3}),
    ]
    expected = [sf.sample(model, 2, **options) for model, options in models]
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=state == "autocast"):
            if state == "default dtype":
                torch.set_default_dtype(torch.float64)
            elif state == "default device":
                torch.set_default_device("meta")
            samples = [sf.sample(model, 2, **options) for model, options in models]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for ours, alone in zip(samples, expected, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, alone)
