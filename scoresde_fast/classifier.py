# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers: p(y | x + noise), one network for every SDE and all of its times."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scoresde_fast.configs.schema import plain, positive, read_section, require
from scoresde_fast.networks import WideResNet


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier: what it tells apart, the noise that it was trained for, and its network.

    Attributes:
        name: the network.
        image_shape: (C, H, W) of one image.
        classes: their names, in the order of the labels.
        low, high: the smallest and the largest deviation of the noise, on images in [-1, 1].
        widths, num_res_blocks, data_std, dropout: as `WideResNet` takes them.

    Raises:
        ValueError: an option is not valid; the sentence names it.
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
        positive("classifier", self, "image_shape", "low", "widths", "num_res_blocks", "data_std")
        require(self.low < self.high, f"classifier.low is {self.low} and high is {self.high}; low must be the smaller")
        require(0 <= self.dropout < 1, f"classifier.dropout is {self.dropout}; it must be at least 0 and below 1")
        require(
            len(self.image_shape) == 3,
            f"classifier.image_shape is {list(self.image_shape)}; it must be [channels, height, width]",
        )
        require(
            len(set(self.classes)) == len(self.classes) > 1,
            f"classifier.classes are {list(self.classes)}; at least two different names are needed",
        )
        require(bool(self.widths), "classifier.widths is empty; it needs a number of channels for every level")
        for width in self.widths:
            require(
                width % min(max(width // 4, 1), 32) == 0 and width >= 4,
                f"classifier.widths has {width}, which cannot be normalised in groups; a multiple of 32 always fits",
            )
        halved = 2 ** (len(self.widths) - 1)
        require(
            all(size % halved == 0 for size in self.image_shape[1:]),
            f"classifier.image_shape is {list(self.image_shape)}; the {len(self.widths)} levels of classifier.widths "
            f"need a height and a width that are multiples of {halved}",
        )

    @classmethod
    def from_dict(cls, options: Any) -> ClassifierConfig:
        """Build from options by name; raises ``ValueError`` for a mistake, naming it and what is allowed."""
        return read_section("classifier", cls, options)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values that JSON can hold; ``from_dict`` takes them back."""
        return plain(self)


class Classifier(nn.Module):
    """A classifier with fresh weights: log p(y | x) of images x = x(0) + noise z, where x(0) is in [-1, 1].

    Any state of a diffusion is brought to that form by `SDE.observation`, so that one classifier serves
    every SDE (Song et al. 2021, appendix I.1, has one for the VE SDE).

    Args:
        config: what it tells apart, and its network.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        channels, *size = config.image_shape
        options = {**vars(config), "image_size": size, "in_channels": channels, "classes": len(config.classes)}
        self.network = WideResNet(**{name: options[name] for name in inspect.signature(WideResNet).parameters})
        # A fifth faster on a CPU, and what a GPU wants.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.config.classes

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image."""
        return self.config.image_shape

    @property
    def low(self) -> float:
        """The smallest deviation of the noise that it was trained for, on images in [-1, 1]."""
        return self.config.low

    @property
    def high(self) -> float:
        """The largest deviation of the noise that it was trained for, on images in [-1, 1]."""
        return self.config.high

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """(B, C, H, W) images in [-1, 1] plus noise of the deviation (B,) -> log probabilities (B, classes)."""
        return self.network(x, noise).log_softmax(dim=1)
