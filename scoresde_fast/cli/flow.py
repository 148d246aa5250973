# SPDX-License-Identifier: Apache-2.0
"""What the commands that follow a model's probability flow have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from tyro.conf import Positional

from scoresde_fast.cli.groups import LoadingOptions, RunGroup, given, optional, process_device
from scoresde_fast.flow.options import FlowOptions

if TYPE_CHECKING:
    FlowGroup: TypeAlias = FlowOptions
    ToleranceGroup: TypeAlias = FlowOptions
else:
    USUAL = "What is left out has its usual value."
    FlowGroup = optional(FlowOptions, otherwise=USUAL)
    ToleranceGroup = optional(FlowOptions, otherwise=USUAL, without=("steps", "grid"))


@dataclass(frozen=True, kw_only=True)
class FlowCommand:
    """A model, and how its probability flow is solved."""

    model: Positional[str]
    """An embedded model (digits-vp), a saved folder, or an official checkpoint (.pth, with --config)."""
    flow: FlowGroup = field(default_factory=FlowGroup)
    computing: RunGroup = field(default_factory=RunGroup)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def options(self) -> dict[str, Any]:
        """What was given, as the functions of `scoresde_fast.flow` take it."""
        device = process_device(self.computing.device or "cpu")
        return given(self.flow, self.computing) | {"device": device}
