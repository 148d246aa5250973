# SPDX-License-Identifier: Apache-2.0
"""Small loops: a network with one weight, tables of several kinds, and the start of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.parametrisation import Parametrisation
from scoresde_fast.sdes import VESDE, VPSDE, Array, Time
from scoresde_fast.sdes.base import as_times
from scoresde_fast.solvers import Row, SolverOptions, StepTable, build_table

SHAPE = (1, 3, 5)


class Bowl(torch.nn.Module):
    """A network with one weight, whose output depends on time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return -self.weight * x.tanh() / (1 + labels.view(-1, 1, 1, 1) ** 2)


class Scales(Parametrisation):
    """Times as labels, and an output scale that depends on time."""

    def labels(self, t: Time) -> Array:
        return as_times(t)

    def output_scale(self, t: Time) -> Array:
        return 1 + as_times(t)


def make_loop(table: StepTable, backend: str | None = None) -> Loop:
    model = ScoreFunction(Bowl(), Scales(VPSDE()), SHAPE)
    program = Program.of_model(model, table, "cpu")
    return Loop(program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu", backend), run_seed=5)


def start(batch: int = 3) -> tuple[Tensor, Noise]:
    noise = Noise(5, torch.arange(batch))
    return noise.normal(0, SHAPE), noise


def multistep(steps: int) -> StepTable:
    """Return a table with all kinds of rows: a start, a full history, saved states, rows without network or noise."""
    rows = [Row(0.95, state=0.9, outputs=(0.2,), save=True), Row(0.9, state=0.9, outputs=(0.2, -0.1), noise=0.1)]
    for index in range(steps):
        t = 0.8 * (1 - index / steps)
        rows += [
            Row(t, derive=(0.3, -0.5), state=0.8, outputs=(0.3, -0.1, 0.05, 0.02), noise=0.1, save=index % 2 == 0),
            Row(t, state=0.5, saved=0.4, outputs=(0.1, 0.1), save=True),
            Row(t, derive=None, state=0.9, outputs=(0.1, 0.05), noise=0.2, save=True),
        ]
    return StepTable.of([*rows, Row(0.01, state=0.9, outputs=(0.1,))])


TABLES = {
    "pc": build_table(VESDE(), SolverOptions("pc", 12)),
    "em": build_table(VPSDE(), SolverOptions("em", 9)),
    "two-correctors": build_table(VPSDE(), SolverOptions("em", 30, "langevin", corrector_steps=2)),
    "ald-flow": build_table(VESDE(), SolverOptions("reverse_diffusion", 10, "ald", probability_flow=True)),
    "multistep": multistep(7),
}
