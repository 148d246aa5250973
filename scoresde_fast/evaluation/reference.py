# SPDX-License-Identifier: Apache-2.0
"""Reference statistics: mean, covariance and features of a set of images, in files, in the cache, or by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.data.array_files import array_names, load_arrays
from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.evaluation.collect import Processes, collect
from scoresde_fast.evaluation.extractors import INCEPTION, Extractor
from scoresde_fast.evaluation.frechet import FeatureMoments, gaussian_distance
from scoresde_fast.files import cache_folder, make_folder, replacing

IDENTITY = {
    "extractor": "extractor",
    "weights_sha256": "extractor's weights",
    "layer": "layer",
    "dimensions": "number of features",
    "shape": "image shape",
}
"""Entries of a record, with their names in messages. Statistics in which an entry differs cannot be compared."""
SUFFIX = ".npz"


class NamedReference:
    """A reference given by name. Statistics are read at once; of a source of images, at first only the size is read.

    Args:
        name: a file of statistics, a source of images, or None.
        extractor: extractor of the features to compare.
        shape: (C, H, W) of the images to compare.
        batch_size: number of images in a batch.
        trust_pickle: as in `open_images`.

    Raises:
        ValueError: the reference has another extractor or image size.
        FileNotFoundError: the reference does not exist.
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
                theirs, ours = ("x".join(map(str, size)) for size in (self._images.shape, shape))
                raise ValueError(
                    f"the images of {name} are {theirs}, but those to evaluate are {ours} (channels, height, width); "
                    "give a reference of the same size"
                )

    @property
    def has_features(self) -> bool:
        """Whether `compute` can return the features."""
        return self._images is not None or (self._statistics is not None and self._statistics.features is not None)

    def compute(self, *, features: bool) -> Reference | None:
        """Return the statistics, including features on request; None if no reference was named."""
        if self._images is None or self.name is None:
            return self._statistics
        return cached_reference(
            self._images, self.name, self._extractor, features=features, batch_size=self._batch_size
        )


@dataclass
class Reference:
    """Statistics of the features of a set of images.

    Attributes:
        mean: mean (D,) float64 of the features.
        covariance: their covariance (D, D) float64.
        features: features (count, D) float32 in the order of the images, for KID, precision and recall; or None.
        record: source, count, shape, extractor, weights_sha256, layer, dimensions and floor (the Frechet distance
            between two random halves); unknown entries are missing.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, moments: FeatureMoments, features: Tensor | None, record: dict[str, Any]) -> Reference:
        """Return the statistics with the mean and covariance of ``moments``."""
        return cls(moments.mean, moments.covariance, features, record)

    @property
    def count(self) -> int | None:
        """Number of images, None if unknown."""
        return self.record.get("count")

    @property
    def floor(self) -> float | None:
        """Frechet distance between two halves of the set, None if unknown."""
        return self.record.get("floor")

    def require_same(self, wanted: Mapping[str, Any], name: str) -> None:
        """Raise ValueError if ``wanted`` contradicts the record of these statistics, which the user calls ``name``."""
        for key, title in IDENTITY.items():
            theirs, ours = self.record.get(key), wanted.get(key)
            if theirs is not None and ours is not None and theirs != ours:
                raise ValueError(
                    f"{name} has statistics of another {title}: {_short(theirs)} there, {_short(ours)} here; give "
                    f"statistics of the same {title}, or the images themselves"
                )

    @property
    def moments(self) -> FeatureMoments:
        """Moments of the features, reconstructed from mean and covariance.

        Raises:
            ValueError: the number of images is unknown.
        """
        if self.count is None:
            raise ValueError(
                f"{self.record.get('source')} does not record its number of images, so it cannot be merged; give the "
                "images themselves"
            )
        return FeatureMoments.of_gaussian(self.mean, self.covariance, self.count)


def merged(a: Reference, b: Reference) -> Reference:
    """Return the statistics of the union of both sets, with features if both have them, and without a floor.

    Raises:
        ValueError: the extractors or image sizes differ, or a number of images is unknown.
    """
    a.require_same(b.record, str(a.record.get("source")))
    moments = a.moments + b.moments
    record = {key: value for key, value in a.record.items() if key in IDENTITY}
    record |= {"source": f"{a.record.get('source')} + {b.record.get('source')}", "count": moments.count}
    features = None if a.features is None or b.features is None else torch.cat([a.features, b.features])
    return Reference.of(moments, features, record)


def describe_set(extractor: Extractor, shape: Sequence[int]) -> dict[str, Any]:
    """Return the `IDENTITY` entries of a record for images (C, H, W)."""
    return {**extractor.describe(), "dimensions": extractor.dimensions(shape), "shape": list(shape)}


def compute_reference(
    images: ImageSource,
    source: str,
    extractor: Extractor,
    *,
    features: bool,
    batch_size: int = 64,
    processes: Processes | None = None,
) -> Reference | None:
    """Compute the statistics of images; return None on processes other than the first.

    Args:
        source: the user's name for the images, which the record stores.
        features: keep the features.
    """
    keep = [extractor.layer] if features else []
    collected = collect(images, extractor, keep=keep, batch_size=batch_size, processes=processes)
    if collected is None:
        return None
    record = {"source": source, "count": collected.count, **describe_set(extractor, images.shape)}
    a, b = collected.halves
    if min(a.count, b.count) > len(a.total):
        record["floor"] = gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)
    return Reference.of(collected.moments, collected.features.get(extractor.layer), record)


def cached_reference(
    images: ImageSource, source: str, extractor: Extractor, *, features: bool, batch_size: int = 64
) -> Reference:
    """Return the result of `compute_reference` from the user's cache folder, or compute and cache it."""
    key = {**describe_set(extractor, images.shape), "content": _content_sha256(images), "version": __version__}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "statistics" / f"{name}{'-features' if features else ''}.npz"
    if path.exists():
        with suppress(ValueError):  # a corrupt file is recomputed
            cached = read_statistics(path)
            return replace(cached, record=cached.record | {"source": source})
    reference = compute_reference(images, source, extractor, features=features, batch_size=batch_size)
    assert reference is not None
    with suppress(OSError):  # the cache may not be writable
        write_statistics(reference, path)
    return reference


