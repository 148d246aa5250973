# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation: images or a sampler against a reference, with the numbers, what they depend on, and warnings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from torch import Tensor

from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.environment import command_line, versions
from scoresde_fast.evaluation.advice import require_enough, warnings
from scoresde_fast.evaluation.collect import FeatureSet, collect
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.metrics import COMPARING, OF_FEATURES, MetricSettings, fid_by_count, measure, subset_size
from scoresde_fast.evaluation.named_reference import KEPT_MOST, NamedReference, choose_metrics
from scoresde_fast.evaluation.neighbours import Neighbours, nearest
from scoresde_fast.evaluation.processes import Processes
from scoresde_fast.evaluation.reference import Reference, remembered_reference
from scoresde_fast.evaluation.sampled import SampledImages

NEIGHBOURED = 8


@dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Attributes:
        result: title, command, date, seconds, images, reference, extractor, settings, metrics (value and spread of
            each), curve, warnings, versions; for JSON.
        first: (at most 64, C, H, W) uint8, the first images.
        neighbours: of the first samples in the training set, where one was given.
        training_set: its name.
    """

    result: dict[str, Any]
    first: Tensor
    neighbours: Neighbours | None = None
    training_set: str | None = None


def evaluate(
    images: ImageSource,
    title: str,
    extractor: Extractor,
    *,
    reference: str | None = None,
    metrics: Sequence[str] | None = None,
    settings: MetricSettings | None = None,
    training_set: str | None = None,
    curve: bool = False,
    few: bool = False,
    trust_pickle: bool = False,
    batch_size: int = 64,
    processes: Processes | None = None,
    command: str = "",
    progress: bool | None = None,
) -> Evaluation | None:
    """Evaluate images; on a process other than the first of several, None.

    Args:
        images: a source, or `SampledImages`.
        title: what they are called.
        extractor: what makes features of them.
        reference: a file of statistics, or a source of images.
        metrics: of "fid", "kid", "is", "pr"; None: all that the reference allows.
        settings: of the metrics.
        training_set: where the nearest neighbours of the first samples are looked for.
        curve: also FID against the number of images.
        few: compute FID of fewer images than features, whose covariance is singular.
        trust_pickle: as `open_images`.
        batch_size: images at once.
        processes: which of several this is.
        command: what the user wrote.
        progress: show a bar; None shows it on a terminal.

    Raises:
        ValueError: a metric is unknown or needs a reference, or its features; the reference is of another extractor or
            size; there are too few images.
        FileNotFoundError: there is no such reference.
    """
    begin, processes, settings = time.perf_counter(), processes or Processes(), settings or MetricSettings()
    known = NamedReference(reference, extractor, images.shape, batch_size, trust_pickle)
    chosen = choose_metrics(metrics, known, images.count)
    of_features = not set(OF_FEATURES).isdisjoint(chosen)
    compared = processes.rank == 0 and not set(COMPARING).isdisjoint(chosen)
    against = known.compute(features=of_features) if compared else None
    require_enough(chosen, settings, (title, images.count), against, few=few)
    training, others = None, None
    if training_set is not None:
        training = open_images(training_set, trust_pickle=trust_pickle)
        if processes.rank == 0:
            others = remembered_reference(training, training_set, extractor, features=True, batch_size=batch_size)
    keep = {extractor.logits} if "is" in chosen else set()
    spread = "fid" in chosen and settings.resamples > 1 and images.count <= KEPT_MOST
    if spread or curve or training_set is not None or of_features:
        keep.add(extractor.layer)
    found = collect(images, extractor, keep=keep, batch_size=batch_size, processes=processes, progress=progress)
    if found is None:
        return None
    measured = measure(found, against, extractor, chosen, settings)
    features = found.features.get(extractor.layer)
    neighbours = None
    if training is not None and others is not None and others.features is not None and features is not None:
        neighbours = nearest(features[:NEIGHBOURED], others.features, training)
    result: dict[str, Any] = {
        "title": title,
        "command": command or command_line(),
        "date": date.today().isoformat(),
        "images": _describe_images(images, title),
        "reference": None if against is None else against.record,
        "extractor": extractor.describe(),
        "settings": _describe_settings(settings, chosen, found, against) | {"batch_size": batch_size},
        "metrics": {name: asdict(metric) for name, metric in measured.items()},
        "curve": fid_by_count(features, against) if curve and against is not None and features is not None else [],
        "warnings": warnings(chosen, found.count, against, extractor),
        "versions": versions("torch", "numpy", "torch-fidelity"),
    }
    result["seconds"] = round(time.perf_counter() - begin, 1)
    return Evaluation(result, found.first, neighbours, training_set)


def _describe_images(images: ImageSource, title: str) -> dict[str, Any]:
    described = {"source": title, "count": images.count, "shape": list(images.shape)}
    if isinstance(images, SampledImages):
        described |= {"rounding": images.rounding, "sampler": images.sampler.describe()}
    return described


def _describe_settings(
    settings: MetricSettings, metrics: Sequence[str], found: FeatureSet, against: Reference | None
) -> dict[str, Any]:
    described = asdict(settings)
    if "kid" in metrics and against is not None and against.features is not None:
        described["kid_subset_size"] = subset_size(settings, found.count, len(against.features))
    return described
