# SPDX-License-Identifier: Apache-2.0
"""FID, KID, Inception score, precision and recall, with bootstrap standard deviations.

torch-fidelity computes all but FID. Its FID averages features in float32; here FID is float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.errors import shown
from scoresde_fast.evaluation.collect import FeatureSet
from scoresde_fast.evaluation.extractors import Extractor, load_torch_fidelity
from scoresde_fast.evaluation.frechet import FrechetDistance
from scoresde_fast.evaluation.reference import Reference

KID_SUBSET_SIZE = 1000
MAX_KERNEL_ROWS = 10_000
"""Maximum number of rows of the kernel in KID's bootstrap; larger sets are subsampled, and the spread is rescaled."""
BLOCK = 2000
"""Rows of the kernel or of a distance matrix that are computed at once."""


MOST = 100_000
"""Limit of the number of subsets, parts, neighbours and resamples."""


@dataclass(frozen=True)
class MetricSettings:
    """The settings of the metrics, with torch-fidelity's names and defaults.

    Attributes:
        kid_subsets: number of random subsets over which KID is averaged.
        kid_subset_size: number of images in a subset; None: 1000, or all images if there are fewer.
        isc_splits: number of parts over which the Inception score is averaged.
        prc_neighborhood: k; the ball around an image reaches to its k-th nearest neighbour.
        rng_seed: seed of the subsets, the order of the parts, and the resamples.
        resamples: number of bootstrap resamples; 0 computes no spread.
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
            if not least <= (value := getattr(self, name)) <= MOST:
                raise ValueError(f"{name} is {shown(value)}; it must be from {least} to {MOST}")

    def subset_size(self, *counts: int) -> int:
        """Return the size of KID's subsets for sets of ``counts`` images; raise ValueError if they do not fit."""
        if self.kid_subset_size is None:
            return min(KID_SUBSET_SIZE, *counts)
        if self.kid_subset_size > min(counts):
            raise ValueError(
                f"KID's subsets of {self.kid_subset_size} images cannot be drawn from {min(counts)}; choose a smaller "
                "--kid-subset-size"
            )
        return self.kid_subset_size


@dataclass(frozen=True)
class MetricValue:
    """A value and its spread: the standard deviation over resampled images, or None if it was not computed."""

    value: float
    spread: float | None = None


def measure(inputs: MetricInputs, metrics: Sequence[str]) -> dict[str, MetricValue]:
    """Return the values of ``metrics`` by their names in `TITLES`, in the order of `METRICS`.

    The spreads of FID, KID and the Inception score come from a bootstrap over the samples with a fixed reference. KID's
    spread also includes its random subsets. Precision and recall are fractions p with the spread sqrt(p (1 - p) / n).
    FID has a spread only if the samples' features were kept.
    """
    values: dict[str, MetricValue] = {}
    for name, metric in METRICS.items():
        if name in metrics:
            values |= metric.compute(inputs)
    return values


class MetricInputs(NamedTuple):
    """The samples, a reference to compare them with, if any, and how to compare them."""

    samples: FeatureSet
    reference: Reference | None
    extractor: Extractor
    settings: MetricSettings

    @property
    def features(self) -> Tensor | None:
        """Features of the samples, if they were kept."""
        return self.samples.features.get(self.extractor.layer)

    def both_features(self) -> tuple[Tensor, Tensor]:
        """Return the features of the samples and of the reference."""
        assert self.features is not None and self.reference is not None and self.reference.features is not None
        return self.features, self.reference.features


def fid_by_count(features: Tensor, reference: Reference, halvings: int = 4) -> list[tuple[int, float]]:
    """Return (number of images, FID) for all images, half of them, and so on, fewest first, to show FID's bias.

    Numbers of images that give a singular covariance are left out.
    """
    distance = FrechetDistance(reference.mean, reference.covariance)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(features)))
    curve = []
    for halving in range(halvings, -1, -1):
        part = features[order[: len(features) >> halving]]
        if len(part) > features.shape[1]:
            curve.append((len(part), distance.of_features(part)))
    return curve


