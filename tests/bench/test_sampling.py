# SPDX-License-Identifier: Apache-2.0
"""Tests of the sampling benchmark: complete results, and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.bench import sampling
from scoresde_fast.bench.results import LeftOutVariant, MeasuredVariant
from scoresde_fast.bench.variants import Variant
from scoresde_fast.bench.workload import Workload
from scoresde_fast.cli import main
from tests.support.bench_models import CEILINGS, FAST_VARIANTS, small_model


def test_result_is_complete(sampling_result_file: Path) -> None:
    """The file is valid JSON without infinities, and every variant is measured or has a reason."""
    result = json.loads(sampling_result_file.read_text(), parse_constant=pytest.fail)
    assert {"python", "torch", "scoresde-fast"} <= set(result["device"]["versions"])
    (network,) = result["networks"]
    assert (network["batch"], network["nfe"]) == (2, 4)
    assert [line["name"] for line in network["lines"]] == [variant.name for variant in FAST_VARIANTS]
    for line in network["lines"]:
        assert line.get("left_out") or {"images_per_second", "share_of_matmul_peak", "psnr_db"} <= set(line)
    first = network["lines"][0]
    assert (first["against_first"], first["psnr_db"], first["max_error"]) == (1, None, 0)
    assert first["images_per_second"] == pytest.approx(2e3 / (4 * first["ms_per_nfe"]), rel=1e-3)
    (series,) = result["batches"]
    assert all([point["batch"] for point in line["points"]] == [1, 2] for line in series["lines"])


def test_a_broken_variant_does_not_stop_the_others() -> None:
    """A variant that fails is left out with its error, and the others are measured."""

    def fail(workload: Workload) -> Any:
        raise RuntimeError("no such\nthing")

    workload = Workload.of(small_model(), 1, 2, "cpu")
    variants = [FAST_VARIANTS[0], Variant("broken", "fails", fail)]
    good, broken = sampling.measure_network("x", workload, variants, 1e-3).lines
    assert isinstance(broken, LeftOutVariant) and broken.left_out == "RuntimeError: no such thing"
    assert isinstance(good, MeasuredVariant)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-vee"], "unknown network 'digits-vee' - did you mean 'digits-ve'?"),
        (["ve/cifar10"], "unknown network 've/cifar10'"),
        (["--seconds", "0"], "the time budget is 0.0 seconds"),
        (["digits-ve", "--batch-size", "0"], "the batch size is 0"),
        (["digits-ve", "--nfe", "-1"], "the nfe is -1"),
        (["digits-vp", "--nfe", "2"], "at least"),
        (["--device", "nowhere"], "device 'nowhere' is not usable here"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument gives a one-line error before anything is measured."""
    monkeypatch.setattr(sampling, "peak_rates", lambda device: CEILINGS)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
