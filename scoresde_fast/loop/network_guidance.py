# SPDX-License-Identifier: Apache-2.0
"""Guidance of a network by a weaker one.

A guided evaluation is weak + scale (strong - weak): the strong output is that of the network with its inputs, the weak
one that of the same network without them (classifier-free guidance, Ho & Salimans 2022), or of a worse network with
them (autoguidance, Karras et al. 2024).  Outputs are linear in the score, so that this holds for every prediction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scoresde_fast.model import ScoreFunction, describe_model
from scoresde_fast.sdes import Array, Time


@dataclass(frozen=True, kw_only=True)
class NetworkGuidance:
    """Base class of guidance by a weaker network.

    Attributes:
        scale: the factor of strong - weak; 1 is the strong network alone.
        interval: (low, high): guide only at the times low <= t <= high, and take one evaluation elsewhere; None: at all
            times (Kynkaanniemi et al. 2024).

    Raises:
        ValueError: the scale is not finite, or ``interval`` is not (low, high).
    """

    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale!r}; it must be a finite number, such as 1.5; 1 does not guide")
        if self.interval is not None and not (len(self.interval) == 2 and self.interval[0] < self.interval[1]):
            raise ValueError(f"interval is {self.interval!r}; it must be times (low, high), such as (0.2, 0.8)")

    def scales(self, t: Time) -> Array:
        """Return the scale at each time: 1 outside of the interval."""
        t = np.asarray(t, dtype=np.float64)
        low, high = self.interval or (-math.inf, math.inf)
        return np.where((low <= t) & (t <= high), self.scale, 1.0)

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        return {"scale": self.scale, "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierFreeGuidance(NetworkGuidance):
    """Guidance by the same network without its inputs.

    Both evaluations are one with twice the batch, and count as two.

    Attributes:
        null: the value of each input that stands for none, without the dimension of the batch: such as {"y": 10} for a
            class label that is an integer, or a zero tensor for an embedding.
    """

    null: Mapping[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.null, Mapping):
            raise TypeError(f"null is {self.null!r}; it must be values by the name of the input, such as {{'y': 10}}")

    def describe(self) -> dict[str, Any]:
        null = {name: torch.as_tensor(value).tolist() for name, value in self.null.items()}
        return {"kind": "classifier_free", **super().describe(), "null": null}


@dataclass(frozen=True, kw_only=True, eq=False)
class Autoguidance(NetworkGuidance):
    """Guidance by a worse model: smaller, or trained for a shorter time.

    Attributes:
        model: the worse model, with the same SDE and parametrisation.
    """

    model: ScoreFunction

    def describe(self) -> dict[str, Any]:
        return {"kind": "autoguidance", **super().describe(), "model": describe_model(self.model)}


def described_guidance(description: Mapping[str, Any] | None) -> ClassifierFreeGuidance | None:
    """Rebuild guidance from the result of its ``describe``; None is no guidance.

    Raises:
        ValueError: the description is of `Autoguidance`, and does not contain the guiding model.
    """
    if description is None:
        return None
    if description["kind"] != "classifier_free":
        raise ValueError(
            f"the description of guidance {description['kind']!r} does not contain its model: sample again with the "
            "guidance itself"
        )
    interval = description["interval"]
    return ClassifierFreeGuidance(
        scale=description["scale"],
        interval=None if interval is None else tuple(interval),
        null=description["null"],
    )
