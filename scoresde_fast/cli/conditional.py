# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast inpaint``, ``colorize`` and ``restore``: samples conditioned on images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, arg

from scoresde_fast.cli.options import Flag, Model, SamplerOptions
from scoresde_fast.cli.process import stopping_on_sigterm

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde_fast.model import ScoreFunction
    from scoresde_fast.tasks import TaskSampler


Images = Positional[
    Annotated[
        str,
        arg(
            help="An image file; a folder, .zip, .tar, .npz or .npy of images; or a data set (digits:test). With the "
            "suffix @64 (photo.jpg@64), images are cropped to a central square and resized to 64x64; @rgb converts "
            "them to RGB, and @64,rgb does both."
        ),
    ]
]
Method = Annotated[
    Literal["projection", "pigdm"],
    arg(
        help="projection, as in the paper, only replaces the known part; pigdm also guides the unknown part by the "
        "gradient of the network, which is slower and gives smoother transitions."
    ),
]
Operator = Annotated[
    str,
    arg(
        help="Measurement operator: gray, blur:STD (in pixels) or sr:FACTOR (means over FACTOR x FACTOR pixels); or a "
        "mask: mask:FILE.png (white is known), box:TOP,LEFT,HEIGHT,WIDTH (the box is unknown) or "
        "random:FRACTION[,SEED] (the fraction is known)."
    ),
]


class Task(NamedTuple):
    """A task's sampler, the names of its images, and the columns of the overview: title -> images (N, C, H, W)."""

    sampler: TaskSampler
    names: list[str]
    columns: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskCommand(SamplerOptions, ABC):
    """Base class of the three commands: the options that they share, and the writing of samples.

    run.json also records the options that a command adds.
    """

    model: Model
    images: Images
    samples: int = 4
    """Number of samples for each image."""
    seeds: Annotated[str | None, arg(help_behavior_hint="(default: 0, 1, 2, ...)")] = None
    """One seed for each sample, image by image, for example 0-63,100,200-203."""
    out: Path

    def run(self) -> None:
        from scoresde_fast.generate import format_seeds
        from scoresde_fast.generate.conditional import ROUNDING, write_samples
        from scoresde_fast.generate.pixels import to_pixels

        with stopping_on_sigterm() as stop:
            model = self.loading.load(self.model)
            if not model.is_image:
                raise ValueError(f"{self.model} is a model of points; choose a model of images")
            sampler, names, columns = self.task(model)
            command = {"images": self.images, "seeds": format_seeds(sampler.seeds), "samples": self.samples}
            for option in fields(self)[len(fields(TaskCommand)) :]:  # a command's own options follow the shared ones
                value = getattr(self, option.name)
                command[option.name] = str(value) if isinstance(value, Path) else value
            pictures = {title: list(to_pixels(images, ROUNDING)) for title, images in columns.items()}
            print(
                write_samples(
                    sampler, names, list(sampler.seeds), pictures, self.out,
                    options={"command": command}, batch_size=sampler.sampler.batch_size, stop=stop,
                )
            )  # fmt: skip

    @abstractmethod
    def task(self, model: ScoreFunction) -> Task:
        """Read the images and build the sampler."""

    def task_options(self, **own: Any) -> dict[str, Any]:
        """Return the keyword arguments of a function of `scoresde_fast.tasks`: the shared options and ``own``."""
        from scoresde_fast.generate import parse_seeds

        seeds = None if self.seeds is None else parse_seeds(self.seeds)
        return {**self.options(), "seeds": seeds, "samples": self.samples, **own}


@dataclass(frozen=True, kw_only=True)
class Inpaint(TaskCommand):
    """Fill in the unknown part of images. Write NAME-SEED.png for each sample, and the overview sheet.png.

    Known pixels are kept exactly. If the command is interrupted, run it again to continue. run.json records the
    options; a run with other options needs another folder.
    """

    method: Method = "projection"
    mask: Path
    """A PNG of the images' size, white at known pixels, black elsewhere; or a folder of PNGs named like the images."""
    out: Path = Path("inpainted")
    """Output folder."""

    def task(self, model: ScoreFunction) -> Task:
        from scoresde_fast.data.in_memory import read_images
        from scoresde_fast.data.masks import read_masks
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import inpainting

        pixels, names, _ = read_images(self.images, [model.image_shape])
        known = read_masks(self.mask, names, model.image_shape[1:])[:, None]
        images = pixels.float() / 255
        columns = {"image": images, "known": checkered(images, known)}
        return Task(inpainting(model, images, known, **self.task_options(method=self.method)), names, columns)


