# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers p(y | x + noise), one network for all SDEs and times."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from scoresde_fast.configs.options import Length, Options, Range, require
from scoresde_fast.configs.schema import Fraction
from scoresde_fast.configs.weights import count_classifier_weights, require_size
from scoresde_fast.errors import shown
from scoresde_fast.networks import WideResNet


@dataclass(frozen=True)
class ClassifierConfig(Options, section="classifier"):
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

    image_shape: Annotated[tuple[int, ...], Range(1, 4096), Length(3, 3)]
    classes: Annotated[tuple[str, ...], Length(2, 10**5)]
    low: Annotated[float, Range(1e-8, 1e6)]
    high: Annotated[float, Range(1e-8, 1e6)]
    name: Literal["wide_resnet"] = "wide_resnet"
    widths: Annotated[tuple[int, ...], Range(4, 8192), Length(1, 13)] = (32, 64, 128)
    num_res_blocks: Annotated[int, Range(1, 64)] = 1
    data_std: Annotated[float, Range(1e-6, 1e6)] = 0.5
    dropout: Fraction = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.low < self.high, f"classifier.low is {self.low} and high is {self.high}; low must be smaller")
        require(
            len(set(self.classes)) == len(self.classes),
            f"classifier.classes are {shown(self.classes)}; at least two different names are needed, each once",
        )
        for width in self.widths:
            require(
                width % min(width // 4, 32) == 0,
                f"classifier.widths has {width}, which cannot be normalised in groups; a multiple of 32 always fits",
            )
        factor = 2 ** (len(self.widths) - 1)
        require(
            all(size % factor == 0 for size in self.image_shape[1:]),
            f"classifier.image_shape is {list(self.image_shape)}; the {len(self.widths)} resolutions of "
            f"classifier.widths need a height and a width that are multiples of {factor}",
        )
        require_size(
            count_classifier_weights(self.image_shape, self.widths, self.num_res_blocks, len(self.classes)),
            "classifier.widths, classifier.num_res_blocks or classifier.image_shape",
        )


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
