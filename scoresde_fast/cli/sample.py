# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast sample``: from a model and seeds to images on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from scoresde_fast.cli.sampler_options import FLAG, SamplerOptions


@dataclass(frozen=True, kw_only=True)
class Sample(SamplerOptions):
    """Write one image for each seed, a grid to look at, and samples.json. Images that are there already are kept.

    Points (cld-toy), and positions with their velocities, are numbers and go to one .npz.
    """

    model: Positional[str]
    """An embedded model (digits-ve), a saved folder, or an official checkpoint (.pth, with --config)."""
    seeds: str = "0-63"
    """Which images: numbers and ranges, 0-63,100,200-203. A seed always gives the same image."""
    out: Path = Path("samples")
    """A folder of PNGs, or one file: .npz (arr_0, NHWC uint8) or .zip (PNGs)."""

    return_velocity: Annotated[bool, FLAG] = False
    """CLD: write position, velocity (float32) and seeds to --out FILE.npz, in place of images."""
    rounding: Literal["floor", "round"] = "floor"
    """How [0, 1] becomes 8 bits: floor of 255 x as in the original programs, or round to the nearest."""

    def run(self) -> None:
        from scoresde_fast.generate import generate, parse_seeds, write_states

        seeds = parse_seeds(self.seeds)  # a mistake here need not wait for the model
        model = self.load(self.model)
        sampler = self.sampler(model)
        if self.return_velocity or not model.is_image:
            print(write_states(sampler, seeds, self.out, return_velocity=self.return_velocity))
            return
        batch_size = sampler.batch_size if self.batch_size == "auto" else self.batch_size
        print(generate(sampler, seeds, self.out, batch_size=batch_size, rounding=self.rounding))
