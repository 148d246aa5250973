# SPDX-License-Identifier: Apache-2.0
"""Mixtures on every SDE with their exact classifier, for the tests of conditions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.classifier import Classifier
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS

SHAPE = (3, 4, 4)
SDE_OF: dict[str, SDE] = {"ve": VESDE(), "vp": VPSDE(), "subvp": SubVPSDE(), "cld": CLDSDE()}
CASES = [(sde, solver) for sde in SDE_OF for solver in SOLVERS if isinstance(SDE_OF[sde], SOLVERS[solver].sdes)]
CASES += [(sde, "pc") for sde in ("ve", "vp", "subvp")]
IDS = [f"{sde}-{solver}" for sde, solver in CASES]
MEANS, STD = (0.25, 0.75), 0.1
TOP = torch.tensor([[1.0], [1.0], [0.0], [0.0]]).expand(4, 4)


def model_of(sde: str, shape: tuple[int, ...] = SHAPE, *, is_image: bool = True) -> sf.GaussianMixture:
    """Return a mixture of dark and bright images."""
    means = torch.stack([torch.full(shape, 0.25), torch.full(shape, 0.75)])
    return sf.GaussianMixture(SDE_OF[sde], [1.0, 1.0], means, [0.1, 0.1], is_image=is_image)


def some_images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(count))


def some_masks(count: int) -> Tensor:
    return torch.rand(count, 1, *SHAPE[1:], generator=torch.Generator().manual_seed(7)) < 0.5


class Bayes(Classifier):
    """The exact classifier of `model_of`'s two components, dark and bright, from images in [-1, 1] or from points."""

    means: Tensor

    def __init__(self, *, is_image: bool = True, high: float = 1e3) -> None:
        nn.Module.__init__(self)  # without the network of a `Classifier`
        self.classes, self.image_shape, self.low, self.high = ("dark", "bright"), SHAPE, 1e-3, high
        span, offset = (2.0, -1.0) if is_image else (1.0, 0.0)
        self.register_buffer("means", span * torch.tensor(MEANS) + offset)
        self.std = span * STD

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        squares = (x[:, None] - self.means.view(-1, 1, 1, 1)).square().flatten(2).sum(2)
        return (-squares / (2 * (noise[:, None] ** 2 + self.std**2))).log_softmax(1)


def points_of(sde: str) -> sf.GaussianMixture:
    """Return a model of points with independent coordinates N(0, 0.5^2)."""
    return sf.GaussianMixture(SDE_OF[sde], [1.0], torch.zeros(1, *SHAPE), [0.5], is_image=False)
