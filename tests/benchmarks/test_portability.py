# SPDX-License-Identifier: Apache-2.0
"""`make portability` and `make matrix`, and their page."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import tables
from benchmarks.portability import matrix, processors, pytest_runs
from benchmarks.table_cells import RESULTS, load

pytestmark = pytest.mark.same_everywhere


def test_figures_come_from_results(root: Path) -> None:
    """The page's tables and sentence come from the committed results, in which no test failed."""
    page = (root / "docs" / "portability.md").read_text()
    assert all("\n".join(make()) in page for make in tables.PAGES["docs/portability.md"])
    for file in [*RESULTS.glob("portability-*.json"), Path("matrix.json")]:
        assert all(row.get("failed", 0) == 0 for row in load(file.stem)["rows"]), file.name


def test_a_second_run_replaces_one_row(tmp_path: Path) -> None:
    """A second run of a row replaces its results; the other rows stay, in the order of the table."""
    rows = [SimpleNamespace(name=name) for name in "abc"]
    for name, passed in (("c", 1), ("a", 2), ("c", 3)):
        pytest_runs.save_row(tmp_path / "rows.json", rows, {"name": name, "passed": passed}, {"command": "make"})
    saved = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["name"], row["passed"]) for row in saved["rows"]] == [("a", 2), ("c", 3)]
    assert saved["command"] == "make" and all(row["commit"] for row in saved["rows"])


def test_rows_that_cannot_run_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing instructions are named; rows that need none, or only existing ones, have no reason."""
    monkeypatch.setattr(processors, "cpu_flags", lambda: frozenset({"avx2", "fma"}))
    reasons = {row.name: processors.why_not_run(row) for row in processors.ROWS}
    for name in ("as it is", "PyTorch with AVX2", "PyTorch without AVX2"):
        assert reasons[name] is None
    assert "this processor has no amx_bf16, amx_int8, amx_tile, avx512bw" in (reasons["oneDNN with AMX"] or "")
    assert processors.results_file().name.endswith("-avx2.json")


@pytest.mark.skipif(sys.platform == "win32", reason="the processes are started as on Unix")
def test_a_row_counts_its_tests(tmp_path: Path) -> None:
    """Passed, failed and skipped tests are counted, in a process with the row's settings."""
    test = tmp_path / "test_settings.py"
    test.write_text(
        "import os, pytest\n"
        "def test_setting(): assert os.environ['ATEN_CPU_CAPABILITY'] == 'default'\n"
        "def test_threads(): assert os.environ['OMP_NUM_THREADS'] == '2'\n"
        "def test_wrong(): assert False\n"
        "@pytest.mark.skip(reason='no')\ndef test_skipped(): pass\n"
        "@pytest.mark.same_everywhere\ndef test_of_a_page(): assert False\n"
    )
    row = processors.Row("one", {"ATEN_CPU_CAPABILITY": "default"}, threads=2)
    results = processors.run(row, [str(test), f"--rootdir={tmp_path}"])
    assert (results["passed"], results["failed"], results["skipped"]) == (2, 1, 1)
    assert results["failures"] == ["test_settings::test_wrong"]


def test_the_matrix_finds_its_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The Python of this process is found by its version; an error names a missing version."""
    version = "{}.{}".format(*sys.version_info[:2])
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable if name == f"python{version}" else None)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.interpreter(version) == sys.executable
    with pytest.raises(SystemExit, match=r"there is no Python 3\.99: install it"):
        matrix.interpreter("3.99")
