# SPDX-License-Identifier: Apache-2.0
"""The networks that are measured, and how much of each: a batch and a number of evaluations for its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from scoresde_fast.checkpoints import load
from scoresde_fast.checkpoints.loading import embedded_names
from scoresde_fast.configs import ConfigLike, load_config, preset_names
from scoresde_fast.errors import unknown
from scoresde_fast.model import ScoreModel, create

SEED = 0


@dataclass(frozen=True)
class Amount:
    """(batch, network evaluations) on a CPU, where minutes count, and on a GPU, which wants to be filled."""

    cpu: tuple[int, int]
    gpu: tuple[int, int]

    def on(self, device: torch.device) -> tuple[int, int]:
        return self.gpu if device.type == "cuda" else self.cpu


AMOUNTS: dict[str, Amount] = {
    "ve/cifar10_ncsnpp_continuous": Amount((8, 2), (256, 20)),
    "ve/cifar10_ncsnpp_deep_continuous": Amount((2, 2), (256, 10)),
    "vp/cifar10_ddpmpp_continuous": Amount((2, 2), (256, 20)),
    "ve/ffhq_256_ncsnpp_continuous": Amount((1, 2), (16, 6)),
    "digits-ve": Amount((16, 40), (256, 300)),
    "digits-vp": Amount((16, 50), (256, 150)),
    "digits-subvp": Amount((16, 50), (256, 150)),
}
"""What `scoresde-fast bench` measures where it is not told what."""

OTHERS = Amount((1, 2), (16, 10))
SERIES = {"cpu": ("digits-ve",), "cuda": ("digits-ve", "ve/cifar10_ncsnpp_continuous")}
"""Networks whose time is measured against the batch size, by device type."""

COMPILED = {"cpu": ("digits-ve",), "cuda": ("digits-ve", "ve/cifar10_ncsnpp_continuous")}
"""Networks whose compiled lines run without being asked for, by device type: each takes minutes to compile."""


def require_names(names: Sequence[str]) -> None:
    """Raises ValueError unless every name is an embedded model's or a preset's."""
    for name in names:
        if name not in (known := [*embedded_names(), *preset_names()]):
            raise ValueError(unknown("network", name, known))


def measured_model(name: str) -> ScoreModel:
    """An embedded model with its weights, or a preset as `random_model`."""
    return load(name) if name in embedded_names() else random_model(name)


def random_model(config: ConfigLike) -> ScoreModel:
    """A model with random weights that make errors mean something, the same every time.

    A fresh network's last convolutions are zero, and its noise levels drown any image of few steps.  Here every
    parameter is random, outputs are of order one as a trained network's are, and noise ends at one.
    """
    options = load_config(config).to_dict()
    options["model"] |= {"init_scale": 1.0, "sigma_max": 1.0, "beta_max": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create(options)
        _perturb(model.network)
    return model.eval()


@torch.no_grad()
def _perturb(network: nn.Module) -> None:
    """Gives vectors, which start at zero or one, values of their own; sets the scale of DDPM's zero layers."""
    for parameter in network.parameters():
        if parameter.ndim == 1 and parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif parameter.ndim > 1 and parameter.abs().max() < 1e-4:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
