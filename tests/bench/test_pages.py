# SPDX-License-Identifier: Apache-2.0
"""Tests of the HTML pages of results: self-contained, and complete."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scoresde_fast.bench import pages
from scoresde_fast.bench.results import BenchResult, LeftOutVariant, read_result
from scoresde_fast.cli import main
from tests.support.candidates import Stub, run_stubs


def test_page_is_self_contained(sampling_result_file: Path, tmp_path: Path) -> None:
    """The page has no external references, escapes the command, and shows the speed of every variant."""
    pytest.importorskip("matplotlib")
    result = read_result(BenchResult, sampling_result_file)
    pages.write_html(replace(result, command="a <command>"), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page and "a &lt;command&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == page.count("</svg>") == 3
    for line in result.networks[0].lines:
        assert line.name in page
        if isinstance(line, LeftOutVariant):
            assert line.left_out.replace("'", "&#39;") in page
        else:
            assert f"<td>{pages.format_number(line.images_per_second)}</td>" in page


def test_format_number() -> None:
    """Numbers have three significant digits and no exponent."""
    texts = [pages.format_number(value) for value in (None, 0.0, 0.00012345, 1.5, 1234.5, 43600.0)]
    assert texts == ["-", "0", "0.000123", "1.5", "1,230", "43,600"]


def test_a_solver_without_a_value_at_a_budget_shows_a_dash() -> None:
    """Each case stands in one column: a solver that was measured at 10 evaluations only has a dash at 5 and at 20.

    The best of a column is the best of those that stand there, even if a cheaper case is better.
    """
    pytest.importorskip("matplotlib")
    quality = {"few": {10: 0.1}, "both": {10: 0.5, 20: 0.3}, "many": {20: 0.4}, "wide": {5: 0.9, 10: 0.8, 20: 0.7}}
    stubs = [
        Stub(name, shift, budget=budget, nfe=budget - 1)
        for name, shifts in quality.items()
        for budget, shift in shifts.items()
    ]
    result = run_stubs(*stubs, budgets=(5, 10, 20))
    limits, table = pages.best_table(result)
    assert limits == [5, 10, 20]
    shown = {name: [cell and (cell.case.budget, cell.mark) for cell in row] for name, row in table.items()}
    assert shown == {
        "both": [None, (10, ""), (20, "best")],
        "many": [None, None, (20, "")],
        "wide": [(5, "best"), (10, ""), (20, "")],
        "few": [None, (10, "best"), None],
    }
    page = pages.render(result)
    (row,) = re.findall(r"<tr><td>few</td>(.*?)</tr>", page, re.DOTALL)
    cells = [re.sub("<.*?>", "", cell).strip() for cell in re.findall("<td.*?</td>", row, re.DOTALL)]
    assert cells[0] == cells[2] == "-" and cells[1].endswith("9 NFE")


@pytest.mark.parametrize("command", [["bench"], ["bench", "solvers", "mixture-vp"]], ids=" ".join)
def test_page_without_its_libraries(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a library is not installed, --html raises an error that names it, before anything is measured."""
    monkeypatch.setattr(pages, "LIBRARIES", ("no_such_library",))
    assert main([*command, "--html", "page.html"]) == 2
    assert "pip install no_such_library" in capsys.readouterr().err


def test_pages_of_the_committed_results(root: Path, tmp_path: Path) -> None:
    """Every committed result of ``bench`` and ``bench solvers`` can be rendered."""
    script = [sys.executable, str(root / "benchmarks" / "pages.py"), "--out", str(tmp_path)]
    subprocess.run(script, capture_output=True, check=True)
    results = [*(root / "benchmarks" / "results").glob("sampling-*.json")]
    results += (root / "benchmarks" / "results").glob("solvers-*.json")
    assert results and {path.stem for path in results} == {path.stem for path in tmp_path.glob("*.html")}
