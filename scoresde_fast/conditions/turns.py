# SPDX-License-Identifier: Apache-2.0
"""Classes in turn: of every seed the class is known from the seed alone, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance, label_of
from scoresde_fast.conditions.of_seeds import OfSeeds


@dataclass(frozen=True)
class InTurn(OfSeeds):
    """Seed s has the data s mod count."""

    def require(self, seeds: Sequence[int]) -> None:
        """Every seed has data."""

    def places(self, sample_ids: Tensor) -> Tensor:
        """The place of each sample's data (B,) int64, on its device."""
        return sample_ids % self.count


class ClassesInTurn(ClassGuidance):
    """`ClassGuidance` of any seeds: seed s goes to class s mod n of the n that are given.

    So a set may grow, and be made in shares, without any image changing its class.

    Args:
        classes: by number or name; one of them more than once for a larger share.
        classifier, scale, temperature: as `ClassGuidance` takes them.

    Raises:
        ValueError: as `ClassGuidance`.
    """

    def __init__(
        self,
        classes: Sequence[int | str],
        classifier: Classifier,
        *,
        scale: float = CLASS_SCALE,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(classes, classifier, scale=scale, temperature=temperature, seeds=range(len(classes)))
        self.seeds = None
        self._of_seeds = InTurn(len(self.labels), "class", {})

    def describe(self) -> dict[str, Any]:
        """Everything of it that decides the pixels, as plain values."""
        return {**super().describe(), "seeds": None if len(self.labels) == 1 else f"mod {len(self.labels)}"}


def described_conditions(
    described: Sequence[Mapping[str, Any]], classifier_of: Callable[[str], Classifier]
) -> list[ClassGuidance]:
    """The conditions that describe themselves so.

    Args:
        described: what `ClassGuidance.describe` or `ClassesInTurn.describe` has given of each.
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
    classes, seeds, options = one["classes"], one["seeds"], {name: one[name] for name in ("scale", "temperature")}
    if isinstance(seeds, str):
        return ClassesInTurn(classes, classifier, **options)
    return ClassGuidance(classes, classifier, seeds=seeds, **options)


def parse_classes(text: str, known: Sequence[str]) -> list[int]:
    """The numbers of the classes that ``text`` names, ``3`` or ``3,7,one``: names, or else numbers.

    Raises:
        ValueError: one is unknown.
    """
    parts = [part.strip() for part in text.split(",")]
    return [label_of(int(part) if part not in known and part.isdecimal() else part, known) for part in parts]