def _content_sha256(source: ImageSource, batch_size: int = 256) -> str:
    """Return the SHA-256 of all pixels in order; names and location of the images do not matter."""
    digest = hashlib.sha256(json.dumps([source.count, *source.shape]).encode())
    for batch in source.batches(batch_size):
        digest.update(batch.images.contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_statistics(reference: Reference, path: Path) -> None:
    """Write ``mu``, ``sigma``, ``record`` (JSON), and ``features`` if present, as a .npz."""
    arrays: dict[str, Any] = {"mu": reference.mean.numpy(), "sigma": reference.covariance.numpy()}
    if reference.features is not None:
        arrays["features"] = reference.features.numpy()
    make_folder(path.parent)
    with replacing(path) as file:
        np.savez(file, record=np.array(json.dumps(reference.record)), **arrays)


def read_statistics(path: Path) -> Reference:
    """Read a .npz of `write_statistics`, of other programs (``mu`` and ``sigma``), or of score_sde.

    score_sde's cifar10_stats.npz has the features ``pool_3`` (N, 2048). Pickles are not read.

    Raises:
        ValueError: the file is corrupt or contains no statistics.
        FileNotFoundError: the file does not exist.
    """
    arrays = load_arrays(path, ("mu", "sigma", "features", "pool_3", "record"))
    try:
        record = dict(json.loads(str(arrays["record"]))) if "record" in arrays else {}
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"record of {path} is not a JSON object ({error})") from error
    if "pool_3" in arrays:
        return _from_features(path, arrays["pool_3"])
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} contains {array_names(path)}; statistics are mu and sigma, or the features pool_3")
    mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
    if covariance.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: mu is {tuple(mean.shape)} and sigma is {tuple(covariance.shape)}; they must be (D,) and (D, D)"
        )
    _require_finite(path, mu=mean, sigma=covariance)
    record = {"source": str(path), "dimensions": len(mean), **record}
    features = torch.from_numpy(arrays["features"]) if "features" in arrays else None
    return Reference(mean, covariance, features, record)


def has_statistics(path: Path) -> bool:
    """Return whether the file is a .npz of statistics rather than of images."""
    if path.suffix != SUFFIX:
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "pool_3" in archive or {"mu", "sigma"} <= set(archive.files)
    except Exception:  # NumPy raises exceptions of many kinds for a corrupt file, which its own reader explains
        return False


def _require_finite(path: Path, **statistics: Tensor) -> None:
    """Raise ValueError if statistics of a file are NaN or infinite."""
    for name, values in statistics.items():
        if not values.isfinite().all():
            raise ValueError(f"{name} of {path} has NaN or infinite values; compute the statistics again")


def _from_features(path: Path, array: np.ndarray) -> Reference:
    """Compute the statistics of score_sde's Inception features (N, D)."""
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: pool_3 is {array.dtype} {array.shape}; it must be features (N, D) of floats")
    features = torch.from_numpy(array.astype(np.float32))
    _require_finite(path, pool_3=features)
    record = {"source": str(path), "count": len(features), "extractor": INCEPTION, "layer": str(features.shape[1])}
    return Reference.of(FeatureMoments.of(features), features, record)


def _short(value: Any) -> str:
    """Format an entry of a record: a shape as 3x16x16, a hash as its first 12 digits."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text
