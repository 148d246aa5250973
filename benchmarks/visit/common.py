# SPDX-License-Identifier: Apache-2.0
"""Common parts of the items of a GPU visit: device, sizes, backends, peak rates, and errors against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.visit.report import Report
from scoresde_fast.bench.timing import copy_bandwidth, matmul_peak
from scoresde_fast.bench.workload import random_model
from scoresde_fast.configs import ConfigLike
from scoresde_fast.model import ScoreModel
from scoresde_fast.ops import operations

DEVICE = "cuda"
"""Device of all items; a rehearsal uses a CPU with Triton's interpreter."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COPY, PEAK = "copy GB/s", "matmul TFLOP/s"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements and checks.

    Attributes:
        config: configuration of the measured network.
        batch: batch size that occupies the device fully.
        nfe: network evaluations per run in comparisons.
        batches, latencies: batch sizes of the sweep, and of the latency comparison.
        eager_batches: batch sizes tried for eager PyTorch, of which the best counts.
        flow_model, flow_batch: model and batch size of RK45.
        check_batch: batch size for the check of the whole network against float64.
        copy_gigabytes, matmul_sizes: size of the copy, and sides of the matrices, for the device's peak rates.
        state_bytes: bytes of a state or activation too large for any cache.
        step_batch: batch size of a small state.
        rounds: rounds per measurement.
        seconds: time limit for a comparison of alternatives.
        derivatives: operations and (B, C, H, W) for checks of derivatives.
    """

    config: ConfigLike = "ve/cifar10_ncsnpp_continuous"
    batch: int = 256
    nfe: int = 20
    batches: tuple[int, ...] = (64, 512)
    latencies: tuple[int, ...] = (1, 4, 16)
    eager_batches: tuple[int, ...] = (256, 64)
    flow_model: str = "digits-vp"
    flow_batch: int = 1024
    check_batch: int = 4
    copy_gigabytes: float = 2.0
    matmul_sizes: tuple[int, ...] = (4096, 8192, 12288)
    state_bytes: int = 256 * 2**20  # five times the largest L2 cache
    step_batch: int = 64
    rounds: int = 20
    seconds: float = 4.0
    derivatives: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("group_norm_silu", (4, 128, 32, 32)),
        ("group_norm_silu", (4, 384, 16, 16)),
        ("fir_resample up", (4, 128, 16, 16)),
        ("fir_resample down", (4, 128, 32, 32)),
    )

    def model(self) -> ScoreModel:
        """Return the measured model with reproducible random weights."""
        return random_model(self.config)


sizes = Sizes()
"""Sizes in this process; a rehearsal uses `benchmarks.visit.stand_ins.SMALL`."""


def present(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield (name, function) of each backend of an operation that runs on the device."""
    for label, backend in operations[name].backends.items():
        if backend.refusal(DEVICE, by_name=True) is None:
            yield label, backend.function


def bandwidth(report: Report) -> float:
    """Return the copy bandwidth in GB/s, read plus write; the first item that needs it measures it."""
    if COPY not in report.known:
        report.known[COPY] = copy_bandwidth(sizes.copy_gigabytes, DEVICE)
    return float(report.known[COPY])


def peak(report: Report) -> float:
    """Return the bfloat16 matmul peak in TFLOP/s; the first item that needs it measures it."""
    if PEAK not in report.known:
        report.known[PEAK] = matmul_peak(sizes.matmul_sizes, torch.bfloat16, DEVICE)
    return float(report.known[PEAK])


class Errors:
    """The largest ratio of error to allowed error for each label.

    `compare` allows twice the error of the reference in the same dtype, plus one ulp of the largest value.
    """

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}

    def compare(self, label: str, result: Tensor, reference: Tensor, truth: Tensor) -> None:
        """Compare a result with the float64 truth; the error of NaN is infinite."""
        if truth.numel() == 0:
            return
        ulp = truth.abs().max() * torch.finfo(result.dtype).eps
        self.within(label, result.double() - truth, 2 * (reference.double() - truth).abs().max() + ulp)

    def within(self, label: str, errors: Tensor, allowed: Tensor) -> None:
        """Add the largest absolute error, relative to ``allowed``."""
        self.add(label, (errors.abs().max() / allowed).item())

    def add(self, label: str, ratio: float) -> None:
        """Add a ratio of error to allowed error."""
        self.worst[label] = max(self.worst.get(label, 0.0), float("inf") if math.isnan(ratio) else ratio)

    def report_to(self, report: Report) -> None:
        """Report whether all comparisons passed, and the worst ratio of each label."""
        report.outcome(bool(self.worst) and all(ratio <= 1 for ratio in self.worst.values()), self.worst)
