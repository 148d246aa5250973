# SPDX-License-Identifier: Apache-2.0
"""A mixed score in the loop: folded into the rows of a table, and rejected by the Langevin corrector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.loop.program import Program
from scoresde_fast.model import Parametrisation, ScoreFunction
from scoresde_fast.sdes import SDE, VPSDE
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.cld import CONSTANT, Recorded, run


class Wave(nn.Module):
    """Return a nonlinear network on images."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x.tanh() + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("sde", "solver"), [(VPSDE(), "em"), (CONSTANT, "em"), (CONSTANT, "gddim")])
def test_a_mixed_score_is_folded_into_the_rows(sde: SDE, solver: str) -> None:
    """The state term of a mixed score is in the rows: the loop agrees with a run that evaluates `score`."""
    model = ScoreFunction(
        Recorded() if sde.parts == 2 else Wave(),
        Parametrisation(sde, mixed=True, label_scale=1.0),
        (2, 3, 3),
        centered=True,
    )
    table = build_table(sde, SolverOptions(solver, 12, grid="quadratic", probability_flow=True))
    start = model.prior(torch.randn(4, *model.state_shape, generator=torch.Generator().manual_seed(0)))
    u, derived = start.double(), []
    for row in table.rows:
        matrices = [np.reshape(m, (sde.parts, -1)) for m in (row.state, *row.derive, *row.outputs)]
        state, from_state, from_score, *outputs = map(torch.from_numpy, matrices)
        score = model.score(u, torch.full((len(u),), row.t, dtype=torch.float64))

        def act(matrix: Tensor, x: Tensor) -> Tensor:
            parts = x.unflatten(1, (matrix.shape[1], -1))
            return torch.einsum("pq,bqcij->bpcij", matrix.double(), parts).flatten(1, 2)

        derived = [act(from_state, u) + act(from_score, score), *derived[:3]]
        u = act(state, u) + sum(act(m, d) for m, d in zip(outputs, derived, strict=False))
    assert (run(model, table, start).double() - u).abs().max() <= 2e-5 * u.abs().max()


def test_langevin_refuses_a_mixed_score() -> None:
    """A mixed score is rejected by the Langevin corrector, whose step size needs the network's output as the score."""
    model = ScoreFunction(nn.Identity(), Parametrisation(VPSDE(), mixed=True), (1, 2, 2), centered=True)
    table = build_table(VPSDE(), SolverOptions("em", 50, "langevin"))
    with pytest.raises(ValueError, match="choose corrector='none' for a model with a mixed score"):
        Program.of_model(model, table, "cpu")
