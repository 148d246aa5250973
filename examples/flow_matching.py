# SPDX-License-Identifier: Apache-2.0
"""Rectified flow (Liu et al. 2022; Lipman et al. 2022): a U-Net that predicts the velocity from the data to noise."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from unet import UNet

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.evaluation import frechet_distance
from scoresde_fast.generate import generate

SOLVER: dict[str, Any] = {"solver": "unipc", "steps": 15, "grid": "logsnr"}


def train(data: Tensor, steps: int) -> nn.Module:
    """Return a network with averaged weights, trained on images (N, 3, 16, 16) in [-1, 1]."""
    network = UNet(time_scale=1000)  # its times are from 0, the data, to 1, the noise
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        x = data[torch.randint(len(data), (64,))]
        t = torch.rand(64)
        noise = torch.randn_like(x)
        fraction = t.view(-1, 1, 1, 1)
        loss = mse_loss(network((1 - fraction) * x + fraction * noise, t), noise - x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update_parameters(network)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")
    return ema.module


def main(train_steps: int = 1200, images: int = 364, out: Path = Path("runs/flow_matching")) -> None:
    """Train a flow on the digits, sample it, and print the Frechet distance of the samples.

    Args:
        train_steps: number of training steps; the default takes about three minutes of one CPU core.
        images: number of samples; the default is the number of held-out digits.
        out: a new folder for the samples.
    """
    out.mkdir(parents=True)  # fails if there is already a run
    torch.manual_seed(0)
    real, held_out = (load_dataset("digits", split)[0] / 255 for split in ("train", "test"))
    network = train(2 * real - 1, train_steps)

    model = sf.wrap(network, sf.RectifiedFlow(), prediction="flow", shape=(3, 16, 16))
    samples = sf.sample(model, images, **SOLVER)  # (images, 3, 16, 16) in [0, 1]
    generate(sf.Sampler(model, **SOLVER), range(images), out)  # the same, as PNGs with samples.json and a grid

    print(f"{images} samples in {out}")
    print(f"Frechet distance to the training digits: {frechet_distance(samples, real):.2f}")
    print(f"of {len(held_out)} held-out digits: {frechet_distance(held_out, real):.2f}")


if __name__ == "__main__":
    tyro.cli(main)
