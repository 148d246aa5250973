# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast inpaint``: the unknown part of images, given the known one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scoresde_fast.cli.condition_options import ConditionCommand


@dataclass(frozen=True, kw_only=True)
class Inpaint(ConditionCommand):
    """Fill in the unknown part of images: NAME-SEED.png for each sample, and sheet.png to look at.

    Known pixels stay what they are, to the last bit. Stopped at any moment, the same command goes on from what is
    finished; run.json says what a folder was made by, and another command is refused there.
    """

    mask: Path
    """A PNG of the images' size, white where a pixel is known and black where it is not; or a folder with one for each
    image, by the image's name."""
    method: Literal["projection", "pigdm"] = "projection"
    """Hold what is known, as in the paper; or let it guide the rest too, by the network's gradient: slower, and the
    parts fit together better."""
    out: Path = Path("inpainted")
    """The folder to write."""

    def run(self) -> None:
        from scoresde_fast.cli.stopping import stopping
        from scoresde_fast.data.images import read_masks, read_pictures
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import inpainting

        with stopping() as stop:
            model = self.load_for_images()
            levels, names = read_pictures(self.images, [model.image_shape])
            known = read_masks(self.mask, names, model.image_shape[1:])[:, None]
            seeds = self.seeds_of(len(names))
            images = levels.float() / 255
            source = inpainting(model, images, known, seeds=seeds, method=self.method, **self.projection_options())
            given = {"image": images, "known": checkered(images, known)}
            self.write(source, names, seeds, given, self.out, stop, mask=str(self.mask), method=self.method)
