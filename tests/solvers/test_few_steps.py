# SPDX-License-Identifier: Apache-2.0
"""The warning of a multistep solver that has fewer steps than its order."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from scoresde_fast.sdes import CLDSDE, SDE, VPSDE
from scoresde_fast.solvers import SolverOptions, build_table, registry


def messages(sde: SDE, **options: Any) -> list[str]:
    """Return the warnings of building a table."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_table(sde, SolverOptions(**options))
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("sde", "options", "message"),
    [
        (VPSDE(), {"solver": "unipc", "order": 3, "steps": 2}, "'unipc' of order 3 .* 3 steps, .* 1 step .* order 1:"),
        (VPSDE(), {"solver": "unipc", "order": 3, "steps": 3}, "'unipc' of order 3 .* 3 steps, .* 2 steps .* order 2:"),
        (VPSDE(), {"solver": "dpmpp_2m", "steps": 2}, "'dpmpp_2m' of order 2 .* 2 steps, .* only 1 step besides den"),
        (
            VPSDE(),
            {"solver": "deis", "grid": [1, 0.5, 0]},
            "'deis' of order 3 .* only 1 step .* uses order 1: take more",
        ),
        (CLDSDE(), {"solver": "gddim", "order": 4, "steps": 3, "denoise": False}, "'gddim' of order 4 .* only 3 steps"),
    ],
)
def test_once(monkeypatch: pytest.MonkeyPatch, sde: SDE, options: dict[str, Any], message: str) -> None:
    """The first such run warns, with the solver, its order, the steps and the order used; later ones do not."""
    monkeypatch.setattr(registry, "_warned", False)
    with pytest.warns(UserWarning, match=message):
        build_table(sde, SolverOptions(**options))
    assert messages(sde, **options) == []


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "unipc", "order": 3, "steps": 4},
        {"solver": "unipc", "order": 1, "steps": 2},
        {"solver": "dpmpp_3s", "steps": 2},
        {"solver": "heun", "steps": 1, "denoise": False},
        {"solver": "em", "steps": 1},
    ],
)
def test_enough_steps(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    """A run with as many steps as the order, and solvers that use no earlier steps, do not warn."""
    monkeypatch.setattr(registry, "_warned", False)
    assert messages(VPSDE(), **options) == []
