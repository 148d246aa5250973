# SPDX-License-Identifier: Apache-2.0
"""The study of CLD, and the claims of docs/cld.md in its committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import scoresde_fast as sf
from benchmarks import study_tables, tables
from benchmarks.studies import cld, pictures
from benchmarks.table_cells import find
from scoresde_fast.bench import measures
from scoresde_fast.evaluation import Recogniser, Recognition
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.training import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "cld.md").read_text()
MIXTURE: dict[str, Any] = json.loads((RESULTS / "cld-mixture.json").read_text())
DIGITS = RESULTS / "cld-digits.json"


def test_fast_score_equals_the_mixture_score() -> None:
    """In float64 the study's score of many particles equals the score of `GaussianMixture` for each, at every time."""
    means = torch.tensor(measures.MEANS, dtype=torch.float64).view(3, 1, 1, 1)
    exact = sf.GaussianMixture(CLDSDE(), measures.WEIGHTS, means, [measures.STD] * 3)
    u = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (1.0, 0.3, 0.01, 1e-3):
        fast = cld.model(4).network(u, torch.full((2,), t, dtype=torch.float64))
        pairs = u.permute(0, 2, 3, 1).reshape(-1, 2, 1, 1)
        slow = exact.network(pairs, torch.full((len(pairs),), t, dtype=torch.float64)).view(2, 1, 4, 4)
        assert torch.allclose(fast, slow, rtol=1e-9, atol=1e-9 * slow.abs().max().item())


def test_a_small_mixture_benchmark(tmp_path: Path) -> None:
    """At 20 steps SSCS is far nearer to the data than Euler-Maruyama; tables and picture show all results."""
    row_counts: list[int] = []
    distance = cld.distances((20, 30), 3, 2, cld.GRIDS, lambda part: row_counts.append(len(part["rows"])))
    assert row_counts == [1, 2, 3, 4]
    assert find(distance["rows"], grid="uniform", steps=20)["difference_in_standard_errors"] > 3
    result: dict[str, Any] = {"distance": distance, "ode": cld.ode_errors(30, (10, 20)), "orders": cld.orders()}
    errors = {(row["solver"], row["order"], row["nfe"]): row["rms"] for row in result["ode"]["rows"]}
    assert errors["gddim", 3, 20] < errors["gddim", 1, 20] < errors["em", None, 20]
    assert len(study_tables.cld_distances(result)) == 2 + 2 + 1
    assert len(study_tables.cld_ode_errors(result)) == 2 + 5
    assert len(study_tables.cld_orders(result)) == 2 + 7
    pictures.draw_mixture(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_second_call_continues_the_digits(tmp_path: Path) -> None:
    """A second call adds only the missing cases; another number of samples is refused."""

    class Report(Recogniser):
        def __init__(self) -> None:
            pass  # nothing is fitted

        def report(self, images: torch.Tensor) -> Any:
            assert images.shape == (4, 3, 16, 16)
            return Recognition(1.0, (0.1,) * 10, 1.0)

        def held_out(self) -> tuple[float, Any]:
            return 1.0, self.report(torch.zeros(4, 3, 16, 16))

    torch.manual_seed(0)
    sf.create(load_recipe("digits-cld")).save_pretrained(tmp_path / "model")
    cases = [{**case, "steps": 3} for case in cld.cases() if case["grid"] == "quadratic"]
    few = [next(case for case in cases if case["solver"] == solver) for solver in ("sscs", "em", "gddim")]
    out, name = tmp_path / "digits.json", str(tmp_path / "model")
    cld.digits(name, few[:2], 4, 4, out, Report())
    first = json.loads(out.read_text())
    cld.digits(name, few, 4, 4, out, Report())
    second = json.loads(out.read_text())
    assert second["rows"][:2] == first["rows"] and len(second["rows"]) == 3
    assert [row["nfe"] for row in second["rows"]] == [3, 3, 3]
    assert len(study_tables.cld_digits(second)) == 2 + 3 + 1
    with pytest.raises(ValueError, match="has samples 4, not 5"):
        cld.digits(name, few, 5, 5, out, Report())


def test_cases_are_distinct() -> None:
    """Stochastic: 2 solvers, step counts and grids. gDDIM: 4 orders, 3 step counts, 2 grids; with noise 2 orders."""
    cases = cld.cases()
    assert len({tuple(case.values()) for case in cases}) == len(cases) == 2 * 2 * 2 + 4 * 3 * 2 + 2 * 3


def test_tables_of_the_page() -> None:
    """Every table has its mark, and `python -m benchmarks.tables --write` would change nothing."""
    assert all(PAGE.count(tables.mark(make)) == 1 for make in tables.PAGES["docs/cld.md"])
    assert tables.updated("docs/cld.md") == PAGE


def test_sscs_is_nearer_than_euler_maruyama() -> None:
    """On the quadratic grid the distances differ by more than two standard errors, from 20 to 500 steps."""
    rows = [row for row in MIXTURE["distance"]["rows"] if row["grid"] == "quadratic"]
    assert [row["steps"] for row in rows] == list(cld.STEPS)
    assert MIXTURE["distance"]["particles_a_run"] >= 100_000
    for row in rows:
        assert row["sscs"]["pooled"] < row["em"]["pooled"]
        assert row["difference_in_standard_errors"] > 2


def test_gddim_error_limits() -> None:
    """The RMS errors at 20 and 50 evaluations are at most 0.17 and 0.10 for order 2, and 0.09 and 0.03 above."""
    rows = MIXTURE["ode"]["rows"]
    for order, limits in ((2, (0.17, 0.10)), (3, (0.09, 0.03)), (4, (0.09, 0.03))):
        for nfe, limit in zip((20, 50), limits, strict=True):
            assert find(rows, solver="gddim", order=order, nfe=nfe)["rms"] <= limit


def test_every_solver_has_its_order() -> None:
    """The measured orders of convergence are within 0.25 of the claimed ones."""
    assert len(MIXTURE["orders"]) == 7
    for row in MIXTURE["orders"]:
        assert row["measured"] == pytest.approx(row["claimed"], abs=0.25)


def test_solver_ranking_on_digits() -> None:
    """On both grids SSCS at 50 evaluations is better than Euler-Maruyama, and noisy gDDIM at 20 is better than SSCS."""
    rows = json.loads(DIGITS.read_text())["rows"]
    for grid in ("quadratic", "uniform"):
        sscs, em = (find(rows, solver=name, grid=grid, steps=50)["frechet_to_data"] for name in ("sscs", "em"))
        assert sscs < em
        for order in (2, 3):
            gddim = find(rows, solver="gddim", order=order, steps=20, **cld.NOISY_GDDIM)
            assert gddim["frechet_to_data"] < sscs


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_code_of_the_page_runs(code: str) -> None:
    """Every Python block runs unchanged."""
    exec(compile(code, "cld.md", "exec"), {"__name__": "page"})


def test_pictures_of_the_page_exist() -> None:
    """Every picture of the page is in docs, and is smaller than 300 kB."""
    names = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert names
    for name in names:
        assert 5_000 < (ROOT / "docs" / name).stat().st_size < 300_000
