# SPDX-License-Identifier: Apache-2.0
"""What the commands that draw samples have in common: the options of a sampler, in groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scoresde_fast.cli.groups import LoadingOptions, RunGroup, SolverGroup, ToleranceGroup, given, process_device

if TYPE_CHECKING:
    from scoresde_fast.model import ScoreModel
    from scoresde_fast.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How samples are drawn."""

    solver: SolverGroup = field(default_factory=SolverGroup)
    tolerance: ToleranceGroup = field(default_factory=ToleranceGroup)
    computing: RunGroup = field(default_factory=RunGroup)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    @property
    def device(self) -> str:
        """Where this process computes."""
        return process_device(self.computing.device or "cpu")

    def options(self) -> dict[str, Any]:
        """What was given, as `Sampler` takes it; the sampler and the model know the rest."""
        return given(self.solver, self.tolerance, self.computing) | {"device": self.device}

    def sampler(self, model: ScoreModel) -> Sampler:
        """The sampler that the options say; the errors are those of `Sampler`."""
        import scoresde_fast as sf

        return sf.Sampler(model, **self.options())
