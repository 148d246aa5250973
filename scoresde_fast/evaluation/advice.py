# SPDX-License-Identifier: Apache-2.0
"""What numbers of few images are worth: refused, or said beside them."""

from __future__ import annotations

from collections.abc import Sequence

from scoresde_fast.evaluation.extractors import INCEPTION, Extractor
from scoresde_fast.evaluation.metrics import MetricSettings, subset_size
from scoresde_fast.evaluation.reference import Reference

ENOUGH = 10_000
"""Images for an FID that is worth comparing."""


def require_enough(
    metrics: Sequence[str],
    settings: MetricSettings,
    images: tuple[str, int],
    against: Reference | None,
    *,
    few: bool,
) -> None:
    """Raises ValueError, before the work, where there are too few images for a metric.

    Args:
        metrics: what is to be computed.
        images: what the images are called, and how many there are.
        against: the reference.
        few: FID may be of fewer images than features.
    """
    name, count = images
    if "is" in metrics and count < settings.isc_splits:
        raise ValueError(f"the Inception score is of {settings.isc_splits} parts, and {name} has {count} images")
    if against is None:
        return
    sets = {name: count, str(against.record["source"]): against.count}
    for name, number in sets.items() if "fid" in metrics and not few else ():
        if number is not None and number <= (dimensions := len(against.mean)):
            raise ValueError(
                f"{name} has {number} images, and their {dimensions} features have a singular covariance below "
                f"{dimensions + 1}: give more images, choose --metrics kid, or --few to compute FID all the same"
            )
    if against.features is None:
        return
    fewest = min(count, len(against.features))
    if "kid" in metrics and subset_size(settings, fewest) < 2:
        raise ValueError(f"KID compares subsets of at least 2 images, and a set has {fewest}")
    if "pr" in metrics and fewest <= settings.prc_neighborhood:
        raise ValueError(
            f"precision and recall look at {settings.prc_neighborhood} neighbours of each image, and a set has {fewest}"
        )


def warnings(metrics: Sequence[str], count: int, against: Reference | None, extractor: Extractor) -> list[str]:
    """Sentences on FID of few images, with its bias as far as known, and on what is not as published."""
    said = []
    if "fid" in metrics and against is not None:
        dimensions = len(against.mean)
        counts = {"images": count, "images of the reference": against.count or ENOUGH}
        for name, number in counts.items():
            if number <= dimensions:
                said.append(
                    f"{number} {name} are not more than the {dimensions} features: their covariance is singular, and "
                    "this FID is of no use but to compare with one of the same number"
                )
        fewest = " and ".join(f"{number} {name}" for name, number in counts.items() if number < ENOUGH)
        if fewest:
            said.append(
                f"FID of {fewest} is too large, as that of few images is: compare it only with FIDs of as many "
                f"(at least {ENOUGH} are usual, and published ones are of 50000)"
            )
        if fewest and against.floor is not None and against.count is not None:
            said.append(
                f"two halves of the reference, {against.count // 2} images each, have an FID of {against.floor:.4g}: "
                "so much is bias at that number"
            )
        if "extractor" not in against.record:
            said.append(f"the reference does not say of which extractor it is: it was taken to be {extractor.name}")
    if "is" in metrics and extractor.name != INCEPTION:
        said.append(f"this Inception score is of the classes of {extractor.name}, not of Inception's")
    return said
