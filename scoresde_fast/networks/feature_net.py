# SPDX-License-Identifier: Apache-2.0
"""A small classifier of the digits, whose last features take the place of Inception's where that is absent."""

from __future__ import annotations

from torch import Tensor, nn

FEATURES = 64


class FeatureNet(nn.Module):
    """Three convolutions over 16x16 colour images, a linear layer of 64 features, and a linear classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURES),
            nn.SiLU(),
        )
        self.classifier = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, 16, 16) in [0, 1] -> (B, 64)."""
        return self.body(2 * images - 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 16, 16) in [0, 1] -> (B, classes) logits."""
        return self.classifier(self.features(images))
