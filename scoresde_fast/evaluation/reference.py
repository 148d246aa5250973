# SPDX-License-Identifier: Apache-2.0
"""What images are compared with: statistics of the features of a set, kept as a file so that they are computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.data.sources import ImageSource
from scoresde_fast.evaluation.collect import collect, content_sha256
from scoresde_fast.evaluation.extractors import INCEPTION, Extractor
from scoresde_fast.evaluation.frechet import gaussian_distance
from scoresde_fast.evaluation.moments import Moments
from scoresde_fast.evaluation.processes import Processes
from scoresde_fast.files import cache_folder, make_folder, replacing

SAME = ("extractor", "weights_sha256", "layer", "dimensions", "shape")
"""What two sets of statistics must agree in to be compared, as far as each says it."""
SUFFIX = ".npz"
SHOWN_AS = {"weights_sha256": "extractor's weights", "dimensions": "number of features", "shape": "image shape"}


@dataclass
class Reference:
    """Statistics of the features of a set.

    Attributes:
        mean, covariance: of the features, (D,) and (D, D) float64.
        features: (count, D) float32 in the order of the images, where they were kept; KID, precision and recall need
            them.
        record: source, count, shape, extractor, weights_sha256, layer, dimensions and floor (the Frechet distance
            between two random halves), as far as known.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int | None:
        """Images in the set, None where that is not known."""
        return self.record.get("count")

    @property
    def floor(self) -> float | None:
        """The Frechet distance between two halves of the set, None where that is not known."""
        return self.record.get("floor")

    def require_same(self, wanted: Mapping[str, Any], name: str) -> None:
        """Raises ValueError, with the difference, unless ``wanted`` is what these statistics are of."""
        for key in SAME:
            there, here = self.record.get(key), wanted.get(key)
            if there is not None and here is not None and there != here:
                raise ValueError(
                    f"{name} has statistics of another {SHOWN_AS.get(key, key)}: {_short(there)} there, {_short(here)} "
                    "here; give statistics of the same, or the images themselves"
                )

    @property
    def moments(self) -> Moments:
        """What the mean and the covariance were computed from.

        Raises:
            ValueError: the number of images is not known.
        """
        if self.count is None:
            raise ValueError(
                f"{self.record.get('source')} does not say of how many images it is, so it cannot be merged"
            )
        return Moments.of_gaussian(self.mean, self.covariance, self.count)


def merged(a: Reference, b: Reference) -> Reference:
    """The statistics of both sets together: the floor is lost, features are kept where both have them.

    Raises:
        ValueError: they are of different extractors or sizes, or one does not say of how many images it is.
    """
    a.require_same(b.record, str(a.record.get("source")))
    moments = a.moments + b.moments
    record = {key: value for key, value in a.record.items() if key in SAME}
    record |= {"source": f"{a.record.get('source')} + {b.record.get('source')}", "count": moments.count}
    kept = [part.features for part in (a, b) if part.features is not None]
    return Reference(moments.mean, moments.covariance, torch.cat(kept) if len(kept) == 2 else None, record)


def describe_set(extractor: Extractor, shape: Sequence[int]) -> dict[str, Any]:
    """The part of a record that must agree, of images (C, H, W) seen by the extractor."""
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
    """The statistics of images; on a process other than the first of several, None.

    Args:
        source: what the user calls them, for the record.
        features: whether to keep the features themselves.
    """
    keep = [extractor.layer] if features else []
    found = collect(images, extractor, keep=keep, batch_size=batch_size, processes=processes)
    if found is None:
        return None
    record = {"source": source, "count": found.count, **describe_set(extractor, images.shape)}
    a, b = found.halves
    if min(a.count, b.count) > len(a.total):
        record["floor"] = gaussian_distance(a.mean, a.covariance, b.mean, b.covariance)
    moments = found.moments
    return Reference(moments.mean, moments.covariance, found.features.get(extractor.layer), record)


def remembered_reference(
    images: ImageSource, source: str, extractor: Extractor, *, features: bool, batch_size: int = 64
) -> Reference:
    """The same, from this user's cache folder where it is known, else computed and kept there."""
    key = {**describe_set(extractor, images.shape), "content": content_sha256(images), "version": __version__}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / "statistics" / f"{name}{'-features' if features else ''}.npz"
    if path.exists():
        with suppress(ValueError):  # a damaged file is computed again
            known = read_statistics(path)
            return replace(known, record=known.record | {"source": source})
    reference = compute_reference(images, source, extractor, features=features, batch_size=batch_size)
    assert reference is not None
    with suppress(OSError):  # a home that cannot be written to costs the next run this time again
        write_statistics(reference, path)
    return reference


def write_statistics(reference: Reference, path: Path) -> None:
    """Write ``mu``, ``sigma``, ``record`` (JSON), and ``features`` where there are any, as a .npz."""
    arrays: dict[str, Any] = {"mu": reference.mean.numpy(), "sigma": reference.covariance.numpy()}
    if reference.features is not None:
        arrays["features"] = reference.features.numpy()
    make_folder(path.parent)
    with replacing(path) as file:
        np.savez(file, record=np.array(json.dumps(reference.record)), **arrays)


def read_statistics(path: Path) -> Reference:
    """The statistics in a .npz: of `write_statistics`, ``mu`` and ``sigma`` of other programs, or the features
    ``pool_3`` (N, 2048) of score_sde's cifar10_stats.npz.  Pickles are not read.

    Raises:
        ValueError: the file is damaged or holds something else.
        FileNotFoundError: there is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in ("mu", "sigma", "features", "pool_3")}
            record = json.loads(str(archive["record"])) if "record" in archive else {}
            names = ", ".join(archive.files)
    except (BadZipFile, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or no .npz of arrays ({str(error).strip(chr(39))})") from error
    if "pool_3" in arrays:
        return _of_features(path, arrays["pool_3"])
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} has {names or 'nothing'}; statistics are mu and sigma, or the features pool_3")
    mean, covariance = (torch.from_numpy(arrays[name]).double() for name in ("mu", "sigma"))
    if covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu is {tuple(mean.shape)} and sigma {tuple(covariance.shape)}, which do not fit")
    record = {"source": str(path), "dimensions": len(mean), **record}
    features = torch.from_numpy(arrays["features"]) if "features" in arrays else None
    return Reference(mean, covariance, features, record)


def has_statistics(path: Path) -> bool:
    """Whether a file is a .npz of statistics, rather than of images."""
    if path.suffix != SUFFIX:
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "pool_3" in archive or {"mu", "sigma"} <= set(archive.files)
    except (BadZipFile, EOFError, ValueError, OSError):
        return False


def _of_features(path: Path, array: np.ndarray) -> Reference:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(f"{path}: pool_3 is {array.dtype} {array.shape}; it is features (N, D), of floats")
    features = torch.from_numpy(array.astype(np.float32))
    record = {"source": str(path), "count": len(features), "extractor": INCEPTION, "layer": str(features.shape[1])}
    moments = Moments.of(features)
    return Reference(moments.mean, moments.covariance, features, record)


def _short(value: Any) -> str:
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] if len(text) == 64 else text
