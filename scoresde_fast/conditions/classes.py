# SPDX-License-Identifier: Apache-2.0
"""Class guidance: the score plus grad log p(y | x(t)) of a classifier (Song et al. 2021, appendix I.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.errors import unknown_message
from scoresde_fast.fingerprint import weights_sha256
from scoresde_fast.loop.condition import Data, RunContext, row_table

CLASS_SCALE = 5.0
"""The default scale: other classifiers, of clean images, then agree with the guiding one."""
NOISE_TOLERANCE = 1e-3
"""How far, relatively, the noise of a run may exceed the noise that a classifier was trained for: rounding."""


class ClassGuidance:
    """Guides samples to classes.

    The classifier sees x(0) + noise, to which every state is brought (`SDE.observation`): one classifier
    serves every SDE whose noise it was trained for.  On CLD its gradient in the velocity counts.

    Args:
        classes: the class of each sample, by its number or name; or one for all.
        classifier: of images of the model's shape.
        scale: of the gradient.  1 is Bayes' rule for an exact classifier; larger values give more typical and less
            varied samples of a class.
        temperature: of the classifier: its probabilities p become p^(1 / temperature), normalised; values below 1 make
            it surer.
        seeds: the seeds of the classes, in equal consecutive blocks; None for a single class, which serves every seed.
        in_turn: seed s has class s mod n of the n given; ``seeds`` are then left out.  A set can grow or be divided
            among processes, and every image keeps its class.

    Raises:
        ValueError: the classifier does not know a class, a number is out of range, or the seeds do not divide among the
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
        self.assignment = (
            SeedAssignment(count, "class", {}, in_turn=True)
            if in_turn
            else SeedAssignment.of(self.seeds, count, "class")
        )

    def require_seeds(self, seeds: Sequence[int]) -> None:
        """Raise ``ValueError`` unless a class belongs to every seed."""
        self.assignment.require(seeds)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the pixels, as plain values."""
        return {
            "kind": "classes",
            "classes": self.labels,
            "seeds": f"mod {len(self.labels)}" if self.assignment.in_turn and len(self.labels) > 1 else self.seeds,
            "classifier_sha256": weights_sha256(self.classifier),
            "scale": self.scale,
            "temperature": self.temperature,
        }

    def bind(self, run: RunContext) -> BoundClassGuidance:
        """Return the guidance in the loop of ``run``.

        Raises:
            ValueError: the classifier is for images of another shape, or was not trained for the noise of the run.
        """
        return BoundClassGuidance(self, run)


class BoundClassGuidance:
    """`ClassGuidance` in the loop of one sampler; see `scoresde_fast.loop.condition.GuidanceCondition`."""

    through_network: ClassVar[bool] = False
    pushes: ClassVar[bool] = False

    def __init__(self, condition: ClassGuidance, run: RunContext) -> None:
        model, classifier = run.model, condition.classifier
        if classifier.image_shape != model.image_shape:
            raise ValueError(
                f"the classifier is for images {classifier.image_shape}, the model's are {model.image_shape}: "
                "choose a classifier of the model's images"
            )
        weights, std = model.sde.observation(run.table.times)
        # The classifier's images are in [-1, 1].
        span, self._offset = (1.0, 0.0) if model.centered or not model.is_image else (2.0, -1.0)
        noise = span * std
        if noise.max() > classifier.high * (1 + NOISE_TOLERANCE):
            raise ValueError(
                f"the classifier was trained for noise from {classifier.low:.4g} to {classifier.high:.4g}, but on the "
                f"model's SDE {model.sde.name!r} it reaches {noise.max():.4g}: train a classifier under this SDE"
            )
        # Of each row: the weights of the parts of the state, and the deviation of the noise. A classifier takes less
        # noise than it was trained for as the least that it was trained for.
        rows = np.concatenate([span * weights, np.maximum(noise, classifier.low)[:, None]], axis=1)
        self._rows = row_table(rows, run.device)
        self._classifier, self._assignment = classifier.to(run.device).eval(), condition.assignment
        self._labels = torch.tensor(condition.labels, device=run.device)
        self._scale, self._temperature = condition.scale, condition.temperature

    def data(self, sample_ids: Tensor) -> Data:
        """Return (labels,), (B,)."""
        return (self._labels[self._assignment.numbers(sample_ids)],)

    def empty_data(self, batch: int) -> Data:
        """Return a tensor like `data`, of zeros."""
        return (self._labels.new_zeros(batch),)

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return scale log p(y | x(t)), (B,)."""
        *weights, noise = self._rows.index_select(0, counter)[0].unbind()
        parts = x.chunk(len(weights), dim=1)
        observed = sum((weight * part for weight, part in zip(weights, parts, strict=True)), start=self._offset)
        log_probability = self._classifier(observed, noise.expand(len(x))) / self._temperature
        return self._scale * log_probability.log_softmax(1).gather(1, data[0][:, None])[:, 0]

    def bounded(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return gradient


def label_of(value: int | str, classes: Sequence[str]) -> int:
    """Return the number of a class, given by number or name; raises ``ValueError`` if there is no such class."""
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return value
    raise ValueError(unknown_message("class", str(value), classes))


def parse_classes(text: str, known: Sequence[str]) -> list[int]:
    """Return the numbers of the classes in ``text``, as ``3`` or ``3,7,one``: names first, then numbers.

    Raises:
        ValueError: a class is unknown.
    """
    parts = [part.strip() for part in text.split(",")]
    return [label_of(int(part) if part not in known and part.isdecimal() else part, known) for part in parts]


def described_conditions(
    described: Sequence[Mapping[str, Any]], classifier_of: Callable[[str], Classifier]
) -> list[ClassGuidance]:
    """Rebuild conditions from their descriptions.

    Args:
        described: the results of `ClassGuidance.describe`.
        classifier_of: returns the classifier whose weights have a given SHA-256.

    Raises:
        ValueError: a description is that of another condition, which does not hold its data.
    """
    conditions = []
    for one in described:
        if one.get("kind") != "classes":
            raise ValueError(
                f"the description of a condition {one.get('kind')!r} does not hold its data: sample again with the "
                "condition itself"
            )
        in_turn = isinstance(one["seeds"], str)
        conditions.append(
            ClassGuidance(
                one["classes"],
                classifier_of(one["classifier_sha256"]),
                scale=one["scale"],
                temperature=one["temperature"],
                seeds=None if in_turn else one["seeds"],
                in_turn=in_turn,
            )
        )
    return conditions
