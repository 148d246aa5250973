# SPDX-License-Identifier: Apache-2.0
"""The GPU, its software versions and peak rates, and a smoke test of every operation."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.visit import checks, common, network_checks
from benchmarks.visit.report import Report
from scoresde_fast import _extension
from scoresde_fast.bench.results import device_info


def device(report: Report) -> None:
    """Report the GPU with its clocks, software versions, copy bandwidth, and the peak of the matrix product."""
    info = device_info()
    report.case("device", info)
    report.case("extension", {"missing": _extension.why_missing})
    report.figure(common.COPY, common.bandwidth(report))
    report.figure(common.PEAK, common.peak(report))
    report.figure("versions", " ".join(f"{name} {value}" for name, value in info["versions"].items()))


def smoke(report: Report) -> None:
    """Run each operation once on each backend; an exception is reported and does not stop the others."""
    smokes: dict[str, Callable[[Report], None]] = {
        "steps": lambda inner: checks.steps(inner, dict(_first(checks.STATES.items())), (torch.bfloat16,)),
        "norms": lambda inner: network_checks.norms(inner, _first(network_checks.cases("group_norm_silu"))),
        "filters": lambda inner: network_checks.filters(inner, _first(network_checks.cases("fir_resample"))),
        "convolutions": lambda inner: network_checks.convolutions(inner, _first(network_checks.convolution_cases())),
        "attention": lambda inner: network_checks.attention(inner, _first(network_checks.ATTENTION)),
    }
    worst: dict[str, float] = {}
    for name, check in smokes.items():
        inner = Report()
        try:
            check(inner)
            worst |= {f"{name}: {label}": ratio for label, ratio in inner.results["worst"].items()}
        except Exception as error:
            worst[f"{name}: {type(error).__name__} {str(error)[:100]}"] = float("inf")
            report.case(name, {"error": traceback.format_exc()[-1500:]})
    report.outcome(all(ratio <= 1 for ratio in worst.values()), worst)


def _first(cases: Iterable[Any]) -> list[Any]:
    return list(itertools.islice(cases, 1))
