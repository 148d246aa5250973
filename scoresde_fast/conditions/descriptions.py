# SPDX-License-Identifier: Apache-2.0
"""Conditions from their descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.classes import ClassGuidance


def described_conditions(
    descriptions: Sequence[Mapping[str, Any]], classifier_of: Callable[[str], Classifier]
) -> list[ClassGuidance]:
    """Rebuild conditions from their descriptions.

    Args:
        descriptions: results of `scoresde_fast.loop.condition.Condition.describe`.
        classifier_of: returns the classifier whose weights have a given SHA-256.

    Raises:
        ValueError: a description is not of a `ClassGuidance`; other descriptions do not contain the condition's data.
    """
    for description in descriptions:
        if description.get("kind") != "classes":
            raise ValueError(
                f"the description of a condition {description.get('kind')!r} does not contain its data: sample again "
                "with the condition itself"
            )
    return [ClassGuidance.from_description(description, classifier_of) for description in descriptions]
