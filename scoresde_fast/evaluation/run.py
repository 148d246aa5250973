# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: metrics of images or of a sampler, with the settings that determine them, and warnings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.environment import command_line, versions
from scoresde_fast.evaluation import checks
from scoresde_fast.evaluation.collect import Processes, SampledImages, collect
from scoresde_fast.evaluation.extractors import Extractor
from scoresde_fast.evaluation.metrics import METRICS, TITLES, MetricInputs, MetricSettings, fid_by_count, measure
from scoresde_fast.evaluation.neighbours import Neighbours, nearest
from scoresde_fast.evaluation.origin import origin_sentence, sampler_origin, set_origin
from scoresde_fast.evaluation.reference import NamedReference, cached_reference
from scoresde_fast.files import make_folder, write_json

WITH_NEIGHBOURS = 8
"""Number of samples for which nearest neighbours are found."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; ``str`` formats it with a line for each metric.

    Attributes:
        result: title, command, date, seconds, images, reference, extractor, settings, metrics (value and spread of
            each), curve, warnings and versions, as JSON values.
        first: the first images, (at most 64, C, H, W) uint8.
        neighbours: nearest neighbours of the first samples in the training set, if one was given.
        training_set: name of the training set.
    """

    result: dict[str, Any]
    first: Tensor
    neighbours: Neighbours | None = None
    training_set: str | None = None

    @property
    def origin(self) -> str | None:
        """The model, the solver and its evaluations, if the images are of a sampler or of a set of samples."""
        return origin_sentence(self.result["images"])

    def __str__(self) -> str:
        result, reference = self.result, self.result["reference"]
        against = "" if reference is None else f" against {reference['source']}"
        lines = [
            f"{result['images']['count']} images of {result['title']}{against}, by {result['extractor']['extractor']}"
        ]
        if self.origin is not None:
            lines.append(self.origin)
        for name, metric in result["metrics"].items():
            spread = "" if metric["spread"] is None else f" ± {metric['spread']:.2g}"
            lines.append(f"{TITLES[name]:<16} {metric['value']:.6g}{spread}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write ``result`` as JSON."""
        make_folder(path.parent)
        write_json(path, self.result, indent=1)


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
    progress: bool | None = None,
) -> Evaluation | None:
    """Evaluate images; return None on processes other than the first.

    Args:
        images: a source of images, or `SampledImages`.
        title: name of the images; if it is a set of samples, the result has the settings in its manifest.
        extractor: feature extractor.
        reference: a file of statistics, or a source of images.
        metrics: any of "fid", "kid", "is", "pr"; None: all that the reference and the number of images allow, with a
            warning for each of the others.
        settings: settings of the metrics.
        training_set: a source of images in which the nearest neighbours of the first samples are found.
        curve: also compute FID of fewer images.
        few: allow FID of fewer images than features, although the covariance is singular.
        trust_pickle: as in `open_images`.
        batch_size: number of images in a batch.
        processes: rank and number of the processes; None: this one alone.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: a metric is unknown, or the reference does not allow it; the reference has another extractor or
            image size; there are too few images for a requested metric, or for all.
        FileNotFoundError: the reference does not exist.
    """
    start, processes, settings = time.perf_counter(), processes or Processes(), settings or MetricSettings()
    named = NamedReference(reference, extractor, images.shape, batch_size, trust_pickle)
    chosen = checks.choose_metrics(metrics, named, images.count)
    need_features = any(METRICS[name].needs_features for name in chosen)
    need_reference = processes.rank == 0 and any(METRICS[name].needs_reference for name in chosen)
    against = named.compute(features=need_features) if need_reference else None
    impossible = checks.impossible(chosen, settings, title, images.count, against, few=few)
    if impossible and (metrics is not None or len(impossible) == len(chosen)):
        raise ValueError("; ".join(impossible.values()))
    chosen = [name for name in chosen if name not in impossible]
    training = training_features = None
    if training_set is not None:
        training = open_images(training_set, trust_pickle=trust_pickle)
        if processes.rank == 0:
            statistics = cached_reference(training, training_set, extractor, features=True, batch_size=batch_size)
            training_features = statistics.features
    layers = {extractor.logits} if "is" in chosen else set()
    resample_fid = "fid" in chosen and settings.resamples > 1 and images.count <= checks.KEEP_FEATURES_UP_TO
    if resample_fid or curve or training is not None or need_features:
        layers.add(extractor.layer)
    samples = collect(images, extractor, keep=layers, batch_size=batch_size, processes=processes, progress=progress)
    if samples is None:
        return None
    inputs = MetricInputs(samples, against, extractor, settings)
    values, features = measure(inputs, chosen), inputs.features
    neighbours = None
    if training is not None and training_features is not None and features is not None:
        neighbours = nearest(features[:WITH_NEIGHBOURS], training_features, training)
    used = asdict(settings) | {"batch_size": batch_size}
    if "kid" in chosen and against is not None and against.features is not None:
        used["kid_subset_size"] = settings.subset_size(samples.count, len(against.features))
    described: dict[str, Any] = {"source": title, "count": images.count, "shape": list(images.shape)}
    described |= sampler_origin(images) if isinstance(images, SampledImages) else set_origin(title)
    result: dict[str, Any] = {
        "title": title,
        "command": command_line(),
        "date": date.today().isoformat(),
        "images": described,
        "reference": None if against is None else against.record,
        "extractor": extractor.describe(),
        "settings": used,
        "metrics": {name: asdict(value) for name, value in values.items()},
        "curve": fid_by_count(features, against) if curve and against is not None and features is not None else [],
        "warnings": [*impossible.values(), *checks.warnings(chosen, samples.count, against, extractor)],
        "versions": versions("torch", "numpy", "torch-fidelity"),
    }
    result["seconds"] = round(time.perf_counter() - start, 1)
    return Evaluation(result, samples.first, neighbours, training_set)
