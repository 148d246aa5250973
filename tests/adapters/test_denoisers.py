# SPDX-License-Identifier: Apache-2.0
"""`from_k_diffusion` and `from_edm`: exact denoisers sample as the exact score does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.model import describe_model
from tests.support.own_networks import SHAPE, OwnNetwork, mixture

OPTIONS: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 12, "grid": "karras", "compile": False}


class Denoiser(nn.Module):
    """The exact denoiser of a mixture, with the call form of k-diffusion; ``shift`` adds to its output."""

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.exact = OwnNetwork(sf.EDM(), "denoiser", "time")
        self.sigma_min, self.sigma_max = torch.tensor(sigma_min), torch.tensor(sigma_max)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: Tensor) -> Tensor:
        x0 = self.exact(input, sigma)
        return x0 if "shift" not in kwargs else x0 + kwargs["shift"].view(-1, 1, 1, 1)


class Network(nn.Module):
    """The exact denoiser of a mixture, with the attributes and the call form of EDM; it returns float64."""

    img_channels, img_resolution = 2, 2

    def __init__(self, label_dim: int = 0, sigma_min: float = 0.0, sigma_max: float = math.inf) -> None:
        super().__init__()
        self.exact = OwnNetwork(sf.EDM(), "denoiser", "time")
        self.label_dim, self.sigma_min, self.sigma_max = label_dim, sigma_min, sigma_max

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None, force_fp32: bool = False) -> Tensor:
        x0 = self.exact(x, sigma).double()
        if self.label_dim == 0:
            return x0
        labels = torch.zeros(1, self.label_dim) if class_labels is None else class_labels
        return x0 + labels.float().reshape(-1, self.label_dim).argmax(1).view(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", ["k-diffusion", "edm"])
def test_same_samples_as_the_score(kind: str) -> None:
    """With the noise levels of the denoiser, samples agree to 1e-5 with those of the exact score."""
    model = (
        sf.from_k_diffusion(Denoiser(2**-7, 50.0), shape=SHAPE, data_range=None)
        if kind == "k-diffusion"
        else sf.from_edm(Network(sigma_min=2**-7, sigma_max=50.0), data_range=None)
    )
    assert model.sde == sf.EDM(2**-7, 50.0)
    expected = sf.Sampler(mixture(sf.EDM(2**-7, 50.0)), **OPTIONS).sample(range(8))
    samples = sf.Sampler(model, **OPTIONS).sample(range(8))
    assert (samples - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_noise_levels() -> None:
    """Given levels come before those of the denoiser; without any, and for EDM's 0 and infinity, they are EDM's."""

    def function(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    assert sf.from_k_diffusion(function, shape=SHAPE).sde == sf.EDM()
    assert sf.from_k_diffusion(Denoiser(0.5, 8.0), shape=SHAPE, sigma_min=0.25).sde == sf.EDM(0.25, 8.0)
    assert sf.from_edm(Network()).sde == sf.EDM()
    assert sf.from_edm(Network(sigma_min=0.02, sigma_max=100.0)).sde == sf.EDM(0.02, 80.0)
    assert sf.from_edm(Network(), sigma_max=100.0).sde == sf.EDM(0.002, 100.0)


def test_inputs() -> None:
    """Inputs reach the denoiser; a network that needs them is not sampled without."""
    plain = sf.Sampler(sf.from_k_diffusion(Denoiser(0.002, 80.0), shape=SHAPE, data_range=None), **OPTIONS)
    expected = plain.sample([0, 1])
    shifted = sf.from_k_diffusion(Denoiser(0.002, 80.0), shape=SHAPE, data_range=None, inputs=["shift"])
    labelled = sf.from_edm(Network(label_dim=3), data_range=None)
    for model, name, zero, one in (
        (shifted, "shift", torch.zeros(1), torch.ones(1)),
        (labelled, "class_labels", torch.eye(3)[:1], torch.eye(3)[1:2]),
    ):
        assert torch.equal(sf.Sampler(model, inputs={name: zero}, **OPTIONS).sample([0, 1]), expected)
        moved = sf.Sampler(model, inputs={name: one}, **OPTIONS).sample([0, 1])
        assert (moved - expected).min() > 0.5
        with pytest.raises(ValueError, match=rf"needs the inputs \['{name}'\]"):
            sf.Sampler(model, **OPTIONS)


def test_descriptions_differ() -> None:
    """Two denoisers with inputs have different descriptions if their code differs."""

    def one(x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
        return x + shift

    def other(x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
        return x - shift

    models = [sf.from_k_diffusion(each, shape=SHAPE, inputs=["shift"]) for each in (one, other, one)]
    hashes = [describe_model(model)["code_sha256"] for model in models]
    assert hashes[0] == hashes[2] != hashes[1]


def test_misuse() -> None:
    """A network without the attributes of EDM is explained."""
    with pytest.raises(TypeError, match=r"Linear has no attribute 'img_channels'.*from_k_diffusion"):
        sf.from_edm(nn.Linear(2, 2))
