# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast sample``: from a model and seeds to images on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.class_options import ClassOptions
from scoresde_fast.cli.groups import Flag
from scoresde_fast.cli.sampler_options import SamplerOptions


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Which images, and where they go."""

    model: Positional[str]
    """An embedded model (digits-ve), a saved folder, or an official checkpoint (.pth, with --config)."""
    seeds: str = "0-63"
    """Which images: numbers and ranges, 0-63,100,200-203. A seed always gives the same image."""
    out: Path = Path("samples")
    """A folder of PNGs, or by its suffix: .npz (arr_0, NHWC uint8), .zip (PNGs), .tar (webdataset's shards of PNGs) or
    .npy (NCHW float32, not rounded)."""
    shard: Annotated[str | None, arg(help_behavior_hint="(default: torchrun's, or all)")] = None
    """Make only a share of the set, as 3/16; other processes make the others, at any time, on any machine."""


@dataclass(frozen=True, kw_only=True)
class Sample(SamplerOptions, ClassOptions, SetOptions):
    """Write one image for each seed, a grid to look at, and samples.json. Images that are there already are kept.

    Stopped at any moment, the same command goes on from what is finished, also in another number of processes.

    Points (cld-toy), and positions with their velocities, are numbers and go to one .npz.
    """

    return_velocity: Flag = False
    """CLD: write position, velocity (float32) and seeds to --out FILE.npz, in place of images."""
    rounding: Literal["floor", "round"] = "floor"
    """How [0, 1] becomes 8 bits: floor of 255 x as in the original programs, or round to the nearest."""

    def run(self) -> None:
        import scoresde_fast as sf
        from scoresde_fast.cli.stopping import stopping
        from scoresde_fast.generate import SeedSet, Shard, generate, parse_seeds, write_states

        seeds = SeedSet.parse(self.seeds)  # a mistake here need not wait for the model
        shard = Shard.of_process() if self.shard is None else Shard.parse(self.shard)
        with stopping() as stop:
            model = self.loading.load(self.model)
            sampler = sf.Sampler(model, **self.options(), **self.guidance(self.model))
            if self.return_velocity or not model.is_image:
                states = parse_seeds(self.seeds)
                print(write_states(sampler, states, self.out, return_velocity=self.return_velocity))
                return
            size = sampler.batch_size
            print(generate(sampler, seeds, self.out, batch_size=size, rounding=self.rounding, shard=shard, stop=stop))
