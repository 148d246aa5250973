# SPDX-License-Identifier: Apache-2.0
"""EDM (Karras et al. 2022): a preconditioned U-Net that predicts the clean image at any noise level."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from unet import UNet

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.evaluation import frechet_distance
from scoresde_fast.generate import generate

LOG_SIGMA_MEAN, LOG_SIGMA_STD = -1.2, 1.2
SOLVER: dict[str, Any] = {"solver": "heun", "steps": 18, "grid": "karras"}


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), equation 7 with the functions of table 1.

    F learns a target of variance 1 from an input of variance 1, at every noise level.

    Args:
        sigma_data: standard deviation of the data's values.
    """

    def __init__(self, sigma_data: float) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.network = UNet(time_scale=250)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Return the scale of the network's output, which is the standard deviation of its target."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised images (B, 3, H, W) of x(0) + sigma z, for noise levels (B,)."""
        level = sigma.view(-1, 1, 1, 1)
        variance = level**2 + self.sigma_data**2
        c_skip, c_in, c_noise = self.sigma_data**2 / variance, 1 / variance.sqrt(), sigma.log() / 4
        return c_skip * x + self.c_out(level) * self.network(c_in * x, c_noise)


def train(data: Tensor, steps: int) -> nn.Module:
    """Return a denoiser with averaged weights, trained on images (N, 3, 16, 16) in [-1, 1]."""
    denoiser = Denoiser(float(data.std()))
    ema = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(denoiser.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        x = data[torch.randint(len(data), (64,))]
        sigma = (LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(64)).exp()
        level = sigma.view(-1, 1, 1, 1)
        noisy = x + level * torch.randn_like(x)
        loss = ((denoiser(noisy, sigma) - x) / denoiser.c_out(level)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update_parameters(denoiser)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")
    return ema.module


def main(train_steps: int = 1200, images: int = 364, out: Path = Path("runs/edm_denoiser")) -> None:
    """Train a denoiser on the digits, sample it, and print the Frechet distance of the samples.

    Args:
        train_steps: number of training steps; the default takes about three minutes of one CPU core.
        images: number of samples; the default is the number of held-out digits.
        out: a new folder for the samples.
    """
    out.mkdir(parents=True)  # fails if there is already a run
    torch.manual_seed(0)
    real, held_out = (load_dataset("digits", split)[0] / 255 for split in ("train", "test"))
    denoiser = train(2 * real - 1, train_steps)

    model = sf.wrap(denoiser, sf.EDM(), prediction="denoiser", shape=(3, 16, 16))
    samples = sf.sample(model, images, **SOLVER)  # (images, 3, 16, 16) in [0, 1]
    generate(sf.Sampler(model, **SOLVER), range(images), out)  # the same, as PNGs with samples.json and a grid

    print(f"{images} samples in {out}")
    print(f"Frechet distance to the training digits: {frechet_distance(samples, real):.2f}")
    print(f"of {len(held_out)} held-out digits: {frechet_distance(held_out, real):.2f}")


if __name__ == "__main__":
    tyro.cli(main)
