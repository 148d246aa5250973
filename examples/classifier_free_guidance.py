# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance (Ho & Salimans 2022): a U-Net with class labels, trained in part without them."""

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
from scoresde_fast.evaluation import Recogniser, frechet_distance
from scoresde_fast.generate import generate
from scoresde_fast.generate.pixels import compose, to_pixels, write_png

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
CLASSES = 10
NULL = CLASSES
"""The label that stands for no class."""
DROPOUT = 0.15
SOLVER: dict[str, Any] = {"solver": "dpmpp_2m", "steps": 20}


def train(data: Tensor, labels: Tensor, steps: int) -> nn.Module:
    """Return a network with averaged weights, trained on images (N, 3, 16, 16) in [-1, 1] and their labels (N,).

    It predicts v = alpha z - sigma x(0) (Salimans & Ho 2022).
    """
    network = UNet(classes=CLASSES + 1)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    alphas_cumprod = (1 - BETAS).cumprod(0).float()
    start = time.perf_counter()
    for step in range(1, steps + 1):
        rows = torch.randint(len(data), (64,))
        x, y = data[rows], torch.where(torch.rand(64) < DROPOUT, NULL, labels[rows])
        index = torch.randint(len(BETAS), (64,))
        noise = torch.randn_like(x)
        squared_scale = alphas_cumprod[index].view(-1, 1, 1, 1)
        alpha, sigma = squared_scale.sqrt(), (1 - squared_scale).sqrt()
        loss = mse_loss(network(alpha * x + sigma * noise, index, y), alpha * noise - sigma * x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.update_parameters(network)
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s")
    return ema.module


def main(
    train_steps: int = 1200, images: int = 364, scale: float = 2.0, out: Path = Path("runs/classifier_free_guidance")
) -> None:
    """Train a conditional network on the digits and sample each class in turn, without and with guidance.

    Args:
        train_steps: number of training steps; the default takes about three minutes of one CPU core.
        images: number of samples; the default is the number of held-out digits.
        scale: the scale of the guidance; 1 does not guide.
        out: a new folder for the samples and a picture with a column for each class.
    """
    out.mkdir(parents=True)  # fails if there is already a run
    torch.manual_seed(0)
    (real, labels), (held_out, held_out_labels) = (load_dataset("digits", split) for split in ("train", "test"))
    real, held_out = real / 255, held_out / 255
    network = train(2 * real - 1, labels, train_steps)

    model = sf.wrap(network, sf.Betas(BETAS.numpy()), prediction="v_prediction", shape=(3, 16, 16))
    guidance = sf.ClassifierFreeGuidance(scale=scale, null={"y": NULL})
    y = torch.arange(images) % CLASSES
    plain = sf.sample(model, images, inputs={"y": y}, **SOLVER)  # (images, 3, 16, 16) in [0, 1]
    guided = sf.sample(model, images, inputs={"y": y}, guidance=guidance, **SOLVER)

    # The guided samples again, as PNGs with samples.json and a grid.
    generate(sf.Sampler(model, inputs={"y": y}, guidance=guidance, **SOLVER), range(images), out / "samples")
    write_png(out / "classes.png", compose(list(to_pixels(guided[: CLASSES**2], "round")), columns=CLASSES))

    print(f"{images} samples in {out / 'samples'}, their classes in {out / 'classes.png'}")
    recogniser = Recogniser()
    sets = {
        "without guidance": (plain, y),
        f"with guidance {scale:g}": (guided, y),
        "held-out digits": (held_out, held_out_labels),
    }
    for title, (digits, classes) in sets.items():
        share = (recogniser.classes(digits) == classes.numpy()).mean()
        distance = frechet_distance(digits, real)
        print(f"{title}: {share:.1%} recognised as their class, Frechet distance to the training digits {distance:.2f}")


if __name__ == "__main__":
    tyro.cli(main)
