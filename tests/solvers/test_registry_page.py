# SPDX-License-Identifier: Apache-2.0
"""docs/solvers.md compared with the registry."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.exact_moments import prior, propagate
from scoresde_fast.solvers.registry import ALIASES
from tests.support.toy_solvers import MEAN, STD

TITLES: dict[type[SDE], str] = {VESDE: "VE", VPSDE: "VP", SubVPSDE: "sub-VP", CLDSDE: "CLD"}
NOISE_OPTIONS = {"eta", "churn"}  # with these a deterministic solver draws noise
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "solvers.md").read_text()


def documented(name: str) -> str:
    """Return the row that a solver must have in the table of docs/solvers.md."""
    entry = SOLVERS[name]
    aliases = [alias for alias, target in ALIASES.items() if target == name]
    sdes = ", ".join(title for sde, title in TITLES.items() if issubclass(sde, entry.sdes))
    orders = ", ".join(str(entry.convergence(order)) for order in entry.orders)
    draws_noise = not entry.deterministic or not NOISE_OPTIONS.isdisjoint(entry.options)
    weak = ", ".join(str(entry.convergence(order, noisy=True)) for order in entry.orders if draws_noise)
    defaults = {option: default for option, default in entry.options.items() if option != "order"}
    options = [
        f"`grid` {entry.grid}",
        *(["`order` " + ", ".join(map(str, entry.orders))] if "order" in entry.options else []),
        *(["`probability_flow`"] if entry.probability_flow and not entry.deterministic else []),
        *[f"`{option}` {default}".removesuffix(".0").removesuffix(" False") for option, default in defaults.items()],
        *(["correctors"] if entry.correctable else []),
    ]
    evaluations = ", ".join(str(count) for count in np.ravel(entry.evaluations))
    if entry.starting_evaluations:
        evaluations += f", and {entry.starting_evaluations} at the start"
    title = " or ".join(f"`{each}`" for each in [name, *aliases])
    flow_orders = orders if entry.probability_flow else "-"
    return f"| {title} | {sdes} | {flow_orders} | {weak or '-'} | {evaluations} | {', '.join(options)} |"


@pytest.mark.parametrize("name", SOLVERS)
def test_page_matches_the_registry(name: str) -> None:
    """docs/solvers.md has a row and a section for every solver, with the attributes of the registry."""
    assert documented(name) in PAGE
    assert f"### {name}\n" in PAGE
    section = PAGE.split(f"### {name}\n")[1].split("\n### ")[0]
    assert SOLVERS[name].source in " ".join(section.split())


def test_page_examples_run() -> None:
    """Every Python block of docs/solvers.md runs, and the solver that it registers is correct."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    try:
        for block in blocks:
            exec(compile(block, "solvers.md", "exec"), {"__name__": "solvers"})
        table = build_table(VPSDE(), SolverOptions("my_euler", 400, grid="sqrt", denoise=False))
        got = propagate(table, VPSDE(), (MEAN, STD), prior(VPSDE()))
        assert np.sqrt(got.covariance[0, 0]) == pytest.approx(STD, rel=0.01)
    finally:
        SOLVERS.pop("my_euler", None)
