# SPDX-License-Identifier: Apache-2.0
"""Results are the same after they are written and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoresde_fast.bench.results import BenchResult, Comparison

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("s*-*.json"))


def test_a_measured_result_is_read_as_it_was_written(sampling_result_file: Path, tmp_path: Path) -> None:
    """A result of the sampling benchmark becomes the same file again."""
    BenchResult.from_json(json.loads(sampling_result_file.read_text())).write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == sampling_result_file.read_text()


@pytest.mark.parametrize("path", COMMITTED, ids=[path.stem for path in COMMITTED])
def test_committed_results_keep_their_keys(path: Path, tmp_path: Path) -> None:
    """Every committed result of ``bench`` and ``bench solvers`` becomes the same JSON again.

    A skipped case has "nfe" too, which is null.
    """
    kept = json.loads(path.read_text())
    read = (BenchResult if path.stem.startswith("sampling") else Comparison).from_json(kept)
    read.write(tmp_path / path.name)
    wanted = kept | {"skipped": [{**case, "nfe": None} for case in kept["skipped"]]} if "skipped" in kept else kept
    assert json.loads((tmp_path / path.name).read_text()) == wanted
