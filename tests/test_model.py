# SPDX-License-Identifier: Apache-2.0
"""The SDE of a configuration, and mixed scores in a table's rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scoresde_fast.configs import load_config
from scoresde_fast.model import ScoreFunction, build_sde
from scoresde_fast.parametrisation import OfficialParametrisation
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import CLDSDE, SDE, SDES, VESDE, VPSDE
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.cld import CONSTANT, GoldenNetwork, run


def test_sde_of_a_configuration_has_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields of an SDE are set by the options of the same name, and others keep their defaults."""
    model = {"name": "ncsnpp", "sigma_min": 0.02, "sigma_max": 30.0, "beta_min": 0.2, "beta_max": 10.0}

    def built(name: str) -> SDE:
        cld = {"m_inv": 9.0, "friction": 1.0, "beta0": 0.5, "beta1": 2.0, "gamma": 0.1, "objective": "dsm"}
        return build_sde(load_config({"model": model, "cld": cld, "training": {"sde": name}}))

    assert built("vesde") == VESDE(0.02, 30.0)
    assert built("vpsde") == VPSDE(0.2, 10.0)
    assert built("cld") == CLDSDE(9.0, 1.0, 0.5, 2.0, 0.1, objective="dsm")

    @dataclass(frozen=True)
    class Added(VPSDE):
        more: float = 3.0

    monkeypatch.setitem(SDES, "vpsde", Added)
    assert built("vpsde") == Added(0.2, 10.0, more=3.0)


class Wave(nn.Module):
    """A nonlinear network on images."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.3 * x.tanh() + t.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("sde", "solver"), [(VPSDE(), "em"), (CONSTANT, "em"), (CONSTANT, "gddim")])
def test_mixed_score_is_folded_into_the_rows(sde: SDE, solver: str) -> None:
    """The rows include the state term of a mixed score: the loop agrees with a run that evaluates `score`."""
    model = ScoreFunction(
        GoldenNetwork() if sde.parts == 2 else Wave(),
        OfficialParametrisation(sde, mixed=True, label_scale=1.0),
        (2, 3, 3),
    )
    table = build_table(sde, SolverOptions(solver, 12, grid="quadratic", probability_flow=True))
    start = model.prior(torch.randn(4, *model.state_shape, generator=torch.Generator().manual_seed(0)))
    u = start.double()
    derived: list[Tensor] = []
    for row in table.rows:
        assert row.derive is not None
        matrices = [np.reshape(m, (sde.parts, -1)) for m in (row.state, *row.derive, *row.outputs)]
        state, from_state, from_score, *outputs = map(torch.from_numpy, matrices)
        score = model.score(u, torch.full((len(u),), row.t, dtype=torch.float64))

        def act(matrix: Tensor, x: Tensor) -> Tensor:
            parts = x.unflatten(1, (matrix.shape[1], -1))
            return torch.einsum("pq,bqcij->bpcij", matrix.double(), parts).flatten(1, 2)

        derived = [act(from_state, u) + act(from_score, score), *derived[:3]]
        u = act(state, u) + sum(act(m, d) for m, d in zip(outputs, derived, strict=False))
    assert (run(model, table, start).double() - u).abs().max() <= 2e-5 * u.abs().max()


class Shifted(nn.Module):
    """`Wave` plus sigma x: the same score as the mixed score of `Wave` on VP."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        std = torch.from_numpy(VPSDE().marginal(t.double().numpy()).std).to(x)
        return Wave()(x, t) + std.view(-1, 1, 1, 1) * x


def test_langevin_step_on_a_mixed_score() -> None:
    """The Langevin corrector includes the state term: the samples are those of a network that returns the whole."""
    mixed, whole = (
        ScoreFunction(network, OfficialParametrisation(VPSDE(), mixed=mixed, label_scale=1.0), (2, 3, 3), None)
        for network, mixed in ((Wave(), True), (Shifted(), False))
    )
    expected = Sampler(whole, "em", 30, corrector="langevin").sample(range(4))
    samples = Sampler(mixed, "em", 30, corrector="langevin").sample(range(4))
    assert (samples - expected).abs().max() <= 1e-5 * expected.abs().max()
