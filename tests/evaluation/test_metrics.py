# SPDX-License-Identifier: Apache-2.0
"""FID, KID, Inception score, precision and recall: equal to torch-fidelity's, with correct spreads."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from tests.support.chance import SIGMAS, standard_error_of_mean, standard_error_of_std

pytest.importorskip("sklearn")

import scoresde_fast as sf
from scoresde_fast.cli.evaluate import Eval
from scoresde_fast.data import digits
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, MetricSettings, SampledImages, evaluate
from scoresde_fast.evaluation.extractors import load_torch_fidelity
from scoresde_fast.evaluation.frechet import FeatureMoments, FrechetDistance, gaussian_distance
from scoresde_fast.evaluation.metrics import METRICS, bootstrap, fid_by_count, kid_bootstrap
from scoresde_fast.evaluation.reference import cached_reference
from scoresde_fast.generate import generate
from tests.support.evaluations import png_folder, replayed, values

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")

SHAPE = (3, 16, 16)
ONCE = MetricSettings(resamples=0, kid_subsets=10)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randint(0, 60, images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(max=255).byte()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """150 noisy digits and 200 real ones, as PNGs."""
    images = digits("train")[0]
    root = tmp_path_factory.mktemp("images")
    return str(png_folder(root / "noisy", noisy(images[:150]))), str(png_folder(root / "real", images[400:600]))


def test_command_line_has_every_metric() -> None:
    """The type of the option --metrics lists `METRICS`."""
    names, _ = get_args(get_type_hints(Eval)["metrics"])
    assert get_args(names) == tuple(METRICS)


def test_equals_torch_fidelity(folders: tuple[str, str], extractor: Extractor) -> None:
    """All metrics of a folder of PNGs equal those of torch-fidelity on it, to 1e-6."""
    settings = MetricSettings(resamples=0, kid_subsets=20, kid_subset_size=100)
    evaluation = evaluate(open_images(folders[0]), "noisy", extractor, reference=folders[1], settings=settings)
    assert evaluation is not None
    found = values(evaluation)
    theirs = load_torch_fidelity().calculate_metrics(
        input1=folders[0],
        input2=folders[1],
        feature_extractor="digits-features",
        **dict.fromkeys(["fid", "kid", "isc", "prc", "save_cpu_ram"], True),
        **dict.fromkeys(["cuda", "cache", "verbose"], False),
        kid_subsets=20,
        kid_subset_size=100,
    )
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}
    names |= {"inception_score": "inception_score_mean", "precision": "precision", "recall": "recall"}
    assert found == pytest.approx({name: theirs[key] for name, key in names.items()}, rel=1e-6)
    assert 0 < found["precision"] < 1 and found["fid"] > 50  # the noise increases FID


def test_fid_formula(extractor: Extractor) -> None:
    """On features in float64 torch-fidelity's FID equals ours to 1e-9."""
    fid = load_torch_fidelity().metric_fid
    a, b = (extractor(images)["64"].double() for images in digits("all")[0][:600].split(300))
    theirs = fid.fid_statistics_to_metric(*map(fid.fid_features_to_statistics, (a, b)), False)
    ours = gaussian_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    moments_a, moments_b = FeatureMoments.of(a), FeatureMoments.of(b)
    from_moments = gaussian_distance(moments_a.mean, moments_a.covariance, moments_b.mean, moments_b.covariance)
    assert [ours, from_moments] == pytest.approx([theirs["frechet_inception_distance"]] * 2, rel=1e-9)


def test_sampler_equals_folder(tmp_path: Path, extractor: Extractor, folders: tuple[str, str]) -> None:
    """Images straight from the sampler give the metrics of the same images on disk, and the same first images."""
    sampler = sf.Sampler(sf.load("digits-vp"), solver="ddim", steps=2, batch_size=50)
    generate(sampler, range(100), tmp_path / "set", batch_size=50, grid=False, progress=False)
    options: dict[str, Any] = {"reference": folders[1], "settings": ONCE, "batch_size": 50, "progress": False}
    streamed = evaluate(SampledImages(sampler, SHAPE, range(100)), "streamed", extractor, **options)
    written = evaluate(open_images(str(tmp_path / "set")), "written", extractor, **options)
    assert streamed is not None and written is not None
    assert torch.equal(streamed.first, written.first)
    assert values(streamed) == pytest.approx(values(written), rel=1e-6)


