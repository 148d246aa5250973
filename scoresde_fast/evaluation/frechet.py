# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance between Gaussians fitted to features, and the moments of features, all in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde_fast.evaluation.extractors import extract_features

CHUNK = 4096
"""Number of rows converted to float64 at once."""


class FrechetDistance:
    """Squared Frechet distance to a fixed Gaussian: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982).

    Args:
        mean: mean (D,) of the fixed Gaussian.
        covariance: its covariance (D, D), positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self._mean, covariance = mean.double(), covariance.double()
        values, vectors = torch.linalg.eigh(covariance)
        self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self._trace = covariance.trace()

    def __call__(self, mean: Tensor, covariance: Tensor) -> float:
        """Return the distance of the Gaussian with this mean (D,) and covariance (D, D)."""
        mean, covariance = mean.double(), covariance.double()
        # A^(1/2) B A^(1/2) is symmetric and has the eigenvalues of A B.
        return self._distance(mean, covariance.trace(), self._root @ covariance @ self._root)

    def of_features(self, features: Tensor) -> float:
        """Return the distance of the Gaussian fitted to features (N, D)."""
        moments = FeatureMoments.of(features)
        if len(features) > features.shape[1]:
            return self(moments.mean, moments.covariance)
        # B = X^T X / (N - 1): the (N, N) matrix of the rows of X A^(1/2) has the same eigenvalues except zeros.
        rows = (features.double() - moments.mean) @ self._root
        return self._distance(moments.mean, moments.covariance.trace(), rows @ rows.T / (moments.count - 1))

    def _distance(self, mean: Tensor, trace: Tensor, product: Tensor) -> float:
        """Return the distance; ``product`` is symmetric and has the nonzero eigenvalues of A B."""
        trace_root = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        return float(((self._mean - mean) ** 2).sum() + self._trace + trace - 2 * trace_root)


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return the `FrechetDistance` between Gaussians with means (D,) and covariances (D, D)."""
    return FrechetDistance(mean_a, cov_a)(mean_b, cov_b)


def frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """Return the Frechet distance between two sets of images (N, 3, 16, 16) in [0, 1], by ``digits-features``.

    Raises:
        ValueError: a set has fewer than two images, or another shape.
    """
    for images in (images_a, images_b):
        if len(images) < 2:
            raise ValueError(f"a set of {len(images)} images has no covariance; give at least 2")
    a, b = extract_features(images_a), extract_features(images_b)
    return gaussian_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())


@dataclass
class FeatureMoments:
    """Sums over ``count`` features in float64: ``total`` (D,) and the sum of outer products ``outer`` (D, D)."""

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def zero(cls, dimensions: int, device: torch.device | str = "cpu") -> FeatureMoments:
        """Return the moments of no features."""
        outer = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
        return cls(0, outer[0].clone(), outer)

    @classmethod
    def of(cls, features: Tensor) -> FeatureMoments:
        """Return the moments of features (N, D)."""
        moments = cls.zero(features.shape[1], features.device)
        for chunk in features.split(CHUNK):
            moments.add(chunk)
        return moments

    @classmethod
    def of_gaussian(cls, mean: Tensor, covariance: Tensor, count: int) -> FeatureMoments:
        """Return the moments of ``count`` features with this mean (D,) and covariance (D, D)."""
        mean, covariance = mean.double(), covariance.double()
        return cls(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))

    def add(self, features: Tensor) -> None:
        """Add features (N, D)."""
        features = features.double()
        self.count += len(features)
        self.total += features.sum(0)
        self.outer.addmm_(features.T, features)

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        return FeatureMoments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def cpu(self) -> FeatureMoments:
        """Return a copy on the CPU."""
        return FeatureMoments(self.count, self.total.cpu(), self.outer.cpu())

    @property
    def mean(self) -> Tensor:
        """Mean (D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D)."""
        return (self.outer - torch.outer(self.total, self.mean)) / (self.count - 1)
