# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance between two sets of images, through Gaussians fitted to their features."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde_fast.evaluation.features import extract_features


class FrechetDistance:
    """|m - n|^2 + tr(A + B - 2 (A B)^(1/2)) of Gaussians (Dowson & Landau 1982) to one of them, in float64.

    Args:
        mean: (D,).
        covariance: (D, D), positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self._mean, covariance = mean.double(), covariance.double()
        values, vectors = torch.linalg.eigh(covariance)
        self._root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        self._trace = covariance.trace()

    def __call__(self, mean: Tensor, covariance: Tensor) -> float:
        """The distance of the Gaussian of this mean (D,) and covariance (D, D)."""
        mean, covariance = mean.double(), covariance.double()
        # A^(1/2) B A^(1/2) has the eigenvalues of A B, and is symmetric.
        crossed = torch.linalg.eigvalsh(self._root @ covariance @ self._root).clamp(min=0).sqrt().sum()
        return float(((self._mean - mean) ** 2).sum() + self._trace + covariance.trace() - 2 * crossed)


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The `FrechetDistance` of two Gaussians.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), positive semi-definite.
    """
    return FrechetDistance(mean_a, cov_a)(mean_b, cov_b)


def frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """Between two sets of (N, 3, 16, 16) images in [0, 1], in the features of ``digits-features``.

    Raises:
        ValueError: a set has fewer than two images, or another shape.
    """
    for images in (images_a, images_b):
        if len(images) < 2:
            raise ValueError(f"a set of {len(images)} images has no covariance; give at least 2")
    (mean_a, cov_a), (mean_b, cov_b) = (
        (features.mean(0), features.T.cov()) for features in map(extract_features, (images_a, images_b))
    )
    return gaussian_distance(mean_a, cov_a, mean_b, cov_b)
