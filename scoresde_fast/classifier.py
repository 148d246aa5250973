# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers p(y | x + noise), one network for all SDEs and times."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scoresde_fast.configs.schema import read_section, require, require_positive, to_plain_dict
from scoresde_fast.networks import WideResNet


@dataclass(frozen=True)
class ClassifierConfig:
    """The classes, the range of noise, and the network of a classifier.

    Attributes:
        name: name of the network.
        image_shape: (C, H, W) of an image.
        classes: names of the classes, in the order of the labels.
        low, high: smallest and largest std of the noise, on images in [-1, 1].
        widths, num_res_blocks, data_std, dropout: arguments of `WideResNet`.

    Raises:
        ValueError: an option is invalid; the message names it.
    """

    image_shape: tuple[int, ...]
    classes: tuple[str, ...]
    low: float
    high: float
    name: Literal["wide_resnet"] = "wide_resnet"
    widths: tuple[int, ...] = (32, 64, 128)
    num_res_blocks: int = 1
    data_std: float = 0.5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_positive("classifier", self, "image_shape", "low", "widths", "num_res_blocks", "data_std")
        require(self.low < self.high, f"classifier.low is {self.low} and high is {self.high}; low must be smaller")
        require(0 <= self.dropout < 1, f"classifier.dropout is {self.dropout}; it must be at least 0 and below 1")
        require(
            len(self.image_shape) == 3,
            f"classifier.image_shape is {list(self.image_shape)}; it must be [channels, height, width]",
        )
        require(
            len(set(self.classes)) == len(self.classes) > 1,
            f"classifier.classes are {list(self.classes)}; at least two different names are needed",
        )
        require(bool(self.widths), "classifier.widths is empty; it needs a number of channels for each resolution")
        for width in self.widths:
            require(
                width % min(max(width // 4, 1), 32) == 0 and width >= 4,
                f"classifier.widths has {width}, which cannot be normalised in groups; a multiple of 32 always fits",
            )
        factor = 2 ** (len(self.widths) - 1)
        require(
            all(size % factor == 0 for size in self.image_shape[1:]),
            f"classifier.image_shape is {list(self.image_shape)}; the {len(self.widths)} resolutions of "
            f"classifier.widths need a height and a width that are multiples of {factor}",
        )

    @classmethod
    def from_dict(cls, options: Any) -> ClassifierConfig:
        """Build a configuration from a mapping of options; raise ``ValueError`` if one is unknown or invalid."""
        return read_section("classifier", cls, options)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, for ``from_dict``."""
        return to_plain_dict(self)


class Classifier(nn.Module):
    """A classifier with fresh weights: log p(y | x) of images x = x(0) + noise z, where x(0) is in [-1, 1].

    `SDE.observation` scales the state of any SDE to that form, so one classifier works for all SDEs; the
    classifier of Song et al. (2021, appendix I.1) is for the VE SDE.

    Attributes:
        config, classes, image_shape, low, high: the configuration, and its fields; see `ClassifierConfig`.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.classes, self.image_shape = config.classes, config.image_shape
        self.low, self.high = config.low, config.high
        channels, *size = config.image_shape
        options = {**vars(config), "image_size": size, "in_channels": channels, "classes": len(config.classes)}
        self.network = WideResNet(**{name: options[name] for name in inspect.signature(WideResNet).parameters}).float()
        # channels_last is 20% faster on a CPU, and the common layout on a GPU.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return log probabilities (B, classes) of images (B, C, H, W) in [-1, 1] plus noise of std ``noise`` (B,)."""
        return self.network(x, noise).log_softmax(dim=1)
