# SPDX-License-Identifier: Apache-2.0
"""Targets of the comparison: what the samples of a model are compared with, and how that is identified."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.bench.measures import (
    IMAGE_SHAPE,
    ConvergedFlow,
    Measure,
    digits_measure,
    reference_measure,
    wasserstein_measure,
)
from scoresde_fast.data import digits
from scoresde_fast.data.sources import ImageSource, open_images
from scoresde_fast.evaluation.checks import warnings
from scoresde_fast.evaluation.extractors import Extractor, default_extractor, load_extractor
from scoresde_fast.evaluation.reference import NamedReference, cached_reference, has_statistics
from scoresde_fast.model import ScoreFunction

SHOWN = 12
"""Number of images of the data that are kept for display."""


@dataclass(frozen=True)
class TrainingSet:
    """Training images by name, and their features (N, D) by an extractor."""

    name: str
    images: ImageSource
    features: Tensor
    extractor: Extractor


@dataclass(frozen=True)
class Target:
    """What samples are compared with.

    Attributes:
        measure: distance of samples to the data.
        flow: the converged flow, with which deterministic solvers are compared.
        images: first images (N, C, H, W) of the data in [0, 1].
        training: training images, among which the nearest ones to some samples are shown.
        identity: what identifies the reference and the extractor, as JSON values.
        notes: warnings about the distance.
    """

    measure: Measure
    flow: ConvergedFlow | None = None
    images: Tensor | None = None
    training: TrainingSet | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def mixture_target(model: ScoreFunction, samples: int) -> Target:
    """Return the exact distribution of a mixture, and its flow."""
    return Target(wasserstein_measure(samples), flow=ConvergedFlow.of(model, samples))


def image_target(
    shape: tuple[int, ...],
    samples: int,
    *,
    device: torch.device,
    reference: str | None,
    extractor: Extractor | None,
    training_set: str | None,
    trust_pickle: bool,
    batch_size: int,
) -> Target:
    """Return the reference of images of ``shape`` (C, H, W), by default for the digits' shape the digits.

    The other arguments are those of `compare`; ``batch_size`` images are extracted at once.

    Raises:
        ValueError: the images need a reference, or an argument does not fit the others or the shape.
        FileNotFoundError: the reference, the training set or the extractor's weights do not exist.
    """
    if reference is None and (extractor is not None or shape != IMAGE_SHAPE):
        reason = f"images of shape {shape} are" if extractor is None else f"the features of {extractor.name} are"
        raise ValueError(f"{reason} compared with a reference: give --reference, images or statistics of eval stats")
    if extractor is None and (reference is not None or training_set is not None):
        extractor = load_extractor(default_extractor(shape), device=device)
    training = None
    if training_set is not None:
        assert extractor is not None
        training = _training_set(training_set, extractor, shape, trust_pickle=trust_pickle, batch_size=batch_size)
    if reference is None:
        return Target(digits_measure(), images=digits("test")[0][:SHOWN] / 255, training=training)
    assert extractor is not None
    statistics = NamedReference(reference, extractor, shape, batch_size, trust_pickle).compute(features=False)
    assert statistics is not None
    images = None
    if not has_statistics(Path(reference)):
        images = next(iter(open_images(reference, trust_pickle=trust_pickle).batches(SHOWN))).images / 255
    return Target(
        reference_measure(statistics, extractor, batch_size),
        images=images,
        training=training,
        identity={"reference": statistics.record, "extractor": extractor.describe()},
        notes=[f"{text[0].upper()}{text[1:]}." for text in warnings(["fid"], samples, statistics, extractor)],
    )


def _training_set(
    name: str, extractor: Extractor, shape: tuple[int, ...], *, trust_pickle: bool, batch_size: int
) -> TrainingSet:
    images = open_images(name, trust_pickle=trust_pickle)
    if tuple(images.shape) != shape:
        raise ValueError(f"the images of the training set {name} are {images.shape}, but the model's are {shape}")
    statistics = cached_reference(images, name, extractor, features=True, batch_size=batch_size)
    assert statistics.features is not None
    return TrainingSet(name, images, statistics.features, extractor)
