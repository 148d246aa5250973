# SPDX-License-Identifier: Apache-2.0
"""Choice and validation of metrics for a reference and a number of images, and warnings about biased values."""

from __future__ import annotations

from collections.abc import Sequence

from scoresde_fast.errors import unknown_message
from scoresde_fast.evaluation.extractors import INCEPTION, Extractor
from scoresde_fast.evaluation.metrics import METRICS, MetricSettings
from scoresde_fast.evaluation.reference import NamedReference, Reference

COMPARABLE = 10_000
"""Number of images below which FIDs are rarely compared."""
KEEP_FEATURES_UP_TO = 100_000
"""Largest number of images for which features are kept although the requested metrics do not need them."""


def choose_metrics(requested: Sequence[str] | None, reference: NamedReference, count: int) -> list[str]:
    """Return the metrics to compute for ``count`` images: the requested ones, or all that the reference allows.

    Without a request, more than `KEEP_FEATURES_UP_TO` images get FID only, which keeps no features.

    Raises:
        ValueError: a metric is unknown, or the reference does not allow it.
    """
    if requested is None:
        if reference.name is None:
            return ["is"]
        if count > KEEP_FEATURES_UP_TO:
            return ["fid"]
        return [name for name, metric in METRICS.items() if reference.has_features or not metric.needs_features]
    for name in requested:
        if name not in METRICS:
            raise ValueError(unknown_message("metric", name, METRICS))
        if METRICS[name].needs_reference and reference.name is None:
            raise ValueError(f"the metric {name!r} compares with a reference; give --reference, images or statistics")
        if METRICS[name].needs_features and not reference.has_features:
            raise ValueError(
                f"the metric {name!r} needs the reference's features, but {reference.name} has only their mean and "
                "covariance; give the images, or statistics made with --features"
            )
    return list(requested)


def impossible(
    metrics: Sequence[str], settings: MetricSettings, name: str, count: int, against: Reference | None, *, few: bool
) -> dict[str, str]:
    """Return a sentence for each of ``metrics`` for which there are too few images.

    Args:
        name: name of the images.
        count: number of images.
        against: the reference.
        few: whether FID of fewer images than features is allowed.

    Raises:
        ValueError: KID's subsets of the size that the settings name are too large.
    """
    sentences = {}
    if count < settings.isc_splits:
        sentences["is"] = f"the Inception score has {settings.isc_splits} parts, but {name} has only {count} images"
    if against is not None:
        dimensions = len(against.mean)
        for source, number in ((name, count), (against.record.get("source", "the reference"), against.count)):
            if number is not None and number <= (1 if few else dimensions):
                sentences["fid"] = (
                    f"FID needs a covariance, but {source} has a single image"
                    if number <= 1
                    else f"{source} has {number} images; with {dimensions} features the covariance is singular below "
                    f"{dimensions + 1} images: give more images, choose --metrics kid, or allow FID of few images by "
                    "--few"
                )
                break
    if against is not None and against.features is not None:
        smaller = min(count, len(against.features))
        if "kid" in metrics and (size := settings.subset_size(smaller)) < 2:
            sentences["kid"] = f"KID needs subsets of at least 2 images, but they have {size}"
        if smaller <= settings.prc_neighborhood:
            sentences["pr"] = (
                f"precision and recall use {settings.prc_neighborhood} neighbours of each image, but a set has "
                f"{smaller}"
            )
    return {metric: sentences[metric] for metric in metrics if metric in sentences}


def warnings(metrics: Sequence[str], count: int, against: Reference | None, extractor: Extractor) -> list[str]:
    """Return warnings about the bias of FID of few images, and about differences from published metrics."""
    messages = []
    if "fid" in metrics and against is not None:
        dimensions = len(against.mean)
        counts = {"images": count, "images of the reference": against.count or COMPARABLE}
        for name, number in counts.items():
            if number <= dimensions:
                messages.append(
                    f"{number} {name} are not more than the {dimensions} features: their covariance is singular, and "
                    "this FID can only be compared with FIDs of the same number of images"
                )
        small_sets = " and ".join(f"{number} {name}" for name, number in counts.items() if number < COMPARABLE)
        if small_sets:
            messages.append(
                f"FID of {small_sets} is too large, as always for few images: compare it only with FIDs of the same "
                f"number (at least {COMPARABLE} are usual; published FIDs use 50000)"
            )
        if small_sets and against.floor is not None and against.count is not None:
            messages.append(
                f"two halves of the reference, {against.count // 2} images each, have an FID of {against.floor:.4g}: "
                "the bias is of that size"
            )
        if "extractor" not in against.record:
            messages.append(f"the reference does not name its extractor; {extractor.name} is assumed")
    if "is" in metrics and extractor.name != INCEPTION:
        messages.append(f"this Inception score uses the classes of {extractor.name}, not those of Inception")
    return messages
