# SPDX-License-Identifier: Apache-2.0
"""Repeated launches of the same form of a kernel bypass Triton."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from scoresde_fast.kernels.launch import Form

Log = list[tuple[Any, ...]]


class Compiled:
    """A fake compiled kernel, which logs its launches."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda p_x, p_y, *constants: self.log.append(("again", grid, constants))


class Kernel:
    """A fake ``triton.jit`` function of two tensors and two constants."""

    arg_names = ("p_x", "p_y", "SIZE", "FLAG")

    def __init__(self) -> None:
        self.log: Log = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
        def launch(*tensors: Tensor, **named: Any) -> Compiled:
            self.log.append(("by Triton", grid, named))
            return Compiled(self.log)

        return launch


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_second_launch(kernel: Kernel) -> None:
    """A second launch bypasses Triton and passes the constants in the order of the kernel's arguments."""
    form = Form(kernel, {"FLAG": True, "SIZE": 8}, num_warps=2)
    for programs in (3, 5):
        form.launch(programs, torch.zeros(8), torch.zeros(8))
    assert kernel.log == [
        ("by Triton", (3,), {"FLAG": True, "SIZE": 8, "num_warps": 2}),
        ("again", (5, 1, 1), (8, True)),
    ]


def test_dtypes_and_alignment(kernel: Kernel) -> None:
    """Each combination of dtypes is compiled once; tensors not aligned to 16 bytes are always launched by Triton."""
    form, aligned = Form(kernel, {"SIZE": 8, "FLAG": False}), torch.zeros(9)
    form.launch(1, aligned, aligned)
    form.launch(1, aligned, aligned.half())
    form.launch(1, aligned, aligned.half())
    for _ in range(2):
        form.launch(1, aligned[1:], aligned)
    assert [entry[0] for entry in kernel.log] == ["by Triton", "by Triton", "again", "by Triton", "by Triton"]
