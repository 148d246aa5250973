# SPDX-License-Identifier: Apache-2.0
"""Weights that are added to the coefficients of first-order solvers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE
from scoresde_fast.solvers import PairRow, SolverOptions, build_table

TIMES = (1.0, 0.6, 0.3, 0.01)


def options(sde: SDE, **more: Any) -> SolverOptions:
    """Return the options of first-order steps."""
    solver = {"solver": "gddim", "order": 1} if isinstance(sde, CLDSDE) else {"solver": "ddim"}
    return SolverOptions(**solver, grid=TIMES, probability_flow=True, denoise=False, **more)


@pytest.mark.parametrize("sde", [VESDE(), VPSDE(), CLDSDE()], ids=lambda sde: sde.name)
def test_weights_are_added_to_the_outputs(sde: SDE) -> None:
    """The coefficients of each row are those of the solver plus the weights; all others are unchanged."""
    size = sde.parts**2
    weights = tuple(tuple(range(1, size * (k + 1) + 1)) for k in range(3))
    rows = build_table(sde, options(sde, weights=weights)).rows
    plain = build_table(sde, options(sde)).rows
    for k, (row, other, own) in enumerate(zip(rows, plain, weights, strict=True)):
        fitted = np.reshape(own, (k + 1, sde.parts, sde.parts))
        for j in range(k + 1):
            before = other.outputs[j] if j < len(other.outputs) else 0.0
            assert np.array_equal(np.reshape(row.outputs[j], fitted[j].shape), before + fitted[j])
        assert np.array_equal(row.state, other.state)
        assert row.t == other.t
        assert isinstance(row, PairRow) == (sde.parts == 2)


def test_options_survive_json() -> None:
    """A set of samples is resumed with options read from JSON, where tuples are lists."""
    given = options(VPSDE(), weights=((0.1,), (0.2, -0.1), (0.3,)))
    assert SolverOptions(**json.loads(json.dumps(asdict(given)))) == given


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (((0.1,),), "weights are those of 1 steps, but the run has 3"),
        (((0.1, 0.2), (), ()), "step 1 has 2 weights; it can have 1 for each of 1 outputs"),
        ((1, 2, 3), "weights is (1, 2, 3); it must be a sequence of numbers for each step"),
        ("0.1", "weights is '0.1'; it must be a sequence of numbers for each step"),
        (((np.nan,), (), ()), "it must be a sequence of numbers for each step"),
    ],
    ids=str,
)
def test_invalid_weights(weights: Any, message: str) -> None:
    """Weights of another run, or no numbers, are refused in one sentence."""
    with pytest.raises(ValueError) as error:
        build_table(VPSDE(), options(VPSDE(), weights=weights))
    assert message in str(error.value)
