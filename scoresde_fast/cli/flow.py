# SPDX-License-Identifier: Apache-2.0
"""What the commands that follow a model's probability flow have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.groups import NO_DEFAULT, Flag, LoadingOptions

TOLERANCE = arg(help_behavior_hint="(default: 1e-5 for likelihoods, 1e-6 for codes)")


@dataclass(frozen=True, kw_only=True)
class FlowCommand:
    """A model, and how its probability flow is solved."""

    model: Positional[str]
    """An embedded model (digits-vp), a saved folder, or an official checkpoint (.pth, with --config)."""

    rtol: Annotated[float | None, TOLERANCE] = None
    """Relative error allowed in a step of RK45."""
    atol: Annotated[float | None, TOLERANCE] = None
    """Absolute error allowed in a step."""
    error_norm: Literal["sample", "batch"] = "sample"
    """Steps by each sample's own error, or by that of its whole batch, as the original does."""
    eps: float = 1e-5
    """The data's time."""
    run_seed: int = 0
    """Another run seed gives other random numbers for the same seeds."""

    batch_size: int = 64
    """Samples computed together."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What the network computes in; auto: fp32."""
    strict: Flag = False
    """Results that are the same to the last bit whatever the batch size and the threads."""
    no_capture: Flag = False
    """Do not capture the steps as CUDA graphs, which is the default on a GPU."""
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def settings(self) -> dict[str, Any]:
        """The options as `FlowSettings` takes them."""
        names = ("rtol", "atol", "error_norm", "eps", "run_seed", "batch_size", "device", "precision", "strict")
        chosen = {name: getattr(self, name) for name in names} | {"capture": False if self.no_capture else None}
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SteppedFlowCommand(FlowCommand):
    """The same, or with fixed steps."""

    steps: Annotated[int | None, NO_DEFAULT] = None
    """So many fixed steps, of six evaluations each, in place of tolerances."""
    grid: str = "logsnr"
    """How fixed steps are spaced: uniform, quadratic, sqrt, karras or logsnr."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "steps": self.steps, "grid": self.grid}
