# SPDX-License-Identifier: Apache-2.0
"""Tests of the results: reading and writing preserves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoresde_fast.bench.results import BenchResult, Comparison, read_result, write_result

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("s*-*.json"))


def test_round_trip_of_a_measured_result(sampling_result_file: Path, tmp_path: Path) -> None:
    """Reading and writing a result of the sampling benchmark gives the same file."""
    write_result(read_result(BenchResult, sampling_result_file), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == sampling_result_file.read_text()


@pytest.mark.parametrize("path", COMMITTED, ids=[path.stem for path in COMMITTED])
def test_committed_results_keep_their_keys(path: Path, tmp_path: Path) -> None:
    """Reading and writing a committed result gives the same JSON, except that skipped cases get "nfe": null."""
    committed = json.loads(path.read_text())
    kind: type[BenchResult | Comparison] = BenchResult if path.stem.startswith("sampling") else Comparison
    write_result(read_result(kind, path), tmp_path / path.name)
    for case in committed.get("skipped", []):
        case["nfe"] = None
    assert json.loads((tmp_path / path.name).read_text()) == committed
