# SPDX-License-Identifier: Apache-2.0
"""diffusers: a `UNet2DModel` that predicts v, trained with its `DDPMScheduler` and sampled here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.evaluation import frechet_distance
from scoresde_fast.generate import generate
from scoresde_fast.torchvision_import import import_library

diffusers = import_library("diffusers")  # a plain import fails beside a torchvision that does not fit torch
SOLVER: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 20, "grid": "logsnr"}


def train(data: Tensor, scheduler: Any, steps: int) -> nn.Module:
    """Return a U-Net with averaged weights, trained on images (N, 3, 16, 16) in [-1, 1]."""
    network = diffusers.UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        x = data[torch.randint(len(data), (64,))]
        index = torch.randint(scheduler.config.num_train_timesteps, (64,))
        noise = torch.randn_like(x)
        prediction = network(scheduler.add_noise(x, noise, index), index).sample
        loss = mse_loss(prediction, scheduler.get_velocity(x, noise, index))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update_parameters(network)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")
    return ema.module


def main(train_steps: int = 1200, images: int = 364, out: Path = Path("runs/diffusers_unet")) -> None:
    """Train a U-Net of diffusers on the digits, sample it, and print the Frechet distance of the samples.

    Args:
        train_steps: number of training steps; the default takes about four minutes of one CPU core.
        images: number of samples; the default is the number of held-out digits.
        out: a new folder for the samples.
    """
    out.mkdir(parents=True)  # fails if there is already a run
    torch.manual_seed(0)
    real, held_out = (load_dataset("digits", split)[0] / 255 for split in ("train", "test"))
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
    network = train(2 * real - 1, scheduler, train_steps)

    model = sf.from_diffusers(network, scheduler)  # or a pipeline, or its folder
    samples = sf.sample(model, images, **SOLVER)  # (images, 3, 16, 16) in [0, 1]
    generate(sf.Sampler(model, **SOLVER), range(images), out)  # the same, as PNGs with samples.json and a grid

    print(f"{images} samples in {out}")
    print(f"Frechet distance to the training digits: {frechet_distance(samples, real):.2f}")
    print(f"of {len(held_out)} held-out digits: {frechet_distance(held_out, real):.2f}")


if __name__ == "__main__":
    tyro.cli(main)
