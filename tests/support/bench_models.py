# SPDX-License-Identifier: Apache-2.0
"""Small networks of every kind, for the tests of the sampling benchmark."""

from __future__ import annotations

from typing import Any

import torch

import scoresde_fast as sf
from scoresde_fast.bench.variants import VARIANTS
from scoresde_fast.bench.workload import random_model
from scoresde_fast.configs import load_config

SMALL = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "NCSN++": ("ve/cifar10_ncsnpp_continuous", {}),
    "NCSN++ with odd taps": ("ve/cifar10_ncsnpp_continuous", {"fir_kernel": (1, 2, 1)}),
    "FFHQ": ("ve/ffhq_256_ncsnpp_continuous", {}),
    "DDPM++": ("vp/cifar10_ddpmpp_continuous", {}),
    "DDPM": ("vp/ddpm/cifar10_continuous", {}),
    "CLD": ("cld_cifar10", {}),
}
FAST_VARIANTS = tuple(variant for variant in VARIANTS if "cpu" in variant.devices and not variant.compiled)
"""Variants that run on a CPU within seconds."""
CEILINGS = {"copy_gb_per_s": 10.0, "matmul_tflops": 0.1, "matmul_dtype": "float32"}


def small_model(name: str = "NCSN++") -> sf.ScoreModel:
    """Return a model with one of `NETWORKS`, for images of 16x16."""
    preset, changes = NETWORKS[name]
    options = load_config(preset).to_dict()
    options["model"] |= SMALL | changes
    options["data"] |= {"image_size": 16}
    return random_model(options)


def call(network: torch.nn.Module, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the network's output for two random images."""
    x = torch.rand(2, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(x.to(dtype), torch.tensor([0.3, 0.7], dtype=dtype))
