# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast likelihood``, ``encode``, ``decode`` and ``interpolate``: commands of the probability flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from scoresde_fast.cli.network_inputs import NetworkInputOptions
from scoresde_fast.cli.options import (
    NO_DEFAULT,
    Data,
    FlowGroup,
    FlowToleranceGroup,
    LoadingOptions,
    Model,
    RunGroup,
    given,
)
from scoresde_fast.cli.process import process_device

if TYPE_CHECKING:
    from scoresde_fast.data.in_memory import NamedData
    from scoresde_fast.model import ScoreFunction


@dataclass(frozen=True, kw_only=True)
class FlowCommand:
    """Base class of these commands: a model, and the options of its probability flow."""

    model: Model
    flow: FlowGroup = field(default_factory=FlowGroup)
    computing: RunGroup = field(default_factory=RunGroup)
    network: NetworkInputOptions = field(default_factory=NetworkInputOptions)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def options(self) -> dict[str, Any]:
        """Return the given options as keyword arguments of the functions in `scoresde_fast.flow`."""
        device = process_device(self.computing.device)
        return given(self.flow, self.computing) | self.network.options() | {"device": device}


def _read(data: str, model: ScoreFunction) -> NamedData:
    from scoresde_fast.data.in_memory import read_data

    return read_data(data, model.image_shape, is_image=model.is_image)


@dataclass(frozen=True, kw_only=True)
class Likelihood(FlowCommand):
    """Write one line of JSON for each image: bits per dimension and log density by the probability flow.

    If the command is interrupted, run it again to continue. On CLD the log density is a lower bound, and bits per
    dimension are an upper bound. Points (cld-toy) have a log density only.
    """

    data: Data
    out: Path = Path("results.jsonl")
    """Output file; the settings are written to OUT.settings.json beside it."""
    probes: int = 1
    """Number of random probes that estimate the divergence of an image; two or more also give a standard error."""
    probe: Literal["rademacher", "normal", "exact"] = "rademacher"
    """Distribution of the probes: rademacher (+1 and -1) or normal; exact: the exact trace, for small images."""
    seeds_from: int = 0
    """Seed of the first image; each later image has the next seed."""
    limit: Annotated[int | None, NO_DEFAULT] = None
    """Process only the first LIMIT images; a later run may continue with more."""

    def run(self) -> None:
        from scoresde_fast.flow.likelihood import LikelihoodEstimator
        from scoresde_fast.generate.likelihoods import write_likelihoods

        model = self.loading.load(self.model)
        data, names, _ = _read(self.data, model)
        estimator = LikelihoodEstimator(model, probes=self.probes, probe=self.probe, **self.options())
        print(write_likelihoods(estimator, data, names, self.out, first_seed=self.seeds_from, limit=self.limit))


@dataclass(frozen=True, kw_only=True)
class Encode(FlowCommand):
    """Write the latent code of every image: standard normal, computed by the probability flow."""

    data: Data
    out: Path = Path("codes.npz")
    """Output file, .npz: codes (N, C, H, W) float32 and names. On CLD a code contains position and velocity."""
    seeds_from: int = 0
    """CLD: seed of the first image's velocity; each later image has the next seed."""

    def run(self) -> None:
        from scoresde_fast.flow.codes import encode
        from scoresde_fast.generate.seeds import check_seeds
        from scoresde_fast.generate.states import check_new_npz, write_codes

        check_new_npz(self.out, "codes")
        model = self.loading.load(self.model)
        data, names, _ = _read(self.data, model)
        seeds = check_seeds(range(self.seeds_from, self.seeds_from + len(data)))
        images = data.double() / 255 if model.is_image else data
        write_codes(self.out, encode(model, images, seeds, **self.options()), names)
        print(self.out)


@dataclass(frozen=True, kw_only=True)
class Decode(FlowCommand):
    """Write the image of every code, named by its index in the file. Existing images are kept.

    Points are written to one .npz.
    """

    codes: Positional[Path]
    """A .npz written by encode."""
    out: Path = Path("decoded")
    """A folder of PNGs, or a file: .npz (arr_0, NHWC uint8) or .zip (PNGs)."""
    temperature: float = 1.0
    """Factor that multiplies the codes. Below 1, images are more typical and less diverse."""
    rounding: Literal["floor", "round"] = "round"
    """Conversion of [0, 1] to 8 bits: round to the nearest, which restores encoded images, or floor of 255 x."""

    def run(self) -> None:
        from scoresde_fast.generate import generate, write_states
        from scoresde_fast.generate.states import CodeImages, read_codes

        codes = read_codes(self.codes)
        model = self.loading.load(self.model)
        images = CodeImages(model, codes, temperature=self.temperature, **self.options())
        indices = range(len(codes))
        if not model.is_image:
            print(write_states(images, indices, self.out, return_velocity=False))
            return
        print(generate(images, indices, self.out, batch_size=images.batch_size, rounding=self.rounding))


@dataclass(frozen=True, kw_only=True)
class Interpolate(FlowCommand):
    """Interpolate between seeds in latent space: one row of images for each pair of consecutive seeds."""

    seeds: str
    """Two or more seeds, in order: 3,7 or 0-4."""
    flow: FlowToleranceGroup = field(default_factory=FlowToleranceGroup)
    steps: int = 8
    """Number of images in a row, including both ends."""
    out: Path = Path("interpolation.png")
    """Output file, .png."""

    def run(self) -> None:
        from scoresde_fast.generate import parse_seeds
        from scoresde_fast.generate.pixels import write_png
        from scoresde_fast.generate.states import interpolation_grid

        seeds = parse_seeds(self.seeds)
        if self.out.suffix != ".png":
            raise ValueError(f"--out is {self.out}; its suffix must be .png")
        write_png(self.out, interpolation_grid(self.loading.load(self.model), seeds, self.steps, **self.options()))
        print(self.out)
