# SPDX-License-Identifier: Apache-2.0
"""FID, KID, Inception score, precision and recall of features, each with how far chance moves it.

KID, Inception score, precision and recall are computed by torch-fidelity's own functions; its FID takes the mean in
float32, where this one is float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.evaluation.bootstrap import bootstrap, kid_spread
from scoresde_fast.evaluation.collect import FeatureSet
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.fidelity import torch_fidelity
from scoresde_fast.evaluation.frechet import FrechetDistance
from scoresde_fast.evaluation.moments import Moments
from scoresde_fast.evaluation.reference import Reference

METRICS = ("fid", "kid", "is", "pr")
COMPARING = ("fid", "kid", "pr")
"""Those that need a reference."""
OF_FEATURES = ("kid", "pr")
"""Those that need the features of the reference themselves."""
KID_SUBSET_SIZE = 1000
BLOCK = 2000
"""Rows of the distances of precision and recall that are in memory at once."""


@dataclass(frozen=True)
class MetricSettings:
    """What decides the numbers beside the images; the names and values are torch-fidelity's.

    Attributes:
        kid_subsets, kid_subset_size: KID is the mean over so many random subsets of so many images; size None: 1000, or
            all images where there are fewer.
        isc_splits: parts over which the Inception score is averaged.
        prc_neighborhood: how many neighbours an image's ball reaches to.
        rng_seed: of the subsets, of the order of the parts, and of the resamples.
        resamples: of the bootstrap; 0: no spread.
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
                raise ValueError(f"{name} is {value}; it is at least {least}")


@dataclass(frozen=True)
class Metric:
    """A number and its spread: the standard deviation of what resampled images give, None where that was left out."""

    value: float
    spread: float | None = None


def measure(
    samples: FeatureSet,
    reference: Reference | None,
    extractor: Extractor,
    metrics: Sequence[str],
    settings: MetricSettings,
) -> dict[str, Metric]:
    """The metrics asked for, in the order of `METRICS`: "fid", "kid", "inception_score", "precision", "recall".

    Spreads of FID, KID and the Inception score are a bootstrap over the samples, with the reference as it is; KID's
    random subsets add theirs. Those of precision and recall, which are shares of images, are what a bootstrap tends to:
    sqrt(p (1 - p) / n). FID's needs the samples' features, and is None where they were not kept.
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


def _fid(moments: Moments, features: Tensor | None, reference: Reference, settings: MetricSettings) -> Metric:
    distance = FrechetDistance(reference.mean, reference.covariance)

    def of(part: Tensor) -> float:
        found = Moments.of(part)
        return distance(found.mean, found.covariance)

    spread = None if features is None else bootstrap(features, of, settings.resamples, settings.rng_seed)
    return Metric(distance(moments.mean, moments.covariance), spread)


def fid_by_count(features: Tensor, reference: Reference, halvings: int = 4) -> list[tuple[int, float]]:
    """(images, FID of so many of them) from few to all, each twice the one before: how FID's bias falls.

    Of counts that are too small for a covariance of full rank there is none.
    """
    distance = FrechetDistance(reference.mean, reference.covariance)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(features)))
    curve = []
    for halving in range(halvings, -1, -1):
        part = Moments.of(features[order[: len(features) >> halving]])
        if part.count > features.shape[1]:
            curve.append((part.count, distance(part.mean, part.covariance)))
    return curve


def subset_size(settings: MetricSettings, *counts: int) -> int:
    """Images in a subset of KID, of sets of so many; raises ValueError where a chosen size is larger than a set."""
    if settings.kid_subset_size is None:
        return min(KID_SUBSET_SIZE, *counts)
    if settings.kid_subset_size > min(counts):
        raise ValueError(
            f"KID's subsets of {settings.kid_subset_size} images cannot be drawn from {min(counts)}; choose a smaller "
            "--kid-subset-size"
        )
    return settings.kid_subset_size


def _kid(features: Tensor, reference: Tensor, settings: MetricSettings) -> Metric:
    size = subset_size(settings, len(features), len(reference))
    found = torch_fidelity().metric_kid.kid_features_to_metric(
        features,
        reference,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=size,
        rng_seed=settings.rng_seed,
        verbose=False,
    )
    value, subset_std = (found[f"kernel_inception_distance_{part}"] for part in ("mean", "std"))
    if settings.resamples < 2:
        return Metric(value)
    by_images = kid_spread(features, reference, settings.resamples, settings.rng_seed)
    return Metric(value, math.hypot(by_images, subset_std / math.sqrt(settings.kid_subsets)))


def _inception_score(logits: Tensor, settings: MetricSettings) -> Metric:
    def of(part: Tensor) -> float:
        found = torch_fidelity().metric_isc.isc_features_to_metric(part, settings.isc_splits, True, settings.rng_seed)
        return float(found[torch_fidelity().KEY_METRIC_ISC_MEAN])

    return Metric(of(logits), bootstrap(logits, of, settings.resamples, settings.rng_seed))


def _precision_recall(features: Tensor, reference: Tensor, settings: MetricSettings) -> dict[str, Metric]:
    found = torch_fidelity().metric_prc.prc_features_to_metric(
        features,
        reference,
        prc_neighborhood=settings.prc_neighborhood,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )
    shares = {"precision": len(features), "recall": len(reference)}
    return {name: _share(found[name], count, settings) for name, count in shares.items()}


def _share(share: float, count: int, settings: MetricSettings) -> Metric:
    return Metric(share, math.sqrt(share * (1 - share) / count) if settings.resamples else None)
