# SPDX-License-Identifier: Apache-2.0
"""Configurations of short training runs, of images and of points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scoresde_fast.configs import Config
from scoresde_fast.training import Trainer

TINY: dict[str, dict[str, Any]] = {
    "data": {"dataset": "digits", "image_size": 16, "random_flip": True, "uniform_dequantization": True},
    "model": {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [8],
        "dropout": 0.1,
        "scale_by_sigma": True,
        "sigma_max": 10,
        "num_scales": 4,
    },
    "training": {"sde": "vesde", "batch_size": 8, "n_iters": 9, "log_freq": 3, "snapshot_freq": 4, "reduce_mean": True},
    "sampling": {"predictor": "reverse_diffusion"},
    "optim": {"lr": 1e-3, "warmup": 5},
}
POINTS: dict[str, dict[str, Any]] = {
    "data": {"dataset": "diamond", "image_size": 1, "num_channels": 2, "is_image": False, "random_flip": False},
    "model": {"name": "mlp", "nf": 16, "num_res_blocks": 1, "num_scales": 0},
    "training": {"sde": "vpsde", "batch_size": 8, "n_iters": 9, "log_freq": 3, "snapshot_freq": 4, "reduce_mean": True},
    "optim": {"lr": 1e-3, "warmup": 5},
}
"""A step takes about a millisecond."""


def config(**training: object) -> Config:
    """Return the configuration of images with some options of ``training`` replaced."""
    return Config.from_dict({**TINY, "training": {**TINY["training"], **training}})


def points(**training: object) -> Config:
    """Return the configuration of points with some options of ``training`` replaced."""
    return Config.from_dict({**POINTS, "training": {**POINTS["training"], **training}})


def with_data(dataset: str, **training: object) -> Config:
    """Return `config` with another data set."""
    return Config.from_dict(
        {**TINY, "data": {**TINY["data"], "dataset": dataset}, "training": {**TINY["training"], **training}}
    )


def write_recipe(path: Path, options: Config) -> str:
    """Write a configuration as JSON and return the path for the command line."""
    path.write_text(json.dumps(options.to_dict()))
    return str(path)


def trained(options: Config, folder: Path) -> Trainer:
    """Return a finished run, without grids and without a saved model."""
    trainer = Trainer(options, folder)
    for _ in trainer.run():
        pass
    return trainer
