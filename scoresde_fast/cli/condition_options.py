# SPDX-License-Identifier: Apache-2.0
"""What inpaint, colorize and restore have in common: a model, images, and samples that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from scoresde_fast.cli.sampler_options import SamplerOptions

if TYPE_CHECKING:
    from torch import Tensor

    from scoresde_fast.model import ScoreModel
    from scoresde_fast.tasks import TaskSampler


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Which images, and how many samples of each."""

    model: Positional[str]
    """An embedded model (digits-vp), a saved folder, or an official checkpoint (.pth, with --config)."""
    images: Positional[str]
    """One PNG, JPEG or WebP file; a folder, .zip, .tar, .npz or .npy of images; or a data set (digits:test). With @64
    at the end (photo.jpg@64) each image is cropped to its central square and resized to 64x64."""
    samples: int = 4
    """How many for each image."""
    seeds: Annotated[str | None, arg(help_behavior_hint="(default: 0, 1, 2, ...)")] = None
    """A seed for each sample, those of the first image first: numbers and ranges, 0-63,100,200-203."""

    def seeds_of(self, images: int) -> list[int]:
        """A seed for each sample of ``images`` images; raises the errors of `task_seeds`."""
        from scoresde_fast.generate import parse_seeds
        from scoresde_fast.tasks import task_seeds

        return list(task_seeds(images, None if self.seeds is None else parse_seeds(self.seeds), self.samples))


@dataclass(frozen=True, kw_only=True)
class ConditionCommand(SamplerOptions, ImageOptions):
    """The same with a sampler, and its images on the disk."""

    def load_for_images(self) -> ScoreModel:
        """The model of images; raises ValueError where it is of points."""
        model = self.loading.load(self.model)
        if not model.is_image:
            raise ValueError(f"{self.model} is a model of points, and one of images is needed: choose another")
        return model

    def options(self) -> dict[str, Any]:
        """What was given, as the tasks take it."""
        return {**super().options(), "samples": self.samples}

    def projection_options(self) -> dict[str, Any]:
        """The options of a sampler that projects; ``parity`` is then the projection's, not the solver's."""
        return {**self.options(), "parity": bool(self.solver.parity)}

    def write(
        self,
        source: TaskSampler,
        names: list[str],
        seeds: list[int],
        given: Mapping[str, Tensor],
        out: Path,
        stop: Callable[[], bool],
        **asked: Any,
    ) -> None:
        """Write the samples, and a sheet that shows ``given`` too: images (N, C, H, W) in [0, 1] by their titles."""
        from scoresde_fast.generate import format_seeds
        from scoresde_fast.generate.conditional import ROUNDING, write_samples
        from scoresde_fast.generate.pixels import to_pixels

        shown = {title: list(to_pixels(images, ROUNDING)) for title, images in given.items()}
        options = {"command": {"images": self.images, "seeds": format_seeds(seeds), "samples": self.samples, **asked}}
        batch_size = source.sampler.batch_size
        print(write_samples(source, names, seeds, shown, out, options=options, batch_size=batch_size, stop=stop))
