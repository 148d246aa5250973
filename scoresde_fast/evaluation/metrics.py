# SPDX-License-Identifier: Apache-2.0
"""FID, KID, Inception score, precision and recall of features, each with the standard deviation of a bootstrap.

torch-fidelity computes all but FID, whose mean it takes in float32; FID is float64 throughout here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.evaluation.collect import FeatureSet
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.fidelity import torch_fidelity
from scoresde_fast.evaluation.frechet import FeatureMoments, FrechetDistance
from scoresde_fast.evaluation.reference import Reference

METRICS = ("fid", "kid", "is", "pr")
NEED_REFERENCE = ("fid", "kid", "pr")
NEED_FEATURES = ("kid", "pr")
"""Metrics that need the features of the reference, not only their mean and covariance."""
KID_SUBSET_SIZE = 1000
MAX_KERNEL_ROWS = 10_000
"""Rows of the kernel in KID's bootstrap; of a larger set this many are drawn, and the spread is rescaled."""
BLOCK = 2000
"""Rows of a matrix of distances or of the kernel that are in memory at once."""


@dataclass(frozen=True)
class MetricSettings:
    """The settings of the metrics, with torch-fidelity's names and defaults.

    Attributes:
        kid_subsets, kid_subset_size: KID is the mean over this many random subsets of this size; None: 1000, or all
            images if there are fewer.
        isc_splits: parts over which the Inception score is averaged.
        prc_neighborhood: the neighbour that the ball around an image reaches to.
        rng_seed: of the subsets, the order of the parts, and the resamples.
        resamples: of the bootstrap; 0 computes no spread.
    """

    kid_subsets: int = 100
    kid_subset_size: int | None = None
    isc_splits: int = 10
    prc_neighborhood: int = 3
    rng_seed: int = 2020
    resamples: int = 20

    def __post_init__(self) -> None:
        for name in ("kid_subsets", "isc_splits", "prc_neighborhood", "resamples"):
            least = 0 if name == "resamples" else 1
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")

    def subset_size(self, *counts: int) -> int:
        """Return the size of KID's subsets of sets with ``counts`` images; raise ValueError if a set is too small."""
        if self.kid_subset_size is None:
            return min(KID_SUBSET_SIZE, *counts)
        if self.kid_subset_size > min(counts):
            raise ValueError(
                f"KID's subsets of {self.kid_subset_size} images cannot be drawn from {min(counts)}; choose a smaller "
                "--kid-subset-size"
            )
        return self.kid_subset_size


@dataclass(frozen=True)
class Metric:
    """A value and its spread, the standard deviation over resampled images; None if it was not computed."""

    value: float
    spread: float | None = None


def measure(
    samples: FeatureSet,
    reference: Reference | None,
    extractor: Extractor,
    metrics: Sequence[str],
    settings: MetricSettings,
) -> dict[str, Metric]:
    """Compute metrics in the order of `METRICS`: "fid", "kid", "inception_score", "precision", "recall".

    The spreads of FID, KID and the Inception score are a bootstrap over the samples, with the reference fixed; that of
    KID includes its random subsets. Precision and recall are shares p, with the spread sqrt(p (1 - p) / n). FID has a
    spread only if the samples' features were kept.
    """
    features = samples.features.get(extractor.layer)
    found: dict[str, Metric] = {}
    for name in METRICS:
        if name not in metrics:
            continue
        if name == "is":
            found["inception_score"] = _inception_score(samples.features[extractor.logits], settings)
            continue
        assert reference is not None
        if name == "fid":
            found["fid"] = _fid(samples.moments, features, reference, settings)
            continue
        assert features is not None and reference.features is not None
        if name == "kid":
            found["kid"] = _kid(features, reference.features, settings)
        else:
            found |= _precision_recall(features, reference.features, settings)
    return found


def fid_by_count(features: Tensor, reference: Reference, halvings: int = 4) -> list[tuple[int, float]]:
    """Return (images, their FID) for all images, half of them, and so on, fewest first: it shows the bias of FID.

    Counts without a covariance of full rank are left out.
    """
    distance = FrechetDistance(reference.mean, reference.covariance)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(features)))
    curve = []
    for halving in range(halvings, -1, -1):
        part = FeatureMoments.of(features[order[: len(features) >> halving]])
        if part.count > features.shape[1]:
            curve.append((part.count, distance(part.mean, part.covariance)))
    return curve


