# SPDX-License-Identifier: Apache-2.0
"""What a user compares with, and which metrics it allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.errors import unknown
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.metrics import COMPARING, METRICS, OF_FEATURES
from scoresde_fast.evaluation.reference import (
    Reference,
    describe_set,
    has_statistics,
    read_statistics,
    remembered_reference,
)

KEPT_MOST = 100_000
"""Up to so many images features are kept without being asked for."""


class NamedReference:
    """A reference that a user has named: statistics are read at once, of images only the size.

    Args:
        name: a file of statistics, a source of images, or None.
        extractor: whose features are compared.
        shape: (C, H, W) of the images that are to be compared with it.
        batch_size: images at once.
        trust_pickle: as `open_images`.

    Raises:
        ValueError: the reference is of another extractor or size.
        FileNotFoundError: there is no such reference.
    """

    def __init__(
        self, name: str | None, extractor: Extractor, shape: Sequence[int], batch_size: int, trust_pickle: bool
    ) -> None:
        self.name, self._extractor, self._batch_size = name, extractor, batch_size
        self._statistics: Reference | None = None
        self._images: ImageSource | None = None
        if name is not None and has_statistics(Path(name)):
            self._statistics = read_statistics(Path(name))
            self._statistics.require_same(describe_set(extractor, shape), name)
        elif name is not None:
            self._images = open_images(name, trust_pickle=trust_pickle)
            if tuple(self._images.shape) != tuple(shape):
                sizes = ["x".join(map(str, size)) for size in (self._images.shape, shape)]
                raise ValueError(
                    f"the images of {name} are {sizes[0]} and those to evaluate {sizes[1]} (channels, height, width); "
                    "give a reference of the same size"
                )

    @property
    def has_features(self) -> bool:
        """Whether the features themselves can be had."""
        return self._images is not None or (self._statistics is not None and self._statistics.features is not None)

    def compute(self, *, features: bool) -> Reference | None:
        """The statistics, where needed with the features; None where no reference was named."""
        if self._images is not None:
            assert self.name is not None
            return remembered_reference(
                self._images, self.name, self._extractor, features=features, batch_size=self._batch_size
            )
        return self._statistics


def choose_metrics(asked: Sequence[str] | None, reference: NamedReference, count: int) -> list[str]:
    """The metrics to compute of ``count`` images: those asked for, which the reference must allow, or all that it does.

    Unless asked for, of more than `KEPT_MOST` images there is FID alone, which keeps no features.

    Raises:
        ValueError: a metric is unknown, or the reference does not allow it.
    """
    if asked is None:
        allowed = METRICS if reference.name is not None else ("is",)
        many = count > KEPT_MOST and reference.name is not None
        return ["fid"] if many else [name for name in allowed if name not in OF_FEATURES or reference.has_features]
    for name in asked:
        if name not in METRICS:
            raise ValueError(unknown("metric", name, METRICS))
        if name in COMPARING and reference.name is None:
            raise ValueError(f"the metric {name!r} compares with a reference: give --reference, images or statistics")
        if name in OF_FEATURES and not reference.has_features:
            raise ValueError(
                f"the metric {name!r} needs the reference's features, and {reference.name} has only their mean and "
                "covariance: give the images, or statistics made with --features"
            )
    return list(asked)
