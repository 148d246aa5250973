# SPDX-License-Identifier: Apache-2.0
"""Speed of CPU kernels, kernel launches and the loop, measured by pytest-benchmark: make bench-kernels"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import scoresde_fast as sf
from benchmarks.kernels.cpu import PARTS, THREADS, Calls
from scoresde_fast.devices import keep_freed_memory
from scoresde_fast.sdes import VESDE

OPERATIONS = [pytest.param(make, id=f"{part}: {case}") for part, cases in PARTS.items() for case, make in cases()]
NORMS = [(128, 32), (256, 16), (384, 16), (256, 4)]


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Set two threads, kept freed memory (as in `benchmarks.kernels.cpu`) and inference mode."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("make", OPERATIONS)
def test_operation(benchmark: Any, make: Callable[[], Calls]) -> None:
    """Time our kernels in each shape of NCSN++ at batch size 8, and the steps of 256 images."""
    benchmark(make()["ours"])


@pytest.mark.parametrize("steps", [20])
def test_loop(benchmark: Any, steps: int) -> None:
    """Time the loop, its noise and its kernels, in predictor-corrector sampling with an exact score that is cheap."""
    means = torch.linspace(0.2, 0.8, 3 * 16 * 16).view(1, 3, 16, 16)
    model = sf.GaussianMixture(VESDE(), [1.0], means, [0.1])
    sampler = sf.Sampler(model, solver="pc", steps=steps, batch_size=32)
    benchmark(lambda: sampler.sample(range(32)))


@pytest.mark.parametrize("by", ["ours", "triton"])
@pytest.mark.parametrize("join", [False, True], ids=["alone", "join"])
@pytest.mark.parametrize(("channels", "size"), NORMS, ids=[f"{channels}@{size}x{size}" for channels, size in NORMS])
def test_launch(benchmark: Any, monkeypatch: pytest.MonkeyPatch, channels: int, size: int, join: bool, by: str) -> None:
    """Time the launch of a fused norm on the host, up to the CUDA call, by our launcher and by Triton's."""
    pytest.importorskip("triton")
    if "TRITON_INTERPRET" in os.environ:
        pytest.skip("kernels are interpreted, not launched")
    from scoresde_fast.kernels.group_norm_silu import form_of, group_norm_silu
    from scoresde_fast.kernels.launch import Form
    from triton.runtime import driver

    from benchmarks.visit.prepare import Driver

    form_of.cache_clear()
    x = torch.empty(2, channels, size, size, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    weight, residual = torch.empty(channels), torch.empty_like(x) if join else None
    arguments = (x, weight, weight, min(channels // 4, 32), 1e-6, None, residual, 1.0, True, "none", ())
    if by == "triton":
        monkeypatch.setattr(Form, "launch", lambda form, programs, *tensors: form._launch_by_triton(programs, tensors))
    driver.set_active(Driver())
    benchmark(lambda: group_norm_silu(*arguments))
