# SPDX-License-Identifier: Apache-2.0
"""Reference statistics: the cache, files of other programs, merging, and refusals."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor
from scoresde_fast.evaluation import reference as references
from scoresde_fast.evaluation.frechet import FeatureMoments
from scoresde_fast.evaluation.reference import (
    Reference,
    cached_reference,
    has_statistics,
    merged,
    read_statistics,
    write_statistics,
)
from tests.support.evaluations import evaluated, fid, png_folder, values

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


def test_cache(extractor: Extractor, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same images, under any name, are read from the cache; a corrupt file is recomputed."""
    first = cached_reference(open_images("digits:test"), "digits:test", extractor, features=True)
    (path,) = cache.rglob("*.npz")
    np.savez(tmp_path / "same.npz", arr_0=digits("test")[0].permute(0, 2, 3, 1).numpy())
    renamed = open_images(str(tmp_path / "same.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(references, "compute_reference", None)
        again = cached_reference(renamed, "renamed", extractor, features=True)
    assert again.record == first.record | {"source": "renamed"}
    assert torch.equal(first.mean, again.mean) and torch.equal(first.covariance, again.covariance)
    assert first.features is not None and again.features is not None
    assert torch.equal(first.features, again.features)
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(cached_reference(renamed, "renamed", extractor, features=True).mean, first.mean)
    assert len(list(cache.rglob("*.npz"))) == 1 and read_statistics(path).count == 364


def test_unwritable_cache(extractor: Extractor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a writable cache the statistics are computed each time."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_reference(open_images("digits:test"), "digits:test", extractor, features=False).count == 364


def test_metrics_from_a_file(extractor: Extractor, statistics: Reference, tmp_path: Path) -> None:
    """Statistics in a file give the metrics of the images; without features, only those that need none.

    They agree to 1e-6, as with torch-fidelity: a library's last bits may depend on the alignment of the arrays.
    """
    write_statistics(statistics, tmp_path / "with.npz")
    write_statistics(replace(statistics, features=None), tmp_path / "without.npz")
    images = values(evaluated(extractor, reference="digits:test"))
    whole = values(evaluated(extractor, reference=str(tmp_path / "with.npz")))
    assert whole == pytest.approx(images, rel=1e-6)
    assert list(whole) == ["fid", "kid", "inception_score", "precision", "recall"]
    part = evaluated(extractor, reference=str(tmp_path / "without.npz"))
    assert values(part) == pytest.approx({name: whole[name] for name in ("fid", "inception_score")}, rel=1e-6)
    assert part.result["reference"]["floor"] == statistics.floor and 1 < (statistics.floor or 0) < 40


def test_official_cifar10_statistics(tmp_path: Path) -> None:
    """pool_3 of score_sde's file is read as features of Inception; other arrays are ignored."""
    features = np.random.default_rng(0).normal(size=(50, 2048)).astype(np.float32)
    np.savez(tmp_path / "cifar10_stats.npz", pool_3=features, logits=np.zeros((50, 1008), np.float32))
    assert has_statistics(tmp_path / "cifar10_stats.npz")
    found = read_statistics(tmp_path / "cifar10_stats.npz")
    assert found.record["extractor"] == "inception-v3-compat" and found.count == 50
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0), atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-12)


def test_statistics_of_other_programs(extractor: Extractor, statistics: Reference, tmp_path: Path) -> None:
    """mu and sigma alone are accepted with a warning; they cannot be merged, because their count is unknown.

    The eigenvalues under FID's roots range from 1e-4 to 1e4, so in float64 the roots are accurate to 1e-10.
    """
    np.savez(tmp_path / "others.npz", mu=statistics.mean.numpy(), sigma=statistics.covariance.numpy())
    found = evaluated(extractor, reference=str(tmp_path / "others.npz"))
    assert fid(found) == pytest.approx(fid(evaluated(extractor, reference="digits:test")), rel=1e-9)
    assert any("does not name its extractor" in warning for warning in found.result["warnings"])
    with pytest.raises(ValueError, match="does not record its number of images"):
        merged(read_statistics(tmp_path / "others.npz"), statistics)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("extractor", "inception-v3-compat", "another extractor: inception-v3-compat there, digits-features here"),
        ("weights_sha256", "0" * 64, "another extractor's weights: 000000000000 there"),
        ("layer", "2048", "another layer: 2048 there, 64 here"),
        ("shape", [3, 32, 32], "another image shape: 3x32x32 there, 3x16x16 here"),
    ],
)
def test_other_statistics(
    extractor: Extractor, statistics: Reference, tmp_path: Path, key: str, value: Any, says: str
) -> None:
    """Statistics with another extractor, weights, layer or size are refused, also when merging."""
    other = replace(statistics, record=statistics.record | {key: value})
    write_statistics(other, tmp_path / "other.npz")
    with pytest.raises(ValueError, match=says):
        evaluated(extractor, reference=str(tmp_path / "other.npz"))
    with pytest.raises(ValueError, match="has statistics of another"):
        merged(statistics, other)


def test_other_dimensions(extractor: Extractor, tmp_path: Path) -> None:
    """mu and sigma of another number of features are refused, even without a recorded extractor."""
    np.savez(tmp_path / "other.npz", mu=np.zeros(8), sigma=np.eye(8))
    with pytest.raises(ValueError, match="another number of features: 8 there, 64 here"):
        evaluated(extractor, reference=str(tmp_path / "other.npz"))


class Harmful:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


def test_pickles_are_not_read(extractor: Extractor, tmp_path: Path) -> None:
    """Arrays of objects, and a pickle under another name, are refused without being read."""
    np.savez(tmp_path / "objects.npz", mu=np.array([Harmful()], dtype=object), sigma=np.eye(1))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Harmful()))
    for name in ("objects.npz", "pickle.npz"):
        with pytest.raises(ValueError, match=name):
            evaluated(extractor, reference=str(tmp_path / name))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"must be \(D,\) and \(D, D\)"),
        ({"pool_3": np.zeros(4)}, "it must be features"),
        ({"mu": np.zeros(3)}, "statistics are mu and sigma"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "mu of .* has NaN or infinite values"),
        ({"pool_3": np.full((9, 3), np.inf, np.float32)}, "pool_3 of .* has NaN or infinite values"),
    ],
    ids=["sizes", "features", "half", "NaN", "infinite"],
)
def test_files_without_statistics(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    """The message names the fault of the file."""
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        read_statistics(tmp_path / "file.npz")


def test_merged_parts(tmp_path: Path, extractor: Extractor) -> None:
    """Files of statistics of three parts merge to those of the whole, including features."""
    images = digits("train")[0][:300]
    parts = []
    for number, part in enumerate(images.split([70, 100, 130])):
        folder = str(png_folder(tmp_path / str(number), part))
        write_statistics(cached_reference(open_images(folder), folder, extractor, features=True), tmp_path / "a.npz")
        parts.append(read_statistics(tmp_path / "a.npz"))
    whole = merged(merged(parts[0], parts[1]), parts[2])
    assert whole.count == 300 and whole.features is not None
    torch.testing.assert_close(whole.features, extractor(images)["64"], rtol=1e-5, atol=1e-5)
    exact = FeatureMoments.of(whole.features)
    torch.testing.assert_close(whole.mean, exact.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.covariance, exact.covariance, rtol=1e-9, atol=1e-9)
