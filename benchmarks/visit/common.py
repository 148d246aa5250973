# SPDX-License-Identifier: Apache-2.0
"""What the items of a visit share: device, sizes, backends, ceilings of the device, and errors against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.visit.report import Report
from scoresde_fast.bench.machine import copy_bandwidth, matmul_peak
from scoresde_fast.bench.workload import random_model
from scoresde_fast.configs import ConfigLike
from scoresde_fast.model import ScoreModel
from scoresde_fast.ops import operations

#: Where everything runs; a rehearsal puts it on a CPU, where Triton's interpreter stands in.
DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COPY, PEAK = "copy GB/s", "matmul TFLOP/s"


@dataclass(frozen=True)
class Setting:
    """Sizes of the measurements.

    Attributes:
        config: configuration of the measured network.
        batch: images that fill the device.
        nfe: evaluations of a run that is compared with others.
        batches, latencies: batch sizes of the sweep, and small ones; eager PyTorch gets the best of ``eager_batches``.
        flow_model, flow_batch: model and batch size of RK45.
        check_batch: batch size of the whole network's check against float64.
        copy_gigabytes, matmul_sizes: copied bytes and sides of the matrices that find the device's ceilings.
        state_bytes: bytes of a state or an activation that no cache holds.
        step_batch: images of a small state.
        rounds: rounds of a measurement.
        seconds: time limit of a race between alternatives.
        derivatives: operation and (B, C, H, W).
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
        """Return the network with random weights, the same every time."""
        return random_model(self.config)


now = Setting()
"""The sizes of this process; a rehearsal has `benchmarks.visit.stand_ins.SMALL`."""


def present(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the backends of an operation that run on the device, with their functions."""
    for backend, found in operations[name].backends.items():
        if found.refusal(DEVICE, by_name=True) is None:
            yield backend, found.function


def bandwidth(report: Report) -> float:
    """Return the GB/s of a copy, read and write added; measured unless an item before this one did."""
    if COPY not in report.known:
        report.known[COPY] = copy_bandwidth(now.copy_gigabytes, DEVICE)
    found: float = report.known[COPY]
    return found


def peak(report: Report) -> float:
    """Return the TFLOP/s of a matrix product in bfloat16; measured unless an item before this one did."""
    if PEAK not in report.known:
        report.known[PEAK] = matmul_peak(now.matmul_sizes, torch.bfloat16, DEVICE)
    found: float = report.known[PEAK]
    return found


class Errors:
    """The worst ratio of error to allowed error over many comparisons, by label.

    The allowed error is twice that of the reference in the same dtype, plus one unit in the last place of the largest
    value.
    """

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}

    def see(self, label: str, result: Tensor, reference: Tensor, truth: Tensor) -> None:
        """Compare a result with the float64 truth; NaN counts as infinitely wrong."""
        if truth.numel() == 0:
            return
        ulp = truth.abs().max() * torch.finfo(result.dtype).eps
        self.within(label, result.double() - truth, 2 * (reference.double() - truth).abs().max() + ulp)

    def within(self, label: str, errors: Tensor, allowed: Tensor) -> None:
        """Add the largest of some errors, as a share of the number ``allowed``."""
        self.add(label, (errors.abs().max() / allowed).item())

    def add(self, label: str, ratio: float) -> None:
        """Add an error, given as a share of the allowed error."""
        self.worst[label] = max(self.worst.get(label, 0.0), ratio if ratio == ratio else float("inf"))

    def tell(self, report: Report) -> None:
        """Report whether all comparisons passed, and the worst ratio of each label."""
        report.outcome(bool(self.worst) and all(ratio <= 1 for ratio in self.worst.values()), self.worst)
