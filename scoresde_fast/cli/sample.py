# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast sample``: sets of samples on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from scoresde_fast.cli.options import Flag, Model, SamplerOptions
from scoresde_fast.cli.process import stopping_on_sigterm

DIGITS_CLASSIFIER = "digits-classifier"
OutHelp = arg(
    help="A folder of PNGs, or a file whose suffix selects the format: .npz (arr_0, NHWC uint8), .zip (PNGs), .tar "
    "(webdataset shards of PNGs) or .npy (NCHW float32, not rounded)."
)


@dataclass(frozen=True, kw_only=True)
class Sample(SamplerOptions):
    """Write one image for each seed, an overview grid, and samples.json. Existing images are kept.

    If the command is interrupted, run it again to continue, with any number of processes.

    Samples of point models (cld-toy), and positions with velocities, are written to one .npz.
    """

    model: Model
    seeds: str = "0-63"
    """Seeds and ranges of seeds, for example 0-63,100,200-203. A seed always gives the same image."""
    out: Annotated[Path, OutHelp] = Path("samples")
    shard: Annotated[str | None, arg(help_behavior_hint="(default: torchrun's, or all)")] = None
    """Sample one part of the set, for example 3/16; other processes or machines can sample the others at any time."""
    classes: Annotated[str | None, arg(name="class", help_behavior_hint="(default: any)")] = None
    """Class of the images, by index or name, or several classes: with 3,7,one, seed s gets entry s mod 3."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: digits-classifier for models of digits)")] = (
        None
    )
    """For --class: the noise-conditional classifier, an embedded one or a folder written by train."""
    class_scale: Annotated[float | None, arg(help_behavior_hint="(default: 5)")] = None
    """For --class: guidance scale. Above 1, images are more typical of their class and less diverse."""
    return_velocity: Flag = False
    """CLD: write positions, velocities (float32) and seeds to --out FILE.npz instead of images."""
    rounding: Literal["floor", "round"] = "floor"
    """Conversion of [0, 1] to 8 bits: floor of 255 x, as in the official code, or round to the nearest."""

    def run(self) -> None:
        import scoresde_fast as sf
        from scoresde_fast.generate import SeedSet, Shard, generate, parse_seeds, write_states

        seeds = SeedSet.parse(self.seeds)  # report mistakes before the model is loaded
        shard = Shard.of_process() if self.shard is None else Shard.parse(self.shard)
        with stopping_on_sigterm() as stop:
            model = self.loading.load(self.model)
            sampler = sf.Sampler(model, **self.options(), **self._guidance())
            if self.return_velocity or not model.is_image:
                print(write_states(sampler, parse_seeds(self.seeds), self.out, return_velocity=self.return_velocity))
                return
            size = sampler.batch_size
            print(generate(sampler, seeds, self.out, batch_size=size, rounding=self.rounding, shard=shard, stop=stop))

    def _guidance(self) -> dict[str, Any]:
        """Return the condition of --class as a keyword argument of `Sampler`; empty without --class.

        Raises:
            ValueError: a classifier is given without a class, or the other way round; or as `ClassGuidance`.
        """
        if self.classes is None:
            if self.classifier is not None or self.class_scale is not None:
                raise ValueError("--classifier and --class-scale need --class: give the class too, as in --class 3")
            return {}
        from scoresde_fast.checkpoints import embedded_names, load_classifier
        from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance, parse_classes

        name = self.classifier
        if name is None:
            if not (self.model.startswith("digits-") and self.model in embedded_names()):
                raise ValueError(
                    f"--class needs a classifier of the images of {self.model}; give --classifier FOLDER, written by "
                    "scoresde-fast train"
                )
            name = DIGITS_CLASSIFIER
        classifier = load_classifier(name)
        classes = parse_classes(self.classes, classifier.classes)
        scale = CLASS_SCALE if self.class_scale is None else self.class_scale
        return {"condition": ClassGuidance(classes, classifier, scale=scale, round_robin=True)}
