# SPDX-License-Identifier: Apache-2.0
"""Inputs of a network for each seed, classifier-free guidance and autoguidance, in every kind of run."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.model import ScoreFunction
from tests.support.chance import assert_moments
from tests.support.recorded_graphs import RecordedGraphs

SHAPE = (1, 2, 2)
CENTRES = torch.tensor([-0.6, 0.1, 0.9, 0.0])
"""The mean of each class; the last is that of no class."""
STDS = torch.tensor([0.3, 0.3, 0.3, 0.8])
SCHEDULE = sf.Schedule(lambda t: np.cos(1.565 * t), lambda t: np.sin(1.565 * t))


class ConditionalNetwork(nn.Module):
    """The exact noise of class-conditional data N(CENTRES[y], STDS[y]^2)."""

    centres: Tensor

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("centres", CENTRES)
        self.stds = nn.Parameter(STDS / sharpness)
        self.batches: list[int] = []

    def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
        self.batches.append(len(x))
        scale, std = (
            torch.from_numpy(value).float().view(-1, 1, 1, 1) for value in SCHEDULE.marginal(labels.double().numpy())
        )
        mean, variance = self.centres[y].view(-1, 1, 1, 1), self.stds[y].view(-1, 1, 1, 1) ** 2
        return std * (x - scale * mean) / (scale**2 * variance + std**2)


def conditional(sharpness: float = 1.0) -> ScoreFunction:
    """Return the model of a `ConditionalNetwork`."""
    network = ConditionalNetwork(sharpness)
    return sf.wrap(network, SCHEDULE, prediction="epsilon", shape=SHAPE, labels="time", data_range=None)


def of_class(number: int, scale: float = 1.0) -> sf.GaussianMixture:
    """Return the exact model of one class; with ``scale``, the data to which guidance by the null class tilts it."""
    precision = scale / STDS[number] ** 2 + (1 - scale) / STDS[3] ** 2
    mean = (scale * CENTRES[number] / STDS[number] ** 2 + (1 - scale) * CENTRES[3] / STDS[3] ** 2) / precision
    return sf.GaussianMixture.gaussian(SCHEDULE, float(mean), float(precision**-0.5), SHAPE)


OPTIONS: dict[str, dict[str, Any]] = {
    "dpmpp_2m": {"steps": 20, "grid": "logsnr"},
    "pc": {"steps": 30, "grid": "logsnr"},
    "rk45": {"rtol": 1e-3, "atol": 1e-3},
    "ggf": {"rtol": 0.05, "atol": 0.05},
}


@pytest.mark.parametrize("solver", OPTIONS)
def test_each_seed_has_its_input(solver: str) -> None:
    """The samples of each class are those of a model of this class alone."""
    model, seeds, classes = conditional(), [5, 0, 9, 4], [2, 0, 1, 2]
    samples = sf.sample(model, seeds, solver=solver, inputs={"y": torch.tensor(classes)}, **OPTIONS[solver])
    for seed, number, sample in zip(seeds, classes, samples, strict=True):
        mixture = of_class(number)
        mixture.data_range = None
        (expected,) = sf.sample(mixture, [seed], solver=solver, **OPTIONS[solver])
        torch.testing.assert_close(sample, expected, rtol=1e-4, atol=1e-4)


def test_inputs_repeat_over_the_seeds() -> None:
    """Without seeds, seed s gets row s mod N, in any batch and order."""
    sampler = sf.Sampler(conditional(), "ddim", 8, inputs={"y": [0, 1, 2]}, batch_size=2)
    first, second = sampler.sample([4, 2, 1, 7]), sampler.sample([1, 7, 4, 2])
    torch.testing.assert_close(first, second[[2, 3, 0, 1]], rtol=0, atol=1e-6)
    alone = sf.sample(conditional(), [4], solver="ddim", steps=8, inputs={"y": [1]})
    torch.testing.assert_close(first[:1], alone, rtol=0, atol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("scale", [1.0, 2.0, 0.0])
def test_classifier_free_guidance(scale: float, run_seed: int) -> None:
    """At a scale w the score is w strong + (1 - w) weak; w = 1 and 0 give the two distributions themselves."""
    guidance = sf.ClassifierFreeGuidance(scale=scale, null={"y": 3})
    sampler = sf.Sampler(
        conditional(), "dpmpp_2m", 40, grid="logsnr", inputs={"y": [2]}, guidance=guidance, run_seed=run_seed,
        batch_size=1000,
    )  # fmt: skip
    assert sampler.nfe == (40 if scale == 1 else 80)
    samples = sampler.sample(range(5000))
    if scale != 2.0:
        number = 2 if scale == 1 else 3
        assert_moments(samples, float(CENTRES[number]), float(STDS[number]), bias=1e-2)
        return
    # The flow is linear: d(mean)/dt etc. are those of the guided score, integrated here with many small steps.
    mean, std = 0.0, 1.0
    times = np.linspace(1, SCHEDULE.sampling_eps, 40_001)
    for start, stop in pairwise(times):
        t = np.array((start + stop) / 2)
        alpha, sigma = SCHEDULE.marginal(t)
        drift, slope, offset = float(SCHEDULE.drift(t)), 0.0, 0.0
        for weight, number in ((scale, 2), (1 - scale, 3)):
            variance = float(alpha) ** 2 * float(STDS[number]) ** 2 + float(sigma) ** 2
            slope += weight / variance
            offset += weight * float(alpha) * float(CENTRES[number]) / variance
        growth = drift * 1.0 + float(SCHEDULE.diffusion(t)) ** 2 / 2 * slope
        mean += (stop - start) * (growth * mean - float(SCHEDULE.diffusion(t)) ** 2 / 2 * offset)
        std *= math.exp((stop - start) * growth)
    assert_moments(samples, mean, std, bias=2e-2)


def test_guidance_of_scale_1_is_the_conditional_model() -> None:
    """A scale of 1, everywhere or outside of the interval, costs and changes nothing."""
    plain = sf.Sampler(conditional(), "ddim", 10, inputs={"y": [1]})
    expected = plain.sample(range(4))
    for guidance in (
        sf.ClassifierFreeGuidance(scale=1.0, null={"y": 3}),
        sf.ClassifierFreeGuidance(scale=4.0, null={"y": 3}, interval=(0.5, 0.501)),
        sf.Autoguidance(scale=1.0, model=conditional(0.5)),
    ):
        sampler = sf.Sampler(conditional(), "ddim", 10, inputs={"y": [1]}, guidance=guidance)
        assert sampler.nfe == plain.nfe == 10
        assert torch.equal(sampler.sample(range(4)), expected)


def test_guidance_in_an_interval() -> None:
    """Rows in the interval evaluate a batch of twice the size; progress counts two evaluations for them."""
    model = conditional()
    guidance = sf.ClassifierFreeGuidance(scale=3.0, null={"y": 3}, interval=(0.2, 0.6))
    sampler = sf.Sampler(model, "ddim", 10, grid="uniform", inputs={"y": [1]}, guidance=guidance)
    guided = sum(0.2 <= t <= 0.6 for t in sampler.table.times)
    assert 2 <= guided <= 8 and sampler.nfe == 10 + guided
    network = model.network.network
    assert isinstance(network, ConditionalNetwork)
    network.batches.clear()
    progress: list[tuple[int, int]] = []
    sampler.sample([0, 1, 2], lambda done, total: progress.append((done, total)))
    assert network.batches.count(6) == guided and network.batches.count(3) == 10 - guided
    assert progress[-1] == (sampler.nfe, sampler.nfe)


@pytest.mark.parametrize("solver", ["ddim", "rk45"])
def test_autoguidance(solver: str) -> None:
    """Both networks have the seed's input; the result is that of one network that returns the combination."""
    options: dict[str, Any] = {"steps": 12, "grid": "logsnr"} if solver == "ddim" else {"rtol": 1e-4, "atol": 1e-4}

    class Combined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strong, self.weak = ConditionalNetwork(), ConditionalNetwork(0.5)

        def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
            weak = self.weak(x, labels, y)
            return weak + 2.5 * (self.strong(x, labels, y) - weak)

    combined = sf.wrap(Combined(), SCHEDULE, prediction="epsilon", shape=SHAPE, labels="time", data_range=None)
    inputs = {"y": [0, 1, 2, 1]}
    expected = sf.sample(combined, range(4), solver=solver, inputs=inputs, **options)
    guidance = sf.Autoguidance(scale=2.5, model=conditional(0.5))
    sampler = sf.Sampler(conditional(), solver, inputs=inputs, guidance=guidance, **options)
    torch.testing.assert_close(sampler.sample(range(4)), expected, rtol=1e-4, atol=1e-4)
    assert min(sampler.evaluations(range(4))) >= 24


