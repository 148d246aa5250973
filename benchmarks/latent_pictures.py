# SPDX-License-Identifier: Apache-2.0
"""Latent codes as pictures: python benchmarks/latent_pictures.py [MODEL]

Writes docs/latent-round-trip.png (images, their codes, and the codes decoded), docs/latent-interpolation.png (from one
seed to the next) and docs/latent-temperature.png (the same seeds at several temperatures).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from cld import DOCS
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.generate.codes import interpolation_grid, seed_codes
from scoresde_fast.generate.pixels import compose, to_pixels, write_png

IMAGES = 8
WAY = (0, 1, 2, 3)
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)
TEMPERED = (3, 7, 11, 15)
CODE_RANGE = 3.0
"""Deviations of a code from black to white."""


def round_trip(model: sf.ScoreModel) -> tuple[list[Tensor], float]:
    """Rows (B, C, H, W): held-out images of different classes, their codes, those decoded; and the largest error."""
    images, labels = load_dataset("digits", "test")
    first = [int((labels == label).nonzero()[0]) for label in range(IMAGES)]
    shown = images[first].double() / 255
    codes = sf.encode(model, shown)
    decoded = sf.decode(model, codes)
    return [shown, 0.5 + codes / (2 * CODE_RANGE), decoded], float((decoded - shown).abs().max())


def tempered(model: sf.ScoreModel) -> list[Tensor]:
    """A row (B, C, H, W) for each seed, an image for each temperature."""
    codes = seed_codes(model, TEMPERED)
    images = [sf.decode(model, codes, temperature=temperature) for temperature in TEMPERATURES]
    return list(torch.stack(images, dim=1))


def draw(path: Path, rows: list[Tensor]) -> None:
    """Rows of images (B, C, H, W) in [0, 1], each pixel a square."""
    pixels = np.concatenate([to_pixels(row, "round") for row in rows])
    write_png(path, compose(list(pixels), columns=len(rows[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="digits-vp", help="a trained model of the digits")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args()
    model = sf.load(arguments.model)
    rows, error = round_trip(model)
    draw(arguments.out / "latent-round-trip.png", rows)
    print(f"largest error of a value after the round trip: {error:.2e}")
    write_png(arguments.out / "latent-interpolation.png", interpolation_grid(model, WAY, 8))
    draw(arguments.out / "latent-temperature.png", tempered(model))


if __name__ == "__main__":
    main()