def _fid(inputs: MetricInputs) -> dict[str, MetricValue]:
    moments, features, settings = inputs.samples.moments, inputs.features, inputs.settings
    assert inputs.reference is not None
    distance = FrechetDistance(inputs.reference.mean, inputs.reference.covariance)
    spread = None
    if features is not None:
        spread = bootstrap(features, distance.of_features, settings.resamples, settings.rng_seed)
    return {"fid": MetricValue(distance(moments.mean, moments.covariance), spread)}


def _kid(inputs: MetricInputs) -> dict[str, MetricValue]:
    features, reference = inputs.both_features()
    settings = inputs.settings
    result = load_torch_fidelity().metric_kid.kid_features_to_metric(
        features,
        reference,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.subset_size(len(features), len(reference)),
        rng_seed=settings.rng_seed,
        verbose=False,
    )
    value, subset_std = (result[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
    if settings.resamples < 2:
        return {"kid": MetricValue(value)}
    bootstrap_std = kid_bootstrap(features, reference, settings.resamples, settings.rng_seed)
    return {"kid": MetricValue(value, math.hypot(bootstrap_std, subset_std / math.sqrt(settings.kid_subsets)))}


def _inception_score(inputs: MetricInputs) -> dict[str, MetricValue]:
    logits, settings, library = inputs.samples.features[inputs.extractor.logits], inputs.settings, load_torch_fidelity()

    def score(rows: Tensor) -> float:
        result = library.metric_isc.isc_features_to_metric(rows, settings.isc_splits, True, settings.rng_seed)
        return float(result[library.KEY_METRIC_ISC_MEAN])

    spread = bootstrap(logits, score, settings.resamples, settings.rng_seed)
    return {"inception_score": MetricValue(score(logits), spread)}


def _precision_recall(inputs: MetricInputs) -> dict[str, MetricValue]:
    features, reference = inputs.both_features()
    result = load_torch_fidelity().metric_prc.prc_features_to_metric(
        features,
        reference,
        prc_neighborhood=inputs.settings.prc_neighborhood,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )

    def fraction(name: str, count: int) -> MetricValue:
        p = result[name]
        return MetricValue(p, math.sqrt(p * (1 - p) / count) if inputs.settings.resamples else None)

    return {"precision": fraction("precision", len(features)), "recall": fraction("recall", len(reference))}


class Metric(NamedTuple):
    """A metric: its function, the titles of its values by their names, and what it needs of the reference.

    Attributes:
        needs_features: whether it needs the features of the reference, not only their mean and covariance.
    """

    compute: Callable[[MetricInputs], dict[str, MetricValue]]
    titles: dict[str, str]
    needs_reference: bool = True
    needs_features: bool = False


METRICS = {
    "fid": Metric(_fid, {"fid": "FID"}),
    "kid": Metric(_kid, {"kid": "KID"}, needs_features=True),
    "is": Metric(_inception_score, {"inception_score": "Inception score"}, needs_reference=False),
    "pr": Metric(_precision_recall, {"precision": "precision", "recall": "recall"}, needs_features=True),
}
TITLES = {name: title for metric in METRICS.values() for name, title in metric.titles.items()}


def bootstrap(rows: Tensor, metric: Callable[[Tensor], float], resamples: int, seed: int) -> float | None:
    """Return the standard deviation of ``metric`` over resamples of ``rows`` with replacement (Efron 1979).

    Fewer than two resamples give None.
    """
    if resamples < 2:
        return None
    random = np.random.default_rng(seed)
    indices = [torch.from_numpy(random.integers(len(rows), size=len(rows))) for _ in range(resamples)]
    return float(np.std([metric(rows[index]) for index in indices], ddof=1))


def kid_bootstrap(features: Tensor, reference: Tensor, resamples: int, seed: int) -> float:
    """Return the standard deviation, over resampled ``features`` (N, D), of the unbiased MMD^2 to ``reference`` (M, D).

    The kernel is that of KID, (x^T y / D + 1)^3 (Binkowski et al. 2018). It is computed once: a resample only changes
    the weights of its rows. Pairs of an image with itself are excluded.
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
