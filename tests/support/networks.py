# SPDX-License-Identifier: Apache-2.0
"""Small networks with every option, and checks of them."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.networks import NCSNpp, ScoreNetwork

SIZES: dict[str, Any] = {
    "image_size": 8,
    "nf": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
    "init_scale": 1.0,
}
PYRAMIDS = list(
    product(("biggan", "ddpm"), ("none", "output_skip", "residual"), ("none", "input_skip", "residual"), ("sum", "cat"))
)
SWITCHES: list[dict[str, Any]] = [
    {"fir": False},
    {"fir": False, "progressive": "residual", "progressive_input": "residual"},
    {"resamp_with_conv": False, "resblock_type": "ddpm"},
    {"resamp_with_conv": False, "resblock_type": "ddpm", "fir": False},
    {"conditional": False},
    {"embedding_type": "positional"},
    {"skip_rescale": False},
    {"scale_by_sigma": False},
    {"centered": True},
    {"nonlinearity": "elu"},
    {"fir_kernel": (1, 2, 1)},
]
OPTIONS: list[dict[str, Any]] = [
    {"resblock_type": block, "progressive": out, "progressive_input": into, "progressive_combine": combine}
    for block, out, into, combine in PYRAMIDS
] + SWITCHES
PAIRS: list[dict[str, Any]] = [
    {"in_channels": 6, "num_scales": 0, "scale_by_sigma": False, "progressive_input": into}
    for into in ("none", "input_skip", "residual")
]
"""Options of networks for CLD: six input channels, three output channels, no table of noise levels."""
LABELS = torch.tensor([700.0, 3.0, 700.0, 50.0])
"""Labels of the rows of a run; one occurs twice, as with a corrector."""


def check(network: torch.nn.Module) -> None:
    """Assert that the output has the input's shape and varies, and that every trainable weight has a gradient."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3.0, 700.0])
    out = network(x, labels)
    assert out.shape == x.shape and out.isfinite().all() and out.std() > 0
    out.square().sum().backward()
    without_gradient = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []


def trained(network: ScoreNetwork) -> ScoreNetwork:
    """Return ``network`` with noise added to its weights, so that none is zero, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return network.eval()


def small(**options: Any) -> ScoreNetwork:
    torch.manual_seed(0)
    return trained(NCSNpp(**{**SIZES, "nf": 16, **options}))


def largest_difference(ours: Tensor, plain: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((ours - plain).abs().max() / plain.abs().max())
