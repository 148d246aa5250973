# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast colorize``: colours of gray images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scoresde_fast.cli.condition_options import ConditionCommand
from scoresde_fast.cli.groups import Flag

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Colorize(ConditionCommand):
    """Colour gray images: NAME-SEED.png for each sample, and sheet.png to look at.

    The mean over the channels stays what it is. Stopped at any moment, the same command goes on from what is finished;
    run.json says what a folder was made by, and another command is refused there.
    """

    to_gray: Flag = False
    """Take images that have colours, which are lost first: gray is the mean over the channels."""
    method: Literal["projection", "pigdm"] = "projection"
    """Hold what is known, as in the paper; or let it guide the rest too, by the network's gradient: slower, and the
    parts fit together better."""
    out: Path = Path("colorized")
    """The folder to write."""

    def run(self) -> None:
        from scoresde_fast.cli.stopping import stopping
        from scoresde_fast.data.images import read_pictures
        from scoresde_fast.tasks import colorization

        with stopping() as stop:
            model = self.load_for_images()
            channels, *size = model.image_shape
            if channels == 1:
                raise ValueError(f"the images of {self.model} have one channel; choose a model of colour images")
            levels, names = read_pictures(self.images, [(1, *size), (channels, *size)])
            if not self.to_gray:
                _require_gray(levels, names)
            seeds = self.seeds_of(len(names))
            images = levels.float() / 255
            gray = images.mean(1, keepdim=True)
            source = colorization(model, gray, seeds=seeds, method=self.method, **self.projection_options())
            given = {"image": images, "gray": gray} if self.to_gray else {"gray": gray}
            self.write(source, names, seeds, given, self.out, stop, to_gray=self.to_gray, method=self.method)


def _require_gray(levels: Tensor, names: list[str]) -> None:
    """Raises ValueError unless the channels of every image (C, H, W) uint8 are alike."""
    apart = (levels.amax(1) - levels.amin(1)).flatten(1).amax(1)
    if worst := int(apart.max()):
        raise ValueError(
            f"{names[int(apart.argmax())]} has colours: its channels are up to {worst} levels of 255 apart; give gray "
            "images, or --to-gray, which takes the mean over the channels"
        )