@pytest.mark.statistical
def test_bootstrap_of_a_mean(run_seed: int) -> None:
    """The spread of a mean is its standard error, up to the randomness of 2000 resamples."""
    rows = torch.randn(500, 1, generator=torch.Generator().manual_seed(run_seed))
    spread = bootstrap(rows, lambda part: float(part.mean()), resamples=2000, seed=run_seed)
    wanted = float(rows.std(correction=0)) / 500**0.5
    assert abs(spread - wanted) <= SIGMAS * standard_error_of_std(wanted, 2000)
    assert bootstrap(rows, lambda part: float(part.mean()), resamples=1, seed=1) is None


@pytest.mark.statistical
def test_spread_of_kid(run_seed: int) -> None:
    """The bootstrap of one set estimates the standard deviation of KID between independent sets.

    One set's spread has a relative standard deviation of 0.14 (10 000 sets of 200; 0.10 is due to 50 resamples); its
    expectation is 1% below the truth.
    """
    generator = torch.Generator().manual_seed(run_seed)
    reference = torch.randn(200, 4, generator=generator) + 0.7
    sets = [torch.randn(200, 4, generator=generator) for _ in range(400)]
    kid = load_torch_fidelity().metric_kid.kid_features_to_metric
    options: dict[str, Any] = {"kid_subsets": 1, "kid_subset_size": 200, "verbose": False}
    varied = torch.tensor([kid(rows, reference, **options)["kernel_inception_distance_mean"] for rows in sets]).std()
    spreads = torch.tensor([kid_bootstrap(rows, reference, 50, seed) for seed, rows in enumerate(sets[:40])])
    error = math.hypot(standard_error_of_std(1, len(sets)), standard_error_of_mean(0.14, len(spreads)))
    assert abs(float(spreads.mean() / varied) - 1) <= SIGMAS * error + 0.01


@pytest.mark.statistical
def test_spread_of_fid(run_seed: int) -> None:
    """The bootstrap of FID estimates its standard deviation, which is known here, up to a bias.

    Near the reference's covariance 1, FID is |m|^2 + |C - 1|^2 / 4 for a set with covariance C whose mean is off by m,
    here 0.7 in each of 4 dimensions. A set's spread varies by its 50 resamples and with its own m^T C m; its bias is
    of the order of 1 / 300.
    """
    count, size, square = 300, 4, 4 * 0.7**2
    generator = torch.Generator().manual_seed(run_seed)
    sets = [torch.randn(count, size, generator=generator) for _ in range(40)]
    distance = FrechetDistance(torch.full((size,), 0.7), torch.eye(size))

    def fid(rows: Tensor) -> float:
        return distance(rows.mean(0), rows.T.cov())

    spreads = [bootstrap(rows, fid, 50, run_seed + seed) or 0.0 for seed, rows in enumerate(sets)]
    exact = math.sqrt((4 * square + (2 * size + size * (size + 1) / 4) / count) / count)
    error = math.sqrt(1 / (2 * 50) + (1 / square + 1 / 2) / count)
    assert abs(sum(spreads) / len(sets) / exact - 1) <= SIGMAS * standard_error_of_mean(error, len(sets)) + 1 / count


@pytest.mark.statistical
def test_spreads_shrink_with_more_images(extractor: Extractor, run_seed: int) -> None:
    """With nine times the images, the spread of every metric is about a third; without resamples it is not reported.

    A spread of 100 resamples has a relative standard error of 0.07, so a ratio of spreads has 0.1; the exact ratio is
    within 5% of a third (600 resamples).
    """
    images = noisy(digits("all")[0])  # far from 0, the spread of FID scales like that of a mean

    def spreads(count: int, **options: Any) -> dict[str, Any]:
        source = SampledImages(replayed(images[:count]), SHAPE, range(count))
        settings = MetricSettings(kid_subsets=5, kid_subset_size=100, rng_seed=run_seed, **options)
        result = evaluate(source, "digits", extractor, reference="digits:test", settings=settings, progress=False)
        assert result is not None
        return {name: metric["spread"] for name, metric in result.result["metrics"].items()}

    few, many = spreads(180, resamples=100), spreads(1620, resamples=100)
    for name in ("fid", "inception_score", "precision"):
        assert abs(math.log(3 * many[name] / few[name])) <= SIGMAS * 0.1 + 0.05, name
    assert set(spreads(180, resamples=0).values()) == {None}


def test_fid_by_count(extractor: Extractor) -> None:
    """The number of images doubles from point to point up to all images, and FID falls."""
    features = extractor(digits("train")[0])["64"]
    reference = cached_reference(open_images("digits:test"), "digits:test", extractor, features=False)
    curve = fid_by_count(features, reference)
    assert [count for count, _ in curve] == [89, 179, 358, 716, 1433]
    assert [fid for _, fid in curve] == sorted((fid for _, fid in curve), reverse=True)
