# SPDX-License-Identifier: Apache-2.0
"""Candidates without a solver, for the tests of the comparison."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from scoresde_fast.bench.candidates import Candidate, Case, ComparisonOptions, Prepared, Priority, SampleBatch
from scoresde_fast.bench.comparison import compare
from scoresde_fast.bench.measures import exact_draws
from scoresde_fast.bench.results import Comparison

SMALL = ComparisonOptions(budgets=(4,), solvers=("ddim",), grids=("quadratic",))


@dataclass(frozen=True)
class Stub:
    """Draws exact samples plus ``shift`` in ``seconds``, or raises ``error``; ``log`` records the name at each call."""

    name: str
    shift: float = 0.0
    error: Exception | None = None
    priority: Priority = Priority.DEFAULT
    budget: int | None = 4
    tolerance: float | None = None
    nfe: float = 4.0
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def candidate(self) -> Candidate:
        """Return the stub as a candidate of the comparison."""
        case = Case(self.name, self.name, probability_flow=False, budget=self.budget, tolerance=self.tolerance)
        return Candidate(case, self.priority, self.prepare)

    def prepare(self) -> Prepared:
        return Prepared(self.nfe, f"{self.name} {self.shift} {self.tolerance}", self.draw, lambda batch: None)

    def draw(self, seeds: Sequence[int]) -> SampleBatch:
        self.log.append(self.name)
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        values = torch.from_numpy(exact_draws(len(seeds), 7)).float() + self.shift
        return SampleBatch(values.view(-1, 1, 1, 1), self.nfe)


def run_stubs(
    *stubs: Stub, timing_seconds: float = 0.0, out: Path | None = None, html: Path | None = None, **options: Any
) -> Comparison:
    """Return the comparison of ``stubs``, by default without timing."""
    small = replace(SMALL, samples=200, timing_seconds=timing_seconds, **options)
    candidates = [stub.candidate() for stub in stubs]
    return compare("mixture-vp", small, out=out, html=html, families=[lambda *_: candidates])
