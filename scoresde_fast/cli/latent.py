# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast encode``, ``decode`` and ``interpolate``: images as the latent codes of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from scoresde_fast.cli.flow import FlowCommand, ToleranceGroup


@dataclass(frozen=True, kw_only=True)
class Encode(FlowCommand):
    """Write the latent code of every image: what the probability flow makes of it, as standard normals."""

    data: Positional[str]
    """A data set (digits:test, cifar10:test), a folder of images, or a .zip, .tar, .npz or .npy of them."""
    out: Path = Path("codes.npz")
    """The file, .npz: codes (N, C, H, W) float32, and the name of each. On CLD a code is of position and velocity."""
    seeds_from: int = 0
    """CLD: the seed of the first image's velocity; each one after it has the next."""

    def run(self) -> None:
        from scoresde_fast.data.images import read_data
        from scoresde_fast.flow.codes import encode
        from scoresde_fast.generate.codes import write_codes
        from scoresde_fast.generate.seeds import check_seeds
        from scoresde_fast.generate.states import check_new_npz

        check_new_npz(self.out, "codes")
        model = self.loading.load(self.model)
        data, names = read_data(self.data, model.image_shape, is_image=model.is_image)
        seeds = check_seeds(range(self.seeds_from, self.seeds_from + len(data)))
        images = data.double() / 255 if model.is_image else data
        write_codes(self.out, encode(model, images, seeds, **self.options()), names)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Decode(FlowCommand):
    """Write the image of every code, named by its place. Images that are there already are kept.

    Points are numbers and go to one .npz.
    """

    codes: Positional[Path]
    """A .npz that encode wrote."""
    out: Path = Path("decoded")
    """A folder of PNGs, or one file: .npz (arr_0, NHWC uint8) or .zip (PNGs)."""
    temperature: float = 1.0
    """Factor of the codes: less than 1 gives more usual, less various images."""
    rounding: Literal["floor", "round"] = "round"
    """How [0, 1] becomes 8 bits: to the nearest, so that an encoded image comes back, or floor of 255 x."""

    def run(self) -> None:
        from scoresde_fast.generate import generate, write_states
        from scoresde_fast.generate.codes import CodeImages, read_codes

        codes = read_codes(self.codes)
        model = self.loading.load(self.model)
        images = CodeImages(model, codes, temperature=self.temperature, **self.options())
        places = range(len(codes))
        if not model.is_image:
            print(write_states(images, places, self.out, return_velocity=False))
            return
        print(generate(images, places, self.out, batch_size=images.batch_size, rounding=self.rounding))


@dataclass(frozen=True, kw_only=True)
class Interpolate(FlowCommand):
    """Draw the way between seeds through the latent space: a row of images for each pair of neighbours."""

    seeds: str
    """Two seeds or more, in the order of the way: 3,7 or 0-4."""
    flow: ToleranceGroup = field(default_factory=ToleranceGroup)
    steps: int = 8
    """Images in a row, both ends included."""
    out: Path = Path("interpolation.png")
    """The picture, .png."""

    def run(self) -> None:
        from scoresde_fast.generate import parse_seeds
        from scoresde_fast.generate.codes import interpolation_grid
        from scoresde_fast.generate.pixels import write_png

        seeds = parse_seeds(self.seeds)
        if self.out.suffix != ".png":
            raise ValueError(f"--out {self.out}: an interpolation is one picture, and goes to a file that ends in .png")
        write_png(self.out, interpolation_grid(self.loading.load(self.model), seeds, self.steps, **self.options()))
        print(self.out)