def test_likelihood_of_a_class() -> None:
    """Densities, codes and guided flows take inputs too."""
    model, points = conditional(), torch.linspace(-1, 1, 12).view(3, *SHAPE)
    classes = torch.tensor([0, 1, 2])
    densities = sf.likelihood(model, points, inputs={"y": classes}, probe="exact", eps=SCHEDULE.sampling_eps)
    for point, number, density in zip(points, classes, densities.log_density, strict=True):
        mixture = of_class(int(number))
        mixture.data_range = None
        alone = sf.likelihood(mixture, point[None], probe="exact", eps=SCHEDULE.sampling_eps)
        torch.testing.assert_close(density[None], alone.log_density, rtol=1e-3, atol=1e-3)
    codes = sf.encode(model, points, inputs={"y": classes}, eps=SCHEDULE.sampling_eps)
    decoded = sf.decode(model, codes, inputs={"y": classes}, eps=SCHEDULE.sampling_eps)
    torch.testing.assert_close(decoded, points, rtol=0, atol=1e-3)
    guidance = sf.ClassifierFreeGuidance(scale=1.5, null={"y": 3})
    guided = sf.likelihood(model, points, inputs={"y": classes}, guidance=guidance, eps=SCHEDULE.sampling_eps)
    assert (guided.log_density != densities.log_density).all()


