# SPDX-License-Identifier: Apache-2.0
"""Refusal of metrics for too few images or an unsuitable reference, and warnings."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, MetricSettings, evaluate
from scoresde_fast.evaluation.reference import Reference, write_statistics
from tests.support.evaluations import evaluated, fid

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")

ONCE = MetricSettings(resamples=0, kid_subsets=3)


def test_too_few_images(extractor: Extractor, tmp_path: Path) -> None:
    """FID of no more images than features is refused, or computed with a warning by ``few``; KID is allowed."""
    np.savez(tmp_path / "few.npz", arr_0=digits("train")[0][:64].permute(0, 2, 3, 1).numpy())
    options: dict[str, Any] = {"settings": ONCE, "progress": False, "reference": "digits:test"}
    few = open_images(str(tmp_path / "few.npz"))
    with pytest.raises(ValueError, match=r"has 64 images.*64 features.*below 65.*--few"):
        evaluate(few, "few", extractor, metrics=["fid"], **options)
    others = evaluate(few, "few", extractor, **options)
    assert others is not None and list(others.result["metrics"]) == ["kid", "inception_score", "precision", "recall"]
    assert others.result["warnings"][0].startswith("few has 64 images; with 64 features")
    for metric, settings, says in [
        ("is", MetricSettings(isc_splits=65), "has 65 parts, but few has only 64"),
        ("pr", MetricSettings(prc_neighborhood=64), "64 neighbours of each image, but a set has 64"),
        ("kid", MetricSettings(kid_subset_size=1), "at least 2 images"),
    ]:
        with pytest.raises(ValueError, match=says):
            evaluate(few, "few", extractor, **options | {"settings": settings, "metrics": [metric]})
    with pytest.raises(ValueError, match=r"few\.npz has 64 images"):
        evaluated(extractor, reference=str(tmp_path / "few.npz"), metrics=["fid"])
    allowed = evaluate(few, "few", extractor, few=True, **options)
    assert allowed is not None and any("covariance is singular" in text for text in allowed.result["warnings"])
    kid = evaluate(few, "few", extractor, metrics=["kid"], **options)
    assert kid is not None and list(kid.result["metrics"]) == ["kid"] and not kid.result["warnings"]


@pytest.mark.parametrize(
    ("count", "possible"),
    [(1, []), (2, ["fid", "kid"]), (5, ["fid", "kid", "precision", "recall"]), (10, None)],
)
@pytest.mark.parametrize("small", ["images", "reference"])
def test_very_few_images(
    extractor: Extractor, tmp_path: Path, count: int, possible: list[str] | None, small: str
) -> None:
    """Metrics that need more images get a sentence each, and the others are computed; with none left it is an error."""
    np.savez(tmp_path / "few.npz", arr_0=digits("train")[0][:count].permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "more.npz", arr_0=digits("train")[0][100:200].permute(0, 2, 3, 1).numpy())
    few, more = str(tmp_path / "few.npz"), str(tmp_path / "more.npz")
    source, reference = (few, more) if small == "images" else (more, few)
    options: dict[str, Any] = {"settings": ONCE, "progress": False, "few": True, "reference": reference}
    images = open_images(source)
    if small == "images" and possible == []:
        with pytest.raises(ValueError, match="FID needs a covariance, but set has a single image; KID needs"):
            evaluate(images, "set", extractor, **options)
        return
    result = evaluate(images, "set", extractor, **options)
    assert result is not None
    every = ["fid", "kid", "inception_score", "precision", "recall"]
    expected = every if possible is None else possible
    if small == "reference" and possible is not None:
        expected = [name for name in every if name in possible or name == "inception_score"]
    assert list(result.result["metrics"]) == expected
    assert all(np.isfinite(metric["value"]) for metric in result.result["metrics"].values())
    names = {"fid": "FID", "kid": "KID", "inception_score": "Inception score", "precision": "precision"}
    for metric, title in names.items():
        assert any(title in text and "but " in text for text in result.result["warnings"]) == (metric not in expected)


def test_warnings_state_the_bias(extractor: Extractor, statistics: Reference) -> None:
    """Below 10 000 images the warnings state the counts and the FID of two halves of the reference."""
    warnings = evaluated(extractor, reference="digits:test", metrics=["fid"]).result["warnings"]
    assert "1433 images and 364 images of the reference is too large" in warnings[0]
    assert f"182 images each, have an FID of {statistics.floor:.4g}" in warnings[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics": ["fid"]}, "compares with a reference; give --reference"),
        ({"metrics": ["fdi"]}, "unknown metric 'fdi' - did you mean 'fid'"),
        ({"reference": "nowhere.npz"}, "nowhere.npz"),
        ({"reference": "digits:test", "settings": MetricSettings(kid_subset_size=1000)}, "1000 images cannot be drawn"),
    ],
)
def test_invalid_requests(extractor: Extractor, options: dict[str, Any], says: str) -> None:
    """The message names the mistake."""
    with pytest.raises((ValueError, OSError), match=says):
        evaluated(extractor, **options)


def test_reference_without_features(extractor: Extractor, statistics: Reference, tmp_path: Path) -> None:
    """KID is refused if only mean and covariance are known; the message says what to give."""
    write_statistics(replace(statistics, features=None), tmp_path / "without.npz")
    with pytest.raises(ValueError, match="statistics made with --features"):
        evaluated(extractor, reference=str(tmp_path / "without.npz"), metrics=["kid"])


def test_many_images_keep_no_features(
    extractor: Extractor, statistics: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For very many images only FID is computed, without keeping features, unless other metrics are requested."""
    few = evaluated(extractor, reference="digits:test", metrics=["fid"])
    monkeypatch.setattr("scoresde_fast.evaluation.checks.KEEP_FEATURES_UP_TO", 1000)
    many = evaluated(extractor, reference="digits:test", settings=MetricSettings(kid_subsets=3)).result["metrics"]
    assert many == {"fid": {"value": pytest.approx(fid(few), rel=1e-9), "spread": None}}
    asked = evaluated(extractor, reference="digits:test", metrics=["is", "pr"]).result["metrics"]
    assert list(asked) == ["inception_score", "precision", "recall"]
