# SPDX-License-Identifier: Apache-2.0
"""Networks as users bring them: exact predictions of a Gaussian mixture from the labels that they were trained with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.model import ScoreFunction
from scoresde_fast.parametrisation import LabelFunction, Prediction
from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE, SubVPSDE

SHAPE = (2, 2, 2)


class OwnNetwork(nn.Module):
    """The exact prediction for a mixture of two Gaussians, in float64 inside."""

    def __init__(self, sde: ScalarSDE, prediction: str, labels: str) -> None:
        super().__init__()
        self.mixture = mixture(sde).network
        self.sde, self.prediction, self.label_kind = sde, prediction, labels
        self.weight = nn.Parameter(torch.zeros(()))  # makes it a network with weights
        self.seen: list[torch.dtype] = []

    def times(self, labels: Tensor) -> Tensor:
        """Return the times (B,) of labels (B,)."""
        self.seen.append(labels.dtype)
        values = labels.double()
        if self.label_kind == "index":
            assert isinstance(self.sde, sf.Betas)
            return (values + 1) / len(self.sde)
        if self.label_kind == "time_999":
            return values / 999
        if self.label_kind == "log_sigma":
            return (4 * values).exp()
        return values

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        times = self.times(labels)
        alpha, sigma = (
            torch.from_numpy(value).view(-1, *[1] * (x.ndim - 1)) for value in self.sde.marginal(times.numpy())
        )
        x64 = x.double()
        score = self.mixture(x64, times)
        epsilon = -sigma * score
        sample = (x64 + sigma**2 * score) / alpha
        predictions = {
            "score": score,
            "epsilon": epsilon,
            "sample": sample,
            "denoiser": sample,
            "v_prediction": alpha * epsilon - sigma * sample,
            "flow": epsilon - sample,
        }
        return predictions[self.prediction].to(x.dtype) + self.weight


def mixture(sde: ScalarSDE) -> sf.GaussianMixture:
    """Return the exact score model of two Gaussians."""
    means = torch.linspace(-0.8, 0.9, 16, dtype=torch.float64).view(2, *SHAPE)
    return sf.GaussianMixture(sde, [0.4, 0.6], means, [0.3, 0.5], is_image=False)


class Case(NamedTuple):
    """A schedule with a prediction and the labels of a network."""

    sde: ScalarSDE
    prediction: Prediction
    labels: str | LabelFunction | None = None
    label_kind: str = "time"
    """How `OwnNetwork` reads the labels."""


CASES: dict[str, Case] = {
    "betas-epsilon": Case(sf.Betas.linear(), "epsilon", None, "index"),
    "betas-sample": Case(sf.Betas.linear(500, 3e-4, 0.03), "sample", "index", "index"),
    "betas-v": Case(sf.Betas.cosine(), "v_prediction", None, "index"),
    "own-betas-epsilon": Case(sf.Betas(np.linspace(0.001, 0.2, 100)), "epsilon", lambda t: 100 * t - 1, "index"),
    "edm-denoiser": Case(sf.EDM(), "denoiser"),
    "edm-epsilon": Case(sf.EDM(), "epsilon", "log_sigma", "log_sigma"),
    "flow": Case(sf.RectifiedFlow(), "flow"),
    "flow-sample": Case(sf.RectifiedFlow(), "sample", "time_999", "time_999"),
    "functions-v": Case(sf.Schedule(lambda t: np.cos(1.56 * t), lambda t: np.sin(1.56 * t)), "v_prediction", "time"),
    "functions-flow": Case(sf.Schedule(lambda t: 1 - t, lambda t: t, T=0.99), "flow", "time"),
    "ve-score": Case(VESDE(), "score", "time"),
    "ve-denoiser": Case(VESDE(), "denoiser", "time"),
    "vp-v": Case(VPSDE(), "v_prediction", None, "time_999"),
    "subvp-sample": Case(SubVPSDE(), "sample", lambda t: 999 * t, "time_999"),
}


def wrapped(name: str, **options: Any) -> ScoreFunction:
    """Return the model of a case."""
    case = CASES[name]
    network = OwnNetwork(case.sde, case.prediction, case.label_kind)
    return sf.wrap(
        network, case.sde, prediction=case.prediction, shape=SHAPE, labels=case.labels, data_range=None, **options
    )
