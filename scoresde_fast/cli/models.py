# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast train`` and ``convert``: commands that write saved models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scoresde_fast.cli.options import NO_DEFAULT, Flag
from scoresde_fast.cli.process import process_device

DataHelp = arg(
    help="Other training images: cifar10, svhn:extra, a folder, .zip, .tar, .npz or .npy; photos@64 crops and resizes "
    "to 64x64, photos@64,rgb also converts to RGB. Data sets are read from $SCORESDE_FAST_DATA or ./data. "
    "Sets over 2 GiB need a folder or .npy.",
    help_behavior_hint="(default: the recipe's)",
)


@dataclass(frozen=True)
class Train:
    """Train a model. If the command is interrupted, run it again to continue.

    Ctrl-C and SIGTERM finish the current step and save it; a second signal stops at once.
    """

    recipe: Positional[str]
    """A recipe (digits-ve, digits-classifier), a preset (ve/cifar10_ncsnpp_continuous), or a .json, .py, .txt file."""
    out: Annotated[Path | None, arg(help_behavior_hint="(default: runs/RECIPE)")] = None
    """Folder of the run: its state, snapshots (checkpoint_STEP), sample grids, and the trained model (model)."""
    data: Annotated[str | None, DataHelp] = None
    seed: int = 0
    """Seed of the initial weights and of every step."""
    device: str = "cpu"
    """cpu or cuda."""
    half: Flag = False
    """Save the trained weights in half precision."""
    tensorboard: Flag = False
    """Also write TensorBoard events."""

    def run(self) -> None:
        out = self.out or Path("runs") / Path(self.recipe).stem
        if self.recipe == "digits-features":
            if self.data is not None:
                raise ValueError("digits-features is trained on the digits only; leave out --data")
            from scoresde_fast.training.features import train_features

            train_features(out / "model", seed=self.seed)
            print(out / "model")
            return
        from scoresde_fast import training

        if training.is_classifier_recipe(self.recipe):
            recipe = training.load_classifier_recipe(self.recipe)
            if self.data is not None:
                recipe = replace(recipe, data=replace(recipe.data, dataset=self.data, held_out=None))
            run = partial(training.train_classifier, recipe, out)
        else:
            config = training.load_recipe(self.recipe)
            if self.data is not None:
                config = replace(config, data=replace(config.data, dataset=self.data))
            run = partial(training.train, config, out)
        print(run(seed=self.seed, device=process_device(self.device), half=self.half, tensorboard=self.tensorboard))


@dataclass(frozen=True)
class Convert:
    """Convert an official checkpoint or a run to a folder with config.json and model.safetensors, averaged weights."""

    checkpoint: Positional[Path]
    """A checkpoint (.pth or .safetensors), or a run of train or its state.pt."""
    out: Positional[Path]
    """Output folder."""
    config: Annotated[str | None, NO_DEFAULT] = None
    """For a checkpoint: its preset (ve/cifar10_ncsnpp_continuous), or a .json, .py or .txt file."""
    raw: Flag = False
    """Convert the raw weights instead of their moving average."""

    def run(self) -> None:
        from scoresde_fast.checkpoints import convert

        convert(self.checkpoint, self.out, config=self.config, ema=not self.raw)
        print(self.out)
