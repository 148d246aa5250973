# SPDX-License-Identifier: Apache-2.0
"""Which metrics a reference and a number of images allow, and warnings about metrics of few images."""

from __future__ import annotations

from collections.abc import Sequence

from scoresde_fast.errors import unknown
from scoresde_fast.evaluation.extractors import INCEPTION, Extractor
from scoresde_fast.evaluation.metrics import METRICS, NEED_FEATURES, NEED_REFERENCE, MetricSettings
from scoresde_fast.evaluation.reference import NamedReference, Reference

COMPARABLE = 10_000
"""Images from which on an FID is usually compared with others."""
KEEP_FEATURES_UP_TO = 100_000
"""Largest number of images whose features are kept unless a metric needs them."""


def choose_metrics(asked: Sequence[str] | None, reference: NamedReference, count: int) -> list[str]:
    """Return the metrics to compute of ``count`` images: those asked for, or all that the reference allows.

    If none are asked for, more than `KEEP_FEATURES_UP_TO` images get FID only, which keeps no features.

    Raises:
        ValueError: a metric is unknown, or the reference does not allow it.
    """
    if asked is None:
        if reference.name is None:
            return ["is"]
        if count > KEEP_FEATURES_UP_TO:
            return ["fid"]
        return [name for name in METRICS if name not in NEED_FEATURES or reference.has_features]
    for name in asked:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))
        if name in NEED_REFERENCE and reference.name is None:
            raise ValueError(f"the metric {name!r} compares with a reference: give --reference, images or statistics")
        if name in NEED_FEATURES and not reference.has_features:
            raise ValueError(
                f"the metric {name!r} needs the reference's features, and {reference.name} has only their mean and "
                "covariance: give the images, or statistics made with --features"
            )
    return list(asked)


def require_enough(
    metrics: Sequence[str], settings: MetricSettings, images: tuple[str, int], against: Reference | None, *, few: bool
) -> None:
    """Raise ValueError if there are too few images for one of ``metrics``.

    Args:
        images: the name and the number of the images.
        against: the reference.
        few: allow FID of fewer images than features.
    """
    name, count = images
    if "is" in metrics and count < settings.isc_splits:
        raise ValueError(f"the Inception score has {settings.isc_splits} parts, but {name} has only {count} images")
    if against is None:
        return
    if "fid" in metrics and not few:
        dimensions = len(against.mean)
        for source, number in ((name, count), (against.record["source"], against.count)):
            if number is not None and number <= dimensions:
                raise ValueError(
                    f"{source} has {number} images, and their {dimensions} features have a singular covariance below "
                    f"{dimensions + 1}: give more images, choose --metrics kid, or allow FID of few images by --few"
                )
    if against.features is None:
        return
    fewest = min(count, len(against.features))
    if "kid" in metrics and settings.subset_size(fewest) < 2:
        raise ValueError(f"KID compares subsets of at least 2 images, but a set has {fewest}")
    if "pr" in metrics and fewest <= settings.prc_neighborhood:
        raise ValueError(
            f"precision and recall use {settings.prc_neighborhood} neighbours of each image, but a set has {fewest}"
        )


def warnings(metrics: Sequence[str], count: int, against: Reference | None, extractor: Extractor) -> list[str]:
    """Return sentences about the bias of FID of few images, and about deviations from published metrics."""
    found = []
    if "fid" in metrics and against is not None:
        dimensions = len(against.mean)
        counts = {"images": count, "images of the reference": against.count or COMPARABLE}
        for name, number in counts.items():
            if number <= dimensions:
                found.append(
                    f"{number} {name} are not more than the {dimensions} features: their covariance is singular, and "
                    "this FID compares only with FIDs of the same number of images"
                )
        fewest = " and ".join(f"{number} {name}" for name, number in counts.items() if number < COMPARABLE)
        if fewest:
            found.append(
                f"FID of {fewest} is too large, as always for few images: compare it only with FIDs of the same number "
                f"(at least {COMPARABLE} are usual; published ones use 50000)"
            )
        if fewest and against.floor is not None and against.count is not None:
            found.append(
                f"two halves of the reference, {against.count // 2} images each, have an FID of {against.floor:.4g}: "
                "the bias is of that size"
            )
        if "extractor" not in against.record:
            found.append(f"the reference does not name its extractor; {extractor.name} is assumed")
    if "is" in metrics and extractor.name != INCEPTION:
        found.append(f"this Inception score uses the classes of {extractor.name}, not those of Inception")
    return found
