# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance: correct in cases with a known answer, and larger for worse images."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.evaluation import frechet_distance, gaussian_distance
from scoresde_fast.evaluation.frechet import FeatureMoments, FrechetDistance


@pytest.mark.parametrize("smallest", [0.5, 0.0], ids=["regular", "singular"])
def test_gaussian_distance_of_commuting_covariances(smallest: float) -> None:
    """|m|^2 + sum (sqrt a - sqrt b)^2 where the covariances share their eigenvectors.

    Eigenvalues of the product are at most 12, with a rounding error of D eps 12. The error of a root is the rounding
    error / (2 root), at roots of at least 1/2, or the root of the rounding error, at a root of 0. Roots count twice.
    """
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    a, b = torch.tensor([[1.0, 2.0, 0.5, 3.0, smallest], [4.0, 1.0, 0.5, 4.0, 2.0]], dtype=torch.float64)
    cov_a, cov_b = (rotation @ torch.diag(values) @ rotation.T for values in (a, b))
    mean = torch.arange(5.0, dtype=torch.float64)
    expected = float((mean**2).sum() + ((a.sqrt() - b.sqrt()) ** 2).sum())
    rounding = 5 * torch.finfo(torch.float64).eps * 12
    bound = 2 * (5 * rounding if smallest else rounding**0.5) + 5 * torch.finfo(torch.float64).eps * expected
    assert abs(gaussian_distance(mean, cov_a, 0 * mean, cov_b) - expected) <= bound


def test_gaussian_distance_of_any_covariances() -> None:
    """Equal to SciPy's matrix square root; eigenvalues of at least 1 make both well conditioned."""
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(2, 6, 6, generator=generator).double()
    cov_a, cov_b = factors @ factors.mT + torch.eye(6, dtype=torch.float64)
    zero = torch.zeros(6)
    expected = float((cov_a + cov_b).trace()) - 2 * linalg.sqrtm((cov_a @ cov_b).numpy()).real.trace()
    assert gaussian_distance(zero, cov_a, zero, cov_b) == pytest.approx(expected, rel=1e-8)


def test_fewer_samples_than_features() -> None:
    """The distance of N <= D features is that of their mean and covariance.

    Either way has at most D roots of eigenvalues M or less, each with an error of at most the root of the rounding
    error D eps M. Roots count twice.
    """
    generator = torch.Generator().manual_seed(2)
    features, others = (torch.randn(count, 12, generator=generator).double() for count in (9, 40))
    a, b = FeatureMoments.of(features), FeatureMoments.of(others)
    distance = FrechetDistance(b.mean, b.covariance)
    largest = float(torch.linalg.matrix_norm(a.covariance, 2) * torch.linalg.matrix_norm(b.covariance, 2))
    bound = 2 * 2 * 12 * (12 * torch.finfo(torch.float64).eps * largest) ** 0.5
    assert abs(distance.of_features(features) - distance(a.mean, a.covariance)) <= bound < 1e-4


def test_frechet_distance_orders_images_by_quality() -> None:
    """The distance to data grows from other data to noisy data to noise."""
    train, test = digits("train")[0] / 255, digits("test")[0] / 255
    noise = torch.rand(test.shape, generator=torch.Generator().manual_seed(0))
    good, worse, worst = (frechet_distance(x, train) for x in (test, test.lerp(noise, 0.3), noise))
    assert 0 <= good < worse < worst
    assert frechet_distance(train, train) == pytest.approx(0, abs=1e-6)
