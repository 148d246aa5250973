# SPDX-License-Identifier: Apache-2.0
"""What the score networks share: the order of time embedding, body and noise level."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from scoresde_fast.networks.operations import Activation, Composed


class ScoreNetwork(Composed):
    """A network of images and time labels.

    Attributes:
        centered: inputs are in [-1, 1] already, else in [0, 1].
        image_channels: of the output.
        input_channels: of the input.
        act: the activation.
        sigmas: noise levels, the largest first; None where a model has no table of them.
        time0, time1: the layers of the time embedding; None where the network is not conditional.
    """

    centered: bool
    image_channels: int
    input_channels: int
    act: Activation
    sigmas: Tensor | None
    time0: nn.Module | None
    time1: nn.Module | None

    @abstractmethod
    def body(self, x: Tensor, temb: Tensor | None) -> Tensor:
        """Everything between the input, scaled to [-1, 1], and the output, not yet divided by the noise level."""

    @abstractmethod
    def embed(self, labels: Tensor) -> Tensor | None:
        """The time embedding (B, 4 nf) of labels (B,), activated, as each block projects it."""

    @abstractmethod
    def noise_level(self, labels: Tensor) -> Tensor | None:
        """(B,) what the output is divided by, or None."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, input channels, H, W), (B,) -> (B, image channels, H, W)."""
        h = self.body(x if self.centered else 2 * x - 1, self.embed(labels))
        level = self.noise_level(labels)
        return h if level is None else h / level[:, None, None, None]

    def embed_features(self, features: Tensor) -> Tensor | None:
        """The two dense layers of the time embedding, activated; None where the network is not conditional."""
        if self.time0 is None or self.time1 is None:
            return None
        return self.act(self.time1(self.act(self.time0(features))))
