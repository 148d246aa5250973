# SPDX-License-Identifier: Apache-2.0
"""The page docs/solvers.md against the registry."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.gaussian import prior, propagate
from scoresde_fast.solvers.registry import ALIASES
from tests.support.toy_solvers import MEAN, STD

TITLES: dict[type[SDE], str] = {VESDE: "VE", VPSDE: "VP", SubVPSDE: "sub-VP", CLDSDE: "CLD"}
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "solvers.md").read_text()


def documented(name: str) -> str:
    """The row of a solver in the table of docs/solvers.md."""
    found = SOLVERS[name]
    named = [alias for alias, of in ALIASES.items() if of == name]
    sdes = ", ".join(TITLES[sde] for sde in TITLES if sde in found.sdes)
    orders = ", ".join(str(found.convergence(order)) for order in found.orders)
    noisy = [] if found.deterministic and not {"eta", "churn"} & set(found.options) else found.orders
    weak = ", ".join(str(found.convergence(order, noisy=True)) for order in noisy)
    options = [
        *(["`order` " + ", ".join(map(str, found.orders))] if len(found.orders) > 1 else []),
        *(["`probability_flow`"] if found.probability_flow and not found.deterministic else []),
        *([f"`eta` {found.options['eta']:g}"] if "eta" in found.options else []),
        *(["`churn` 0"] if "churn" in found.options else []),
        *(["`original`"] if "original" in found.options else []),
        *(["correctors"] if found.correctable else []),
    ]
    title = " or ".join(f"`{each}`" for each in [name, *named])
    flow_orders = orders if found.probability_flow else "-"
    return f"| {title} | {sdes} | {flow_orders} | {weak or '-'} | {found.evaluations} | {', '.join(options) or '-'} |"


@pytest.mark.parametrize("name", SOLVERS)
def test_the_page_is_the_registry(name: str) -> None:
    """docs/solvers.md has a row and a section for every solver, with its attributes in the registry."""
    assert documented(name) in PAGE
    assert f"### {name}\n" in PAGE
    section = PAGE.split(f"### {name}\n")[1].split("\n### ")[0]
    assert SOLVERS[name].source in " ".join(section.split())


def test_the_pages_examples_run() -> None:
    """Every Python block of docs/solvers.md runs, and the solver that it registers samples like the others."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    try:
        for block in blocks:
            exec(compile(block, "solvers.md", "exec"), {"__name__": "solvers"})
        mine = build_table(VPSDE(), SolverOptions("my_euler", 400, grid="sqrt", denoise=False))
        got = propagate(mine, VPSDE(), (MEAN, STD), prior(VPSDE()))
        assert np.sqrt(got.covariance[0, 0]) == pytest.approx(STD, rel=0.01)
    finally:
        SOLVERS.pop("my_euler", None)
