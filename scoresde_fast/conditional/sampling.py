# SPDX-License-Identifier: Apache-2.0
"""Samples in one call: by their seeds, and by their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

from torch import Tensor

from scoresde_fast.checkpoints import load_classifier
from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance
from scoresde_fast.loop.condition import Conditions, as_conditions
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler


@overload
def sample(
    model: ScoreFunction,
    seeds: Sequence[int] | None = None,
    *,
    return_velocity: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def sample(
    model: ScoreFunction, seeds: Sequence[int] | None = None, *, return_velocity: bool, **options: Any
) -> Tensor | tuple[Tensor, Tensor]: ...


def sample(
    model: ScoreFunction,
    seeds: Sequence[int] | None = None,
    *,
    return_velocity: bool = False,
    classes: Sequence[int | str] | None = None,
    classifier: Classifier | str | Path | None = None,
    class_scale: float = CLASS_SCALE,
    condition: Conditions = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Images of the seeds: (len(seeds), C, H, W) float32 in [0, 1], and of a CLD model their velocities if asked for.

    Args:
        model: any score model.
        seeds: one for each image; None with ``classes``: 0, 1, 2, ...
        return_velocity: see `Sampler.sample`.
        classes: the class of each image, by its number or name, to which ``classifier`` guides it.
        classifier: a `Classifier`, an embedded one's name ("digits-classifier"), or a folder.
        class_scale: see `ClassGuidance`.
        condition, options: those of `Sampler`; classes and conditions go together.

    Raises:
        ValueError: there are neither seeds nor classes, or not as many of both; classes without a classifier; or as
            `ClassGuidance` and `Sampler`.
    """
    if classes is None:
        if seeds is None:
            raise ValueError("there are no seeds: give one for each image, as seeds=range(16)")
        if classifier is not None:
            raise ValueError("there is a classifier and no classes: give the class of each image, as classes=[3, 3, 7]")
        return Sampler(model, condition=condition, **options).sample(seeds, return_velocity=return_velocity)
    seeds = range(len(classes)) if seeds is None else seeds
    if len(seeds) != len(classes):
        raise ValueError(f"there are {len(seeds)} seeds and {len(classes)} classes; give one of each for every image")
    if classifier is None:
        raise ValueError("classes need a classifier, as classifier='digits-classifier', or one of your own training")
    known = load_classifier(classifier) if isinstance(classifier, str | Path) else classifier
    guidance = ClassGuidance(classes, known, scale=class_scale, seeds=seeds)
    sampler = Sampler(model, condition=(guidance, *as_conditions(condition)), **options)
    return sampler.sample(seeds, return_velocity=return_velocity)
