# SPDX-License-Identifier: Apache-2.0
"""Small U-Nets of diffusers with random weights, and sampling with its schedulers and with ours at the same times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.solvers import SOLVERS, StepTable
from scoresde_fast.solvers.grids import TimeGrid
from scoresde_fast.torchvision_import import import_library


def diffusers() -> Any:
    """Return diffusers; skip the test if it is not installed."""
    try:
        return import_library("diffusers")
    except ModuleNotFoundError:
        pytest.skip("diffusers is not installed")


def unet(seed: int = 0, **options: Any) -> Any:
    """Return a U-Net of diffusers for images (3, 16, 16)."""
    torch.manual_seed(seed)
    network = diffusers().UNet2DModel(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        | options
    )
    return with_random_biases(network).eval()


def with_random_biases(network: nn.Module) -> nn.Module:
    """Return a network whose biases and norms, which start at 0 and 1, are random."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.2 * torch.randn_like(weight))
    return network


def their_samples(scheduler: Any, network: Any, start: Tensor) -> Tensor:
    """Return the samples of a scheduler of diffusers from states at its first timestep, as pipelines do."""
    x = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = network(scaled, t.expand(len(x))).sample
            x = scheduler.step(output, t, x).prev_sample
    return x


def our_samples(model: ScoreFunction, solver: str, times: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Return the samples of a solver that evaluates at ``times``, and at the last one denoises."""
    entry, sde = SOLVERS[solver], model.sde
    assert entry.finish is not None and isinstance(sde, ScalarSDE)
    grid = TimeGrid.between(np.array(times))
    options = {name: value for name, value in (("steps", len(grid)), ("denoise", True)) if name in entry.keywords}
    rows = entry.fill(sde, grid, probability_flow=False, **options)
    table = StepTable.of([*rows, entry.finish(sde, times[-1], times[-1])])
    return TableRunner(model.eval(), table, torch.device("cpu"), RunOptions(compile=False)).run(seeds)


def start(model: ScoreFunction, seeds: Sequence[int]) -> Tensor:
    """Return the states of ``seeds`` at T."""
    return model.prior(Noise(0, torch.tensor(seeds)).normal(0, model.state_shape))
