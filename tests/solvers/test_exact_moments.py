# SPDX-License-Identifier: Apache-2.0
"""The exact distribution of a table compared with runs of the loop."""

from __future__ import annotations

import pytest

from scoresde_fast.sdes import VPSDE
from scoresde_fast.solvers import Row, StepTable
from scoresde_fast.solvers.exact_moments import prior, propagate
from tests.support.toy_solvers import MEAN, STD, assert_prediction, sample


@pytest.mark.statistical
def test_loop_keeps_saved_state_and_history(run_seed: int) -> None:
    """Samples have the moments of `propagate`, with saved states, older and forgotten outputs, and no evaluation."""
    sde = VPSDE()
    table = StepTable.of(
        [
            Row(0.9, save=True, state=0.9, outputs=(0.2,), noise=0.1),
            Row(0.8, derive=(0.3, -0.5), state=0.5, saved=0.4, outputs=(0.3, -0.1)),
            Row(0.8, derive=None, state=0.8, saved=-0.2, outputs=(0.1, 0.2), noise=0.3, save=True),
            Row(0.6, derive=(0.1, 0.2), state=0.7, saved=0.1, outputs=(0.4, 0.3, -0.2)),
            Row(0.6, derive=(0.2, 0.1), state=0.6, outputs=(0.3, -0.2), forget=2),
            Row(0.5, state=0.6, saved=-0.3, outputs=(0.1, 0.1, 0.2, 0.4), noise=0.05),
        ]
    )
    assert (table.nfe, table.draws) == (5, (1, None, 2, None, None, 3))
    predicted = propagate(table, sde, (MEAN, STD), prior(sde))
    assert_prediction(sample(sde, table, run_seed, (1, 2, 2)), predicted)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([Row(0.9), Row(0.8, forget=3)], "row 2 forgets 3 outputs; it can forget 0 to 2"),
        ([Row(0.9)] * 5 + [Row(0.8, forget=4)], "row 6 forgets 4 outputs; it can forget 0 to 3"),
        ([Row(0.9), Row(0.8, derive=None, forget=1)], "row 2 forgets 1 outputs; it can forget 0 to 0"),
    ],
)
def test_outputs_that_do_not_exist(rows: list[Row], sentence: str) -> None:
    """A row cannot forget more outputs than are kept, nor without an evaluation."""
    with pytest.raises(ValueError, match=sentence):
        StepTable.of(rows)
