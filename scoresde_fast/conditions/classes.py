# SPDX-License-Identifier: Apache-2.0
"""Class guidance: the score plus grad log p(y | x(t)) of a classifier (Song et al. 2021, appendix I.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.classifier import Classifier
from scoresde_fast.errors import require_positive, unknown_message
from scoresde_fast.loop.condition import Data, RunContext, row_table
from scoresde_fast.loop.seeds import BoundItems, SeedAssignment, SeededCondition
from scoresde_fast.model import weights_sha256

CLASS_SCALE = 5.0
"""The default scale, at which independent classifiers of clean images agree with the guiding classifier."""
NOISE_TOLERANCE = 1e-3
"""Allowed relative excess of a run's noise over the classifier's largest training noise, for rounding."""


class ClassGuidance(SeededCondition):
    """Guides samples to classes.

    `SDE.observation` maps every state linearly to x(0) + noise, the classifier's input: one classifier serves every SDE
    whose noise it was trained for.  On CLD the guidance is the gradient with respect to the velocity.

    Args:
        classes: the class of each sample, by index or name; or one class for all.
        classifier: a classifier of images of the model's shape.
        scale: factor of the gradient.  1 is Bayes' rule for an exact classifier; larger values give more typical and
            less varied samples of a class.
        temperature: softmax temperature of the classifier: its probabilities p become p^(1 / temperature), normalised;
            values below 1 make it more confident.
        seeds: seeds assigned to the classes in equal consecutive blocks; None for a single class, which is used for
            every seed.
        round_robin: assign class s mod n to seed s, where n is the number of ``classes``; ``seeds`` must be None.  A
            set of samples can then grow or be divided among processes without changing the class of any image.

    Raises:
        ValueError: the classifier does not know a class, a value is out of range, or the seeds do not divide among the
            classes.
    """

    def __init__(
        self,
        classes: int | str | Sequence[int | str] | Tensor,
        classifier: Classifier,
        *,
        scale: float = CLASS_SCALE,
        temperature: float = 1.0,
        seeds: Sequence[int] | None = None,
        round_robin: bool = False,
    ) -> None:
        require_positive("scale", scale)
        require_positive("temperature", temperature)
        values = classes_list(classes)
        self.labels = [class_index(value, classifier.classes) for value in values]
        if not self.labels:
            raise ValueError("there are no classes; give one, or one for each sample")
        if round_robin and seeds is not None:
            raise ValueError("round_robin=True assigns a class to every seed; leave out the seeds")
        self.classifier, self.scale, self.temperature = classifier, scale, temperature
        self.assignment = SeedAssignment(len(self.labels), "class", seeds, round_robin=round_robin)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        round_robin = self.assignment.round_robin and len(self.labels) > 1
        return {
            "kind": "classes",
            "classes": self.labels,
            "seeds": f"mod {len(self.labels)}" if round_robin else self.assignment.seeds,
            "classifier_sha256": weights_sha256(self.classifier),
            "scale": self.scale,
            "temperature": self.temperature,
        }

    def bind(self, run: RunContext) -> BoundClassGuidance:
        """Return the guidance for the loop of ``run``.

        Raises:
            ValueError: the classifier takes images of another shape, or was not trained for the noise of the run.
        """
        return BoundClassGuidance(self, run)


class BoundClassGuidance(BoundItems):
    """`ClassGuidance` in the loop of one sampler; see `scoresde_fast.loop.condition.GuidanceCondition`."""

    through_network: ClassVar[bool] = False
    pushes: ClassVar[bool] = False

    def __init__(self, condition: ClassGuidance, run: RunContext) -> None:
        model, classifier = run.model, condition.classifier
        if classifier.image_shape != model.image_shape:
            raise ValueError(
                f"the classifier takes images of shape {classifier.image_shape}, but the model's have "
                f"{model.image_shape}: choose a classifier for the model's images"
            )
        weights, std = model.sde.observation(run.table.times)
        # The classifier's images are in [-1, 1].
        span = 2 / model.span
        self._offset = 0.0 if model.data_range is None else -1.0 - span * model.data_range[0]
        noise = span * std
        if noise.max() > classifier.high * (1 + NOISE_TOLERANCE):
            raise ValueError(
                f"the classifier was trained for noise from {classifier.low:.4g} to {classifier.high:.4g}, but the "
                f"noise of the model's SDE {model.sde.name!r} reaches {noise.max():.4g}: train one for this SDE"
            )
        # For each row: the weights of the state's parts, and the noise's standard deviation. Noise below the training
        # range is raised to its lower end.
        rows = np.concatenate([span * weights, np.maximum(noise, classifier.low)[:, None]], axis=1)
        self._weights_and_std = row_table(rows, run.device)
        super().__init__(condition.assignment, torch.tensor(condition.labels, device=run.device))
        self._classifier = classifier.to(run.device).eval()
        self._scale, self._temperature = condition.scale, condition.temperature

    def log_likelihood(self, x: Tensor, output: Tensor, data: Data, counter: Tensor) -> Tensor:
        """Return scale log p(y | x(t)) at the temperature, (B,); ``data`` contains the labels (B,)."""
        (labels,) = data
        *weights, noise = self._weights_and_std.index_select(0, counter)[0].unbind()
        parts = x.chunk(len(weights), dim=1)
        observed = sum((weight * part for weight, part in zip(weights, parts, strict=True)), start=self._offset)
        log_probability = self._classifier(observed, noise.expand(len(x))) / self._temperature
        return self._scale * log_probability.log_softmax(1).gather(1, labels[:, None])[:, 0]

    def limit_gradient(self, gradient: Tensor, counter: Tensor) -> Tensor:
        """Return the gradient unchanged."""
        return gradient


def described_conditions(
    descriptions: Sequence[Mapping[str, Any]], classifier_of: Callable[[str], Classifier]
) -> list[ClassGuidance]:
    """Rebuild conditions from the results of `scoresde_fast.loop.condition.Condition.describe`.

    Args:
        classifier_of: returns the classifier whose weights have a given SHA-256.

    Raises:
        ValueError: a description is not of a `ClassGuidance`; other descriptions do not contain the condition's data.
    """
    conditions = []
    for description in descriptions:
        if description.get("kind") != "classes":
            raise ValueError(
                f"the description of a condition {description.get('kind')!r} does not contain its data: sample again "
                "with the condition itself"
            )
        seeds = description["seeds"]
        round_robin = isinstance(seeds, str)
        conditions.append(
            ClassGuidance(
                description["classes"],
                classifier_of(description["classifier_sha256"]),
                scale=description["scale"],
                temperature=description["temperature"],
                seeds=None if round_robin else seeds,
                round_robin=round_robin,
            )
        )
    return conditions


def classes_list(classes: Any) -> list[Any]:
    """Return classes as a list: one index or name, several, or an array or tensor of them."""
    values = classes.tolist() if hasattr(classes, "tolist") else classes
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def class_index(value: int | str, classes: Sequence[str]) -> int:
    """Return the index of a class given by index or name; raise ``ValueError`` for an unknown class."""
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
        return value
    raise ValueError(unknown_message("class", str(value), classes))


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """Return the indices of the classes in ``text``, such as ``3`` or ``3,7,one``; a name takes precedence.

    Raises:
        ValueError: a class is unknown.
    """
    parts = [part.strip() for part in text.split(",")]
    return [class_index(int(part) if part not in names and part.isdecimal() else part, names) for part in parts]
