# SPDX-License-Identifier: Apache-2.0
"""What conditions do to the digits, as pictures: python benchmarks/conditional_pictures.py [MODEL]

Writes docs/conditional-classes.png (a row a class), docs/conditional-inpainting.png and docs/conditional-colours.png
(original, what is known, samples) and docs/conditional-restored.png (a row a kind of measurement).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cld import DOCS
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.conditions.guidance import enlarged, known_pixels, simulate
from scoresde_fast.conditions.operators.text import parse_operator
from scoresde_fast.data import load_dataset
from scoresde_fast.data.digits import CLASSES
from scoresde_fast.generate.pixels import checkered, compose, sheet, to_pixels, write_png

SAMPLES, NOISE = 6, 0.05
SHOWN = (0, 1, 2, 3)
"""Classes whose first held-out digit is shown."""
OPERATORS = {
    "sr:2": "means over 2x2 pixels",
    "sr:4": "means over 4x4 pixels",
    "blur:1.5": "blur",
    "box:4,4,8,8": "all but a box",
    "random:0.3": "three pixels of ten",
    "gray": "gray",
}


def digits() -> Tensor:
    """The shown ones, (N, 3, 16, 16) in [0, 1]."""
    images, labels = load_dataset("digits", "test")
    return images[[int((labels == label).nonzero()[0]) for label in SHOWN]].float() / 255


def rows(given: dict[str, Tensor], samples: Tensor, names: list[str]) -> Any:
    """A sheet with a row for each of the names."""
    pixels = {title: list(to_pixels(images, "round")) for title, images in given.items()}
    drawn = list(to_pixels(samples, "round"))
    each = len(drawn) // len(names)
    return sheet(names, pixels, [drawn[each * row : each * (row + 1)] for row in range(len(names))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="digits-vp", help="a trained model of the digits")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures")
    chosen = parser.parse_args()
    model, out = sf.load(chosen.model), chosen.out
    options: dict[str, Any] = {"solver": "sa", "grid": "logsnr", "steps": chosen.steps}

    labels = [label for label in range(CLASSES) for _ in range(2 * SAMPLES)]
    of_classes = sf.sample(model, classes=labels, classifier="digits-classifier", **options)
    write_png(out / "conditional-classes.png", compose(list(to_pixels(of_classes, "round")), columns=2 * SAMPLES))

    images, names = digits(), [f"a {label}" for label in SHOWN]
    mask = torch.ones(16, 16)
    mask[8:] = 0
    both = {"samples": SAMPLES, "method": "pigdm", **options}
    filled = sf.inpaint(model, images, mask, **both)
    known = {"original": images, "known": checkered(images, mask > 0)}
    write_png(out / "conditional-inpainting.png", rows(known, filled, names))

    gray = images.mean(1, keepdim=True)
    coloured = sf.colorize(model, gray, **both)
    write_png(out / "conditional-colours.png", rows({"original": images, "gray": gray}, coloured, names))

    parts = []
    for text, title in OPERATORS.items():
        operator, original = parse_operator(text, model.image_shape), images[2:3]
        measured = simulate(operator, original, NOISE, seeds=[0], run_seed=0)
        restored = sf.restore(model, operator, measured, noise=NOISE, samples=SAMPLES, **options)
        seen = checkered(enlarged(measured, model.image_shape), known_pixels(operator, model.image_shape))
        parts.append(rows({"original": original, "measured": seen}, restored, [title]))
    write_png(out / "conditional-restored.png", np.concatenate(parts))


if __name__ == "__main__":
    main()
