# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast convert``: an official checkpoint as a folder that loads without its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from scoresde_fast.cli.groups import Flag


@dataclass(frozen=True)
class Convert:
    """Write config.json and model.safetensors, with the moving average of the weights applied."""

    checkpoint: Positional[Path]
    """An official checkpoint, .pth."""
    out: Positional[Path]
    """The folder to write."""
    config: str
    """The preset it belongs to (ve/cifar10_ncsnpp_continuous), or a JSON file."""
    raw: Flag = False
    """The raw weights instead of their moving average."""

    def run(self) -> None:
        from scoresde_fast.checkpoints import convert

        convert(self.checkpoint, self.out, config=self.config, ema=not self.raw)
        print(self.out)
