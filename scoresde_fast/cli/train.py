# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast train``: an embedded model anew, a preset, or a configuration of one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scoresde_fast.cli.groups import Flag


@dataclass(frozen=True)
class Train:
    """Train a model, or go on with a run that was stopped; the same command does both."""

    recipe: Positional[str]
    """An embedded model (digits-ve, digits-classifier), a preset (ve/cifar10_ncsnpp_continuous), or a JSON file."""
    out: Annotated[Path | None, arg(help_behavior_hint="(default: runs/RECIPE)")] = None
    """The folder of the run: snapshots, sample grids, and the trained model in its folder "model"."""
    data: Annotated[str | None, arg(help_behavior_hint="(default: the recipe's)")] = None
    """Other images: cifar10, svhn:extra, a folder, .zip, .npz or .tar of them; "photos@64" crops and resizes to 64x64.
    A data set's files are looked for in $SCORESDE_FAST_DATA or ./data. More than 2 GiB: a folder or .npy."""
    seed: int = 0
    """Seed of the initial weights and of every step."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    half: Flag = False
    """Keep the trained weights in half precision."""
    tensorboard: Flag = False
    """Write TensorBoard events too."""

    def run(self) -> None:
        out = self.out or Path("runs") / Path(self.recipe).stem
        if self.recipe == "digits-features":
            if self.data is not None:
                raise ValueError("digits-features is trained on the digits alone; leave --data out")
            from scoresde_fast.training.features import train_features_to

            train_features_to(out / "model", seed=self.seed)
            print(out / "model")
            return
        from scoresde_fast.training import (
            is_classifier_recipe,
            load_classifier_recipe,
            load_recipe,
            train,
            train_classifier,
        )

        if is_classifier_recipe(self.recipe):
            recipe = load_classifier_recipe(self.recipe)
            if self.data is not None:
                recipe = replace(recipe, data=replace(recipe.data, dataset=self.data, held_out=None))
            run = partial(train_classifier, recipe, out)
        else:
            config = load_recipe(self.recipe)
            if self.data is not None:
                config = replace(config, data=replace(config.data, dataset=self.data))
            run = partial(train, config, out)
        print(run(seed=self.seed, device=self.device, half=self.half, tensorboard=self.tensorboard))
