# SPDX-License-Identifier: Apache-2.0
"""Class-conditional samples: the score plus grad log p(y | x(t)) of a classifier (Song et al. 2021, appendix I.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.errors import unknown
from scoresde_fast.fingerprint import weights_sha256
from scoresde_fast.loop.condition import Data, RunContext, row_table

CLASS_SCALE = 5.0
"""The usual scale: what is the asked class to a classifier of noisy images is then so to others of clean ones."""
ROUNDING = 1e-3
"""How far a run's noise may be, relatively, above what a classifier was trained for."""


class ClassGuidance:
    """Guides samples to classes.

    A classifier sees x(0) + noise, which every state is brought to (`SDE.observation`), so that one
    classifier serves every SDE whose noise it was trained for; on CLD its gradient in the velocity is what counts.

    Args:
        classes: the class of each sample, by its number or name; or one for all.
        classifier: of images of the model's shape.
        scale: of the gradient: 1 is Bayes' rule, for an exact classifier; above it samples are more typical of their
            class, and vary less.
        temperature: of the classifier: its probabilities p become p^(1 / temperature), normalised; below 1 it is surer.
        seeds: the seeds of the classes, in equal consecutive blocks; None for a single class, which every seed has.
        in_turn: seed s has class s mod n of the n given, and ``seeds`` are left out; so a set may grow, and be made in
            shares, without any image changing its class.

    Raises:
        ValueError: the classifier does not know a class, a number is out of range, or there are not as many seeds as
            classes.
    """

    def __init__(
        self,
        classes: int | str | Sequence[int | str],
        classifier: Classifier,
        *,
        scale: float = CLASS_SCALE,
        temperature: float = 1.0,
        seeds: Sequence[int] | None = None,
        in_turn: bool = False,
    ) -> None:
        for name, value in (("scale", scale), ("temperature", temperature)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; it must be a finite number greater than 0")
        given = [classes] if isinstance(classes, int | str) else list(classes)
        if not given:
            raise ValueError("there are no classes; give one, or one for each sample")
        if in_turn and seeds is not None:
            raise ValueError("in_turn=True assigns a class to every seed; leave out the seeds")
        self.labels = [label_of(value, classifier.classes) for value in given]
        self.classifier, self.scale, self.temperature = classifier, scale, temperature
        self.seeds = None if seeds is None else list(seeds)
        count = len(self.labels)
        self._assignment = (
            SeedAssignment(count, "class", {}, in_turn=True)
            if in_turn
            else SeedAssignment.of(self.seeds, count, "class")
        )

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raises ``ValueError`` unless a class belongs to every seed."""
        self._assignment.require(seeds)

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {
            "kind": "classes",
            "classes": self.labels,
            "seeds": f"mod {len(self.labels)}" if self._assignment.in_turn and len(self.labels) > 1 else self.seeds,
            "classifier_sha256": weights_sha256(self.classifier),
            "scale": self.scale,
            "temperature": self.temperature,
        }

    def bind(self, run: RunContext) -> BoundClassGuidance:
        """The guidance in the loop of ``run``.

        Raises:
            ValueError: the classifier is of images of another shape, or was not trained for so much noise.
        """
        model, classifier = run.model, self.classifier
        if classifier.image_shape != model.image_shape:
            raise ValueError(
                f"the classifier is of images {classifier.image_shape}, the model of {model.image_shape}: "
                "choose a classifier of the model's images"
            )
        weights, std = model.sde.observation(run.table.times)
        span, offset = (1.0, 0.0) if model.centered or not model.is_image else (2.0, -1.0)
        noise = span * std
        if noise.max() > classifier.high * (1 + ROUNDING):
            raise ValueError(
                f"the classifier was trained for noise from {classifier.low:.4g} to {classifier.high:.4g}, and on the "
                f"model's SDE {model.sde.name!r} it reaches {noise.max():.4g}: train a classifier under this SDE"
            )
        # Less noise than it has seen is to a classifier the least that it has seen.
        rows = np.concatenate([span * weights, np.maximum(noise, classifier.low)[:, None]], axis=1)
        return BoundClassGuidance(
            classifier.to(run.device).eval(),
            torch.tensor(self.labels, device=run.device),
            self._assignment,
            row_table(rows, run.device),
            offset,
            self.scale,
            self.temperature,
        )


@dataclass(frozen=True, eq=False)
class BoundClassGuidance:
    """`ClassGuidance` in the loop of one sampler; see `scoresde_fast.loop.condition.GuidanceCondition`.

    Attributes:
        classifier: on the device.
        labels: (K,) int64.
        assignment: which of the K belongs to a seed.
        rows: (rows, parts + 1), what the parts of the state are multiplied by, and the deviation of the noise.
        offset: what is added then, to have images in [-1, 1].
        scale, temperature: as the user gave them.
    """

    classifier: Classifier
    labels: Tensor
    assignment: SeedAssignment
    rows: Tensor
    offset: float
    scale: float
    temperature: float
    through_network: ClassVar[bool] = False
    pushes: ClassVar[bool] = False

    def data(self, sample_ids: Tensor) -> Data:
        """(labels,), (B,)."""
        return (self.labels[self.assignment.places(sample_ids)],)

    def empty_data(self, batch: int) -> Data:
        """The same, of nothing."""
        return (self.labels.new_zeros(batch),)

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """scale log p(y | x(t)), (B,)."""
        *weights, noise = self.rows.index_select(0, counter)[0].unbind()
        parts = x.chunk(len(weights), dim=1)
        observed = sum((weight * part for weight, part in zip(weights, parts, strict=True)), start=self.offset)
        log_probability = self.classifier(observed, noise.expand(len(x))) / self.temperature
        return self.scale * log_probability.log_softmax(1).gather(1, data[0][:, None])[:, 0]

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """As it is."""
        return gradient


def label_of(value: int | str, classes: Sequence[str]) -> int:
    """The number of a class, given by that or by its name.

    Raises:
        ValueError: there is no such class.
    """
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return value
    raise ValueError(unknown("class", str(value), classes))


def described_conditions(
    described: Sequence[Mapping[str, Any]], classifier_of: Callable[[str], Classifier]
) -> list[ClassGuidance]:
    """The conditions that describe themselves so.

    Args:
        described: what `ClassGuidance.describe` has given of each.
        classifier_of: from the SHA-256 of its weights to a classifier.

    Raises:
        ValueError: one is another condition, whose data is not in its description.
    """
    for one in described:
        if one.get("kind") != "classes":
            raise ValueError(
                f"a description tells that a condition was {one.get('kind')!r}, not its data: sample again with the "
                "condition itself"
            )
    return [_described(one, classifier_of(one["classifier_sha256"])) for one in described]


def _described(one: Mapping[str, Any], classifier: Classifier) -> ClassGuidance:
    seeds, options = one["seeds"], {name: one[name] for name in ("scale", "temperature")}
    in_turn = isinstance(seeds, str)
    return ClassGuidance(one["classes"], classifier, seeds=None if in_turn else seeds, in_turn=in_turn, **options)


def parse_classes(text: str, known: Sequence[str]) -> list[int]:
    """The numbers of the classes that ``text`` names, ``3`` or ``3,7,one``: names, or else numbers.

    Raises:
        ValueError: one is unknown.
    """
    parts = [part.strip() for part in text.split(",")]
    return [label_of(int(part) if part not in known and part.isdecimal() else part, known) for part in parts]