def test_captured_and_compiled(replayed: Any) -> None:
    """Inputs and guidance are inside captured graphs and compiled networks: each batch gets its own inputs."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 4)

        def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(x + self.embedding(y).view(-1, *SHAPE)) * (1 + labels).view(-1, 1, 1, 1)

    torch.manual_seed(0)
    model = sf.wrap(Network(), SCHEDULE, prediction="epsilon", shape=SHAPE, labels="time", data_range=None)
    guidance = sf.ClassifierFreeGuidance(scale=3.0, null={"y": 3}, interval=(0.2, 0.6))
    plain, captured = (sf.Sampler(model, "dpmpp_2m", 8, inputs={"y": [0, 1, 2]}, guidance=guidance) for _ in range(2))
    graphs: RecordedGraphs = replayed(captured)
    compiled = sf.Sampler(model, "dpmpp_2m", 8, inputs={"y": [0, 1, 2]}, guidance=guidance, compile=True)
    for seeds in ([0, 1, 2, 3], [5, 4], [1, 2, 3, 7]):
        expected = plain.sample(seeds)
        torch.testing.assert_close(captured.sample(seeds), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(compiled.sample(seeds), expected, rtol=0, atol=1e-5)
    assert graphs.captured > 1 and graphs.replayed


def test_description_has_inputs_and_guidance() -> None:
    """What decides the samples is in the description."""
    null = sf.ClassifierFreeGuidance(scale=3.0, null={"y": 3})

    def description(**options: Any) -> dict[str, Any]:
        return sf.Sampler(conditional(), "ddim", 5, **options).describe()

    descriptions = [
        description(inputs={"y": [0, 1]}),
        description(inputs={"y": [1, 0]}),
        description(inputs=sf.Inputs({"y": [0, 1]}, seeds=[3, 4])),
        description(inputs={"y": [0, 1]}, guidance=null),
        description(inputs={"y": [0, 1]}, guidance=sf.ClassifierFreeGuidance(scale=3.0, null={"y": 2})),
        description(inputs={"y": [0, 1]}, guidance=sf.Autoguidance(scale=3.0, model=conditional(0.5))),
    ]
    for index, one in enumerate(descriptions):
        assert all(one != other for other in descriptions[:index])
    assert description(inputs={"y": [0, 1]}) == descriptions[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"ConditionalNetwork needs the inputs \['y'\], and was given \[\]: pass inputs=\{'y': ...\} with a row"),
        ({"inputs": {"z": [0]}}, r"needs the inputs \['y'\], and was given \['z'\]"),
        ({"inputs": [1, 2]}, r"inputs is of type list; pass values by name, such as \{'y': \[1, 2\]\}"),
        ({"inputs": {"y": None}}, "input 'y' is of type NoneType; it must be an array of numbers"),
        ({"inputs": {"y": [0, 9, 1]}}, r"cannot be evaluated .*, y torch.int64 \(2,\): index"),
        (
            {"inputs": {"y": [1]}, "guidance": sf.ClassifierFreeGuidance(scale=2, null={"y": 3}, interval=(2.0, 3.0))},
            r"interval is \(2.0, 3.0\), but the times of 'schedule' are from 0.001 to 1: give times between them",
        ),
        ({"inputs": {"y": [0.5]}}, r"cannot be evaluated .*, y torch.float32 \(2,\): "),
        ({"inputs": {"y": 3}}, r"input 'y' is 3; it must have a row for each seed, such as \[3\]"),
        ({"inputs": {"y": [1, 2], "z": [1]}}, r"the inputs have \{'y': 2, 'z': 1\} rows; give each"),
        ({"inputs": sf.Inputs({"y": [1, 2]}, seeds=[0, 1])}, "seed 5 has no input"),
        (
            {"inputs": {"y": [1]}, "guidance": sf.ClassifierFreeGuidance(scale=2, null={"label": 3})},
            r"the null inputs of the guidance are \['label'\], but the inputs are \['y'\]",
        ),
        (
            {"inputs": {"y": [1]}, "guidance": sf.ClassifierFreeGuidance(scale=2, null={"y": [3]})},
            r"the null value of 'y' has shape \(1,\), but a row of the input has \(\); give one of that shape",
        ),
        (
            {"inputs": {"y": [1]}, "guidance": sf.ClassifierFreeGuidance(scale=2, null={"y": 3.5})},
            "the null value of 'y' is 3.5, but the input has integers: give an integer",
        ),
        (
            {"inputs": {"y": [1]}, "guidance": sf.Autoguidance(scale=2, model=of_class(0))},
            "autoguidance needs two models with the same",
        ),
    ],
)
def test_misuse(options: dict[str, Any], message: str) -> None:
    """A mistake is explained in one sentence."""
    with pytest.raises(ValueError, match=message):
        sf.Sampler(conditional(), "ddim", 3, **options).sample([5])


def test_misuse_of_guidance() -> None:
    """Scales and intervals are checked when they are given; networks of this package take no inputs."""
    with pytest.raises(ValueError, match="scale is nan; it must be a finite number"):
        sf.ClassifierFreeGuidance(scale=math.nan, null={"y": 3})
    with pytest.raises(ValueError, match=r"interval is \(0.8, 0.2\); it must be times \(low, high\)"):
        sf.Autoguidance(scale=2, model=conditional(), interval=(0.8, 0.2))
    with pytest.raises(TypeError, match=r"null is 3; it must be values by the name of the input, such as \{'y': 10\}"):
        sf.ClassifierFreeGuidance(scale=2, null=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"guidance is of type float; pass ClassifierFreeGuidance\("):
        sf.Sampler(conditional(), inputs={"y": [1]}, guidance=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the inputs \['y'\] have 3 rows for 4 seeds; give a row for each seed"):
        sf.sample(conditional(), 4, inputs={"y": [0, 1, 2]})
    with pytest.raises(ValueError, match=r"inputs are \['y'\], but NCSNpp takes none: omit them"):
        sf.Sampler(sf.load("digits-ve"), inputs={"y": [1]})


def test_memory_of_an_evaluation() -> None:
    """The batch that fits is searched anew for other inputs and guidance, which need other memory."""
    guidance = sf.ClassifierFreeGuidance(scale=2.0, null={"y": 3})
    kinds = {
        sf.Sampler(conditional(), "ddim", 3, inputs={"y": [1]}, guidance=given).runner.evaluation
        for given in (None, guidance)
    } | {sf.Sampler(of_class(1), "ddim", 3).runner.evaluation}
    assert len(kinds) == 3 and "output" in kinds
