# SPDX-License-Identifier: Apache-2.0
"""What the commands that look at features of images have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from scoresde_fast.cli.groups import NO_DEFAULT, Flag, process_device

if TYPE_CHECKING:
    from scoresde_fast.evaluation import Extractor


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions:
    """Which features."""

    extractor: Annotated[str | None, arg(help_behavior_hint="(default: by the size of the images)")] = None
    """inception-v3-compat (FID as published), vgg16, clip-..., or digits-features, which is for 16x16 colour digits and
    the default on those."""
    extractor_weights: Annotated[Path | None, NO_DEFAULT] = None
    """The extractor's weights: .safetensors, or a .pth as torch-fidelity has it. Nothing is downloaded."""
    trust_pickle: Flag = False
    """Read weights and images that are pickles of more than arrays, which may run any program."""

    def load_extractor(self, shape: Sequence[int], device: str) -> Extractor:
        """The extractor for images (C, H, W), on the device; the errors are those of `load_extractor`."""
        from scoresde_fast.evaluation.extractors import default_extractor, load_extractor

        return load_extractor(
            self.extractor or default_extractor(shape),
            weights=self.extractor_weights,
            trust_pickle=self.trust_pickle,
            device=process_device(device),
        )
