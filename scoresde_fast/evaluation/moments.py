# SPDX-License-Identifier: Apache-2.0
"""Count, sum and sum of outer products: all that a Frechet distance needs of features, and it adds up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PIECE = 4096
"""Rows that are brought to float64 at once."""


@dataclass
class Moments:
    """Of ``count`` features of D dimensions, in float64: their ``total`` (D,) and sum of outer products (D, D)."""

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def zero(cls, dimensions: int, device: torch.device | str = "cpu") -> Moments:
        """Of no features."""
        outer = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
        return cls(0, outer[0].clone(), outer)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (N, D)."""
        moments = cls.zero(features.shape[1], features.device)
        for part in features.split(PIECE):
            moments.add(part)
        return moments

    @classmethod
    def of_gaussian(cls, mean: Tensor, covariance: Tensor, count: int) -> Moments:
        """Of ``count`` features that had this mean (D,) and covariance (D, D)."""
        mean, covariance = mean.double(), covariance.double()
        return cls(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))

    def add(self, features: Tensor) -> None:
        """Count in features (N, D)."""
        features = features.double()
        self.count += len(features)
        self.total += features.sum(0)
        self.outer.addmm_(features.T, features)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def cpu(self) -> Moments:
        """The same on the CPU."""
        return Moments(self.count, self.total.cpu(), self.outer.cpu())

    @property
    def mean(self) -> Tensor:
        """(D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased."""
        return (self.outer - torch.outer(self.total, self.mean)) / (self.count - 1)
