# SPDX-License-Identifier: Apache-2.0
"""The measures: right on cases with a known answer, and able to tell good images from bad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.evaluation import Recogniser, extract_features, frechet_distance, gaussian_distance
from scoresde_fast.networks import FeatureNet
from scoresde_fast.training import features


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


@pytest.mark.parametrize("smallest", [0.5, 0.0], ids=["regular", "singular"])
def test_gaussian_distance_of_commuting_covariances(smallest: float) -> None:
    """|m|^2 + sum (sqrt a - sqrt b)^2 where the covariances share their eigenvectors.

    An eigenvalue of the product, at most 12, is known to within the rounding D eps 12 of the product; its root to
    within rounding / (2 root), with roots of 1/2 and more, or where it is 0 to within the root of the rounding. It
    enters twice.
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
    """Against SciPy's matrix square root; with eigenvalues of 1 and more both are well conditioned."""
    linalg = pytest.importorskip("scipy.linalg")
    generator = torch.Generator().manual_seed(1)
    factors = torch.randn(2, 6, 6, generator=generator).double()
    cov_a, cov_b = factors @ factors.mT + torch.eye(6, dtype=torch.float64)
    zero = torch.zeros(6)
    expected = float((cov_a + cov_b).trace()) - 2 * linalg.sqrtm((cov_a @ cov_b).numpy()).real.trace()
    assert gaussian_distance(zero, cov_a, zero, cov_b) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_orders_images_by_quality() -> None:
    """Nearer to the data are more data, then noisy data, then noise."""
    train, test = digits("train")[0] / 255, digits("test")[0] / 255
    noise = torch.rand(test.shape, generator=torch.Generator().manual_seed(0))
    good, worse, worst = (frechet_distance(x, train) for x in (test, test.lerp(noise, 0.3), noise))
    assert 0 <= good < worse < worst
    assert frechet_distance(train, train) == pytest.approx(0, abs=1e-6)


def test_features_refuse_other_shapes() -> None:
    """Images of another size are refused with both shapes."""
    with pytest.raises(ValueError, match=r"\(3, 32, 32\); digits-features takes \(3, 16, 16\)"):
        extract_features(torch.rand(2, 3, 32, 32))


def test_real_digits_are_recognised(recogniser: Recogniser) -> None:
    """Held-out digits: at least 97 % right, nearly all confident, the tint that of the class."""
    accuracy, report = recogniser.held_out()
    assert accuracy >= 0.97 and report.recognised >= 0.98 and report.tint_matches >= 0.97
    assert sum(report.class_shares) == pytest.approx(1) and min(report.class_shares) > 0.08


def test_noise_and_wrong_tints_are_not(recogniser: Recogniser) -> None:
    """Digits with their channels rotated keep their shapes and lose their tints; noise is no digit of every class."""
    images = digits("test")[0] / 255
    rotated = recogniser.report(images.roll(1, dims=1))
    assert rotated.recognised >= 0.98 and rotated.tint_matches < 0.2
    noise = recogniser.report(torch.rand(images.shape, generator=torch.Generator().manual_seed(0)))
    assert noise.tint_matches < 0.5 and max(noise.class_shares) > 0.5


def test_feature_training_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs from scratch already classify, the record is complete, and the same seed gives the same weights."""
    monkeypatch.setattr(features, "EPOCHS", 2)
    record = features.train_features_to(tmp_path, seed=1)
    assert record["seed"] == 1 and len(record["loss"]) == 2 and record["loss"][1] < record["loss"][0]
    assert record["held_out_accuracy"] > 0.5
    again, _ = features.train_features(seed=1)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "features.safetensors")
    assert all(torch.equal(tensor.half(), saved[name]) for name, tensor in again.state_dict().items())
    assert isinstance(again, FeatureNet)
