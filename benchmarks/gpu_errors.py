# SPDX-License-Identifier: Apache-2.0
"""What the checks on a GPU share: where they run, which backends there are, and how wrong a result may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_report import Report
from torch import Tensor

from scoresde_fast.ops import operations

#: Where everything runs; a rehearsal puts it on a CPU, where Triton's interpreter stands in.
DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Errors:
    """The worst of error / allowed error over many comparisons, by label.

    Allowed is twice the error of the reference in the same dtype, plus one unit in the last place of the largest value.
    """

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}

    def see(self, label: str, result: Tensor, reference: Tensor, truth: Tensor) -> None:
        """Compare; NaN counts as infinitely wrong."""
        if truth.numel() == 0:
            return
        ulp = truth.abs().max() * torch.finfo(result.dtype).eps
        self.within(label, result.double() - truth, 2 * (reference.double() - truth).abs().max() + ulp)

    def within(self, label: str, errors: Tensor, allowed: Tensor) -> None:
        """The largest of some errors, of which ``allowed`` (a number) is allowed."""
        self.add(label, (errors.abs().max() / allowed).item())

    def add(self, label: str, ratio: float) -> None:
        """An error as a share of what is allowed."""
        self.worst[label] = max(self.worst.get(label, 0.0), ratio if ratio == ratio else float("inf"))

    def tell(self, report: Report) -> None:
        """Whether all passed, and the worst ratio of each label."""
        report.outcome(bool(self.worst) and all(ratio <= 1 for ratio in self.worst.values()), self.worst)


def present(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The backends of an operation that run on the device."""
    for backend, found in operations[name].backends.items():
        if found.refusal(DEVICE, by_name=True) is None:
            yield backend, found.function
