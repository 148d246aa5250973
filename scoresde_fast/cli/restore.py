# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast restore``: the images that measured ones may have been made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scoresde_fast.cli.condition_options import ConditionCommand
from scoresde_fast.cli.groups import Flag

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Restore(ConditionCommand):
    """Restore what was measured, with noise: NAME-SEED.png for each sample, and sheet.png to look at.

    IMAGES are the measured ones: for sr smaller by the factor, for gray of one channel. Stopped at any moment, the same
    command goes on from what is finished; run.json says what a folder was made by, and another command is refused
    there.
    """

    operator: str
    """What was measured: gray, blur:STD (in pixels), sr:FACTOR (means over FACTOR x FACTOR pixels), or the pixels that
    are known: mask:FILE.png (white), box:TOP,LEFT,HEIGHT,WIDTH (all but those), random:SHARE[,SEED] (so many)."""
    noise: float = 0.05
    """The deviation of the noise of what was measured, where white is 1; dps does not use it."""
    method: Literal["pigdm", "dps"] = "pigdm"
    """Pseudo-inverse guidance, or diffusion posterior sampling, which is for many steps."""
    scale: float = 1.0
    """Of the guidance; of dps 0.3 to 1 with 1000 steps, more with fewer."""
    simulate: Flag = False
    """IMAGES are originals of the model's size, which are measured first, with so much noise; always the same."""
    out: Path = Path("restored")
    """The folder to write."""

    def run(self) -> None:
        from scoresde_fast.cli.stopping import stopping
        from scoresde_fast.conditions.measurement import enlarged, known_pixels, measure
        from scoresde_fast.conditions.operators.text import parse_operator
        from scoresde_fast.data.images import read_pictures
        from scoresde_fast.generate.pixels import checkered
        from scoresde_fast.tasks import restoration

        if not 0 <= self.noise < math.inf:
            raise ValueError(f"--noise is {self.noise}; it must be a finite number, 0 or greater")
        with stopping() as stop:
            model = self.load_for_images()
            operator = parse_operator(self.operator, model.image_shape)
            wanted = model.image_shape if self.simulate else operator.measured_shape(model.image_shape)
            levels, names = read_pictures(self.images, [wanted])
            seeds = self.seeds_of(len(names))
            images = levels.float() / 255
            given: dict[str, Tensor] = {}
            if self.simulate:
                given["original"] = images
                first = seeds[:: self.samples]
                measured = measure(operator, images, self.noise, seeds=first, run_seed=self.computing.run_seed or 0)
            else:
                measured = images
            known = known_pixels(operator, model.image_shape)
            given["measured"] = checkered(enlarged(measured, model.image_shape), known)
            source = restoration(
                model, operator, measured, noise=self.noise, method=self.method, scale=self.scale, seeds=seeds,
                **self.options(),
            )  # fmt: skip
            self.write(
                source, names, seeds, given, self.out, stop, operator=self.operator, noise=self.noise,
                method=self.method, scale=self.scale, simulate=self.simulate,
            )  # fmt: skip
