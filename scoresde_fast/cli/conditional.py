# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast inpaint``, ``colorize`` and ``restore``: samples conditioned on given images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from tyro.conf import Positional, arg

from scoresde_fast.cli.options import Flag, Model, SamplerOptions
from scoresde_fast.cli.process import stopping_on_sigterm

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde_fast.model import ScoreModel
    from scoresde_fast.tasks import TaskSampler


class Task(NamedTuple):
    """A task: its sampler, the names of the given images, and images (N, C, H, W) for the overview, by title."""

    sampler: TaskSampler
    names: list[str]
    shown: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TaskCommand(SamplerOptions):
    """Base of the three commands: their options, and writing the samples."""

    model: Model
    images: Positional[str]
    """A PNG, JPEG or WebP file; a folder, .zip, .tar, .npz or .npy of images; or a data set (digits:test).
    With @64 at the end (photo.jpg@64), images are cropped to the central square and resized to 64x64."""
    samples: int = 4
    """Number of samples for each image."""
    seeds: Annotated[str | None, arg(help_behavior_hint="(default: 0, 1, 2, ...)")] = None
    """One seed for each sample, those of the first image first, as 0-63,100,200-203."""
    out: Path

    recorded: ClassVar[tuple[str, ...]]
    """Options that run.json records."""

    def run(self) -> None:
        from scoresde_fast.generate import format_seeds
        from scoresde_fast.generate.conditional import ROUNDING, write_samples
        from scoresde_fast.generate.pixels import to_pixels

        with stopping_on_sigterm() as stop:
            model = self.loading.load(self.model)
            if not model.is_image:
                raise ValueError(f"{self.model} is a model of points, but one of images is needed: choose another")
            sampler, names, shown = self.task(model)
            command = {"images": self.images, "seeds": format_seeds(sampler.seeds), "samples": self.samples}
            for name in self.recorded:
                value = getattr(self, name)
                command[name] = str(value) if isinstance(value, Path) else value
            pictures = {title: list(to_pixels(images, ROUNDING)) for title, images in shown.items()}
            print(
                write_samples(
                    sampler, names, list(sampler.seeds), pictures, self.out,
                    options={"command": command}, batch_size=sampler.sampler.batch_size, stop=stop,
                )
            )  # fmt: skip

    def task(self, model: ScoreModel) -> Task:
        """Read the images and build the sampler."""
        raise NotImplementedError

    def seeds_of(self, images: int) -> list[int]:
        """Return a seed for each sample of ``images`` images; raise as `task_seeds`."""
        from scoresde_fast.generate import parse_seeds
        from scoresde_fast.tasks import task_seeds

        return list(task_seeds(images, None if self.seeds is None else parse_seeds(self.seeds), self.samples))

    def task_options(self, seeds: list[int], **options: Any) -> dict[str, Any]:
        """Return the options of a sampler as keywords of the tasks."""
        return {**self.options(), "seeds": seeds, "samples": self.samples, **options}


@dataclass(frozen=True, kw_only=True)
class CompletionCommand(TaskCommand):
    """Base of inpaint and colorize."""

    method: Literal["projection", "pigdm"] = "projection"
    """projection, as in the paper, replaces the known part; pigdm also guides the rest by the network's gradient.
    It is slower, and the parts fit together better."""

    def completion_options(self, images: int) -> dict[str, Any]:
        """Return the keywords of the task for that number of images."""
        return self.task_options(self.seeds_of(images), method=self.method, original=bool(self.solver.original))


@dataclass(frozen=True, kw_only=True)
class Inpaint(CompletionCommand):
    """Fill in the unknown part of images: NAME-SEED.png for each sample, and the overview sheet.png.

    Known pixels are kept exactly. If the command is stopped, run it again to continue. run.json records the command;
    another command is refused in the same folder.
    """

    mask: Path
    """A PNG of the images' size, white where a pixel is known, black elsewhere; or a folder of masks, by image name."""
    out: Path = Path("inpainted")
    """The folder to write."""

    recorded = ("mask", "method")

    def task(self, model: ScoreModel) -> Task:
        from scoresde_fast.data.images import read_masks, read_pictures
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import inpainting

        pixels, names = read_pictures(self.images, [model.image_shape])
        known = read_masks(self.mask, names, model.image_shape[1:])[:, None]
        images = pixels.float() / 255
        options = self.completion_options(len(names))
        shown = {"image": images, "known": checkered(images, known)}
        return Task(inpainting(model, images, known, **options), names, shown)