def _fid(moments: FeatureMoments, features: Tensor | None, reference: Reference, settings: MetricSettings) -> Metric:
    distance = FrechetDistance(reference.mean, reference.covariance)

    def fid(rows: Tensor) -> float:
        part = FeatureMoments.of(rows)
        return distance(part.mean, part.covariance)

    spread = None if features is None else bootstrap(features, fid, settings.resamples, settings.rng_seed)
    return Metric(distance(moments.mean, moments.covariance), spread)


def _kid(features: Tensor, reference: Tensor, settings: MetricSettings) -> Metric:
    found = torch_fidelity().metric_kid.kid_features_to_metric(
        features,
        reference,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.subset_size(len(features), len(reference)),
        rng_seed=settings.rng_seed,
        verbose=False,
    )
    value, subset_std = (found[f"kernel_inception_distance_{part}"] for part in ("mean", "std"))
    if settings.resamples < 2:
        return Metric(value)
    by_images = kid_bootstrap(features, reference, settings.resamples, settings.rng_seed)
    return Metric(value, math.hypot(by_images, subset_std / math.sqrt(settings.kid_subsets)))


def _inception_score(logits: Tensor, settings: MetricSettings) -> Metric:
    def score(rows: Tensor) -> float:
        found = torch_fidelity().metric_isc.isc_features_to_metric(rows, settings.isc_splits, True, settings.rng_seed)
        return float(found[torch_fidelity().KEY_METRIC_ISC_MEAN])

    return Metric(score(logits), bootstrap(logits, score, settings.resamples, settings.rng_seed))


def _precision_recall(features: Tensor, reference: Tensor, settings: MetricSettings) -> dict[str, Metric]:
    found = torch_fidelity().metric_prc.prc_features_to_metric(
        features,
        reference,
        prc_neighborhood=settings.prc_neighborhood,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )

    def share(name: str, count: int) -> Metric:
        p = found[name]
        return Metric(p, math.sqrt(p * (1 - p) / count) if settings.resamples else None)

    return {"precision": share("precision", len(features)), "recall": share("recall", len(reference))}


def bootstrap(rows: Tensor, metric: Callable[[Tensor], float], resamples: int, seed: int) -> float | None:
    """Return the standard deviation of ``metric`` over ``rows`` drawn again with replacement (Efron 1979).

    None with fewer than two resamples.
    """
    if resamples < 2:
        return None
    random = np.random.default_rng(seed)
    drawn = [torch.from_numpy(random.integers(len(rows), size=len(rows))) for _ in range(resamples)]
    return float(np.std([metric(rows[index]) for index in drawn], ddof=1))


def kid_bootstrap(features: Tensor, reference: Tensor, resamples: int, seed: int) -> float:
    """Return the standard deviation, over resampled ``features`` (N, D), of the unbiased MMD^2 to ``reference`` (M, D).

    The kernel is KID's, (x y / D + 1)^3 (Binkowski et al. 2018). It is computed once, because a resample only changes
    the weights of its rows; pairs of an image with itself do not count.
    """
    random = np.random.default_rng(seed)
    x, y = (rows[torch.from_numpy(random.permutation(len(rows))[:MAX_KERNEL_ROWS])] for rows in (features, reference))
    count = len(x)
    weights = torch.from_numpy(random.multinomial(count, np.full(count, 1 / count), size=resamples)).double().T
    within = torch.zeros(resamples, dtype=torch.float64)
    across = torch.zeros(resamples, dtype=torch.float64)
    for start in range(0, count, BLOCK):
        block, weight = x[start : start + BLOCK], weights[start : start + BLOCK]
        kernel = _kid_kernel(block, x)
        kernel[range(len(block)), range(start, start + len(block))] = 0
        within += (weight * (kernel @ weights)).sum(0)
        across += weight.T @ _kid_kernel(block, y).mean(1)
    values = within / (count**2 - (weights**2).sum(0)) - 2 * across / count
    return float(values.std()) * math.sqrt(count / len(features))


def _kid_kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1).double() ** 3
