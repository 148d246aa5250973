# SPDX-License-Identifier: Apache-2.0
"""A training run as a user starts it: progress, sample grids on the way, and the trained model at the end."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from scoresde_fast.checkpoints import save
from scoresde_fast.configs import Config
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.pixels import compose, point_plot, to_pixels
from scoresde_fast.sampler import Sampler
from scoresde_fast.training.resumable import follow
from scoresde_fast.training.trainer import Trainer

GRID_IMAGES = 16
GRID_POINTS = 4096
GRID_STEPS = 100


def train(
    config: Config,
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    half: bool = False,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> Path:
    """Train, or go on training, and return the folder of the trained model, ``out/model``.

    ``out`` then also holds ``state.pt`` (from which a stopped run goes on), ``grids/`` (samples at every snapshot, the
    seeds always the same), and with ``tensorboard`` the folder ``events/``.  The model is the moving average of the
    weights; beside it ``recipe.json`` records configuration, seed, versions and the curve of the loss.

    Args:
        half: keep the trained weights in half precision.
        progress: show a bar; None shows it on a terminal.

    Raises:
        ValueError: ``out`` holds a run with another configuration or seed, or the data cannot be trained on.
        FileNotFoundError: the data are not there.
        FloatingPointError: the loss is not finite.
        MissingPackageError: ``tensorboard`` is asked for and not installed.
    """
    trainer = Trainer(config, out, seed, device)
    follow(trainer, on_snapshot=write_grid, tensorboard=tensorboard, progress=progress)
    return export(trainer, half=half)


def write_grid(trainer: Trainer) -> Path:
    """Samples of the averaged weights as ``grids/step-NNNNNN.png`` in the run's folder; points as a point plot."""
    trainer.ema.swap()
    try:
        sampler = Sampler(trainer.model, steps=GRID_STEPS, device=trainer.device)
        samples = sampler.sample(range(GRID_IMAGES if trainer.model.is_image else GRID_POINTS))
    finally:
        trainer.ema.swap()
    path = trainer.folder / "grids" / f"step-{trainer.step:06d}.png"
    make_folder(path.parent)
    with replacing(path) as file:
        if trainer.model.is_image:
            file.write(encode_png(compose(list(to_pixels(samples, "floor")))))
        else:
            file.write(point_plot(samples))
    return path


def export(trainer: Trainer, *, half: bool) -> Path:
    """Write the averaged weights, the configuration and the record of the run to ``model`` in the run's folder."""
    folder = trainer.folder / "model"
    trainer.ema.swap()
    try:
        save(trainer.model, folder, torch.float16 if half else torch.float32)
    finally:
        trainer.ema.swap()
    with replacing(folder / "recipe.json") as file:
        file.write(json.dumps(trainer.record()).encode() + b"\n")
    return folder