@dataclass(frozen=True, kw_only=True)
class Colorize(CompletionCommand):
    """Colour gray images: NAME-SEED.png for each sample, and the overview sheet.png.

    The mean over the channels is kept. If the command is stopped, run it again to continue. run.json records the
    command; another command is refused in the same folder.
    """

    to_gray: Flag = False
    """Take coloured images and convert them to gray first, by the mean over the channels."""
    out: Path = Path("colorized")
    """The folder to write."""

    recorded = ("to_gray", "method")

    def task(self, model: ScoreModel) -> Task:
        from scoresde_fast.data.images import read_pictures
        from scoresde_fast.tasks import colorization

        channels, *size = model.image_shape
        if channels == 1:
            raise ValueError(f"the images of {self.model} have one channel; choose a model of colour images")
        pixels, names = read_pictures(self.images, [(1, *size), (channels, *size)])
        if not self.to_gray:
            _require_gray(pixels, names)
        images = pixels.float() / 255
        gray = images.mean(1, keepdim=True)
        options = self.completion_options(len(names))
        shown = {"image": images, "gray": gray} if self.to_gray else {"gray": gray}
        return Task(colorization(model, gray, **options), names, shown)


def _require_gray(pixels: Tensor, names: list[str]) -> None:
    """Raise ValueError unless the channels of every image (C, H, W) uint8 are equal."""
    apart = (pixels.amax(1) - pixels.amin(1)).flatten(1).amax(1)
    if worst := int(apart.max()):
        raise ValueError(
            f"{names[int(apart.argmax())]} has colours: its channels differ by up to {worst} of 255; give gray images, "
            "or --to-gray, which takes the mean over the channels"
        )


@dataclass(frozen=True, kw_only=True)
class Restore(TaskCommand):
    """Restore images from noisy measurements: NAME-SEED.png for each sample, and the overview sheet.png.

    IMAGES are the measurements: for sr, smaller by the factor; for gray, of one channel. If the command is stopped, run
    it again to continue. run.json records the command; another command is refused in the same folder.
    """

    operator: str
    """The measurement: gray, blur:STD (in pixels), or sr:FACTOR (means over FACTOR x FACTOR pixels).
    Or the known pixels: mask:FILE.png (white), box:TOP,LEFT,HEIGHT,WIDTH (outside), random:FRACTION[,SEED]."""
    noise: float = 0.05
    """Standard deviation of the noise in the measurements, where white is 1. dps does not use it."""
    method: Literal["pigdm", "dps"] = "pigdm"
    """Pseudo-inverse guidance, or diffusion posterior sampling, which needs many steps."""
    scale: float = 1.0
    """Guidance scale. For dps, 0.3 to 1 with 1000 steps, more with fewer."""
    simulate: Flag = False
    """Take IMAGES of the model's size and measure them first, with --noise. The noise is the same in every run."""
    out: Path = Path("restored")
    """The folder to write."""

    recorded = ("operator", "noise", "method", "scale", "simulate")

    def task(self, model: ScoreModel) -> Task:
        from scoresde_fast.conditions.guidance import enlarged, known_pixels, simulate
        from scoresde_fast.conditions.operators.text import parse_operator
        from scoresde_fast.data.images import read_pictures
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import restoration

        if not 0 <= self.noise < math.inf:
            raise ValueError(f"--noise is {self.noise}; it must be a finite number, 0 or greater")
        operator = parse_operator(self.operator, model.image_shape)
        wanted = model.image_shape if self.simulate else operator.measured_shape(model.image_shape)
        pixels, names = read_pictures(self.images, [wanted])
        seeds = self.seeds_of(len(names))
        measured, shown = pixels.float() / 255, dict[str, "Tensor"]()
        if self.simulate:
            shown["original"] = measured
            run_seed = self.computing.run_seed or 0
            measured = simulate(operator, measured, self.noise, seeds=seeds[:: self.samples], run_seed=run_seed)
        known = known_pixels(operator, model.image_shape)
        shown["measured"] = checkered(enlarged(measured, model.image_shape), known)
        options = self.task_options(seeds, noise=self.noise, method=self.method, scale=self.scale)
        return Task(restoration(model, operator, measured, **options), names, shown)