@dataclass(frozen=True, kw_only=True)
class Colorize(TaskCommand):
    """Colour gray images. Write NAME-SEED.png for each sample, and the overview sheet.png.

    The mean over the channels is kept. If the command is interrupted, run it again to continue. run.json records the
    options; a run with other options needs another folder.
    """

    method: Method = "projection"
    to_gray: Flag = False
    """Accept colour images, and convert them to gray first by the mean over the channels."""
    out: Path = Path("colorized")
    """Output folder."""

    def task(self, model: ScoreFunction) -> Task:
        from scoresde_fast.data.in_memory import read_images
        from scoresde_fast.tasks import colorization

        channels, *size = model.image_shape
        if channels == 1:
            raise ValueError(f"{self.model} generates images with one channel; choose a model of colour images")
        pixels, names, _ = read_images(self.images, [(1, *size), (channels, *size)])
        if not self.to_gray:
            _require_gray(pixels, names)
        images = pixels.float() / 255
        gray = images.mean(1, keepdim=True)
        columns = {"image": images, "gray": gray} if self.to_gray else {"gray": gray}
        return Task(colorization(model, gray, **self.task_options(method=self.method)), names, columns)


def _require_gray(pixels: Tensor, names: list[str]) -> None:
    """Raise ValueError unless the channels of every image (C, H, W) uint8 are equal."""
    differences = (pixels.amax(1) - pixels.amin(1)).flatten(1).amax(1)
    if largest := int(differences.max()):
        raise ValueError(
            f"{names[int(differences.argmax())]} has colours: its channels differ by up to {largest} of 255; give gray "
            "images, or --to-gray, which takes the mean over the channels"
        )


@dataclass(frozen=True, kw_only=True)
class Restore(TaskCommand):
    """Restore images from noisy measurements. Write NAME-SEED.png for each sample, and the overview sheet.png.

    IMAGES are the measurements: smaller by the factor for sr, with one channel for gray. If the command is interrupted,
    run it again to continue. run.json records the options; a run with other options needs another folder.
    """

    operator: Operator
    noise: float = 0.05
    """Standard deviation of the measurement noise, for pixel values in [0, 1]. dps does not use it."""
    method: Literal["pigdm", "dps"] = "pigdm"
    """Pseudo-inverse guidance, or diffusion posterior sampling, which needs many steps."""
    scale: float = 1.0
    """Guidance scale. For dps, 0.3 to 1 with 1000 steps, larger with fewer steps."""
    simulate: Flag = False
    """IMAGES are originals of the model's size. Simulate their measurements with --noise, drawn from the seeds."""
    out: Path = Path("restored")
    """Output folder."""

    def task(self, model: ScoreFunction) -> Task:
        from scoresde_fast.conditions.guidance import enlarged, known_pixels, simulate
        from scoresde_fast.conditions.operators.text import parse_operator
        from scoresde_fast.data.in_memory import read_images
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import restoration, task_seeds

        if not 0 <= self.noise < math.inf:
            raise ValueError(f"--noise is {self.noise}; it must be a finite number, 0 or greater")
        operator = parse_operator(self.operator, model.image_shape)
        shape = model.image_shape if self.simulate else operator.measured_shape(model.image_shape)
        pixels, names, _ = read_images(self.images, [shape])
        options = self.task_options(noise=self.noise, method=self.method, scale=self.scale)
        measured = pixels.float() / 255
        columns: dict[str, Tensor] = {}
        if self.simulate:
            columns["original"] = measured
            seeds = task_seeds(len(names), options["seeds"], self.samples)[:: self.samples]  # one for each image
            measured = simulate(operator, measured, self.noise, seeds=seeds, run_seed=self.computing.run_seed or 0)
        known = known_pixels(operator, model.image_shape)
        columns["measured"] = checkered(enlarged(measured, model.image_shape), known)
        return Task(restoration(model, operator, measured, **options), names, columns)
