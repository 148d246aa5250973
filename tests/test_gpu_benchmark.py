# SPDX-License-Identifier: Apache-2.0
"""benchmarks/gpu.py without a GPU: what it says, and that every part of it runs, small and on a CPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the parts compare Triton's kernels with others")


@pytest.fixture
def modules(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """gpu_checks and gpu_figures on a CPU: few small shapes, one time reading, nothing compiled."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import gpu_checks
    import gpu_figures

    torch.manual_seed(0)
    monkeypatch.setattr(gpu_checks, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_checks, "STATES", {"odd": ((3, 3, 5), (2,)), "even": ((2, 4, 4), (1,))})
    small = {"group_norm_silu": [((32, 4, 4), "shift"), ((16, 8, 8), "")], "fir_resample": [((8, 4, 4), "up")]}
    small["convolution"] = [((16, 4, 4), (8, 3)), ((8, 4, 4), (16, 1))]
    for module in (gpu_checks, gpu_figures):
        monkeypatch.setattr(module, "shapes", lambda operation, *_: {"NCSN++": small[operation]})
    monkeypatch.setattr(gpu_checks, "BATCHES", {"NCSN++": (1, 2)})
    monkeypatch.setattr(gpu_checks, "ATTENTION", (((32, 4),), (1, 2)))
    monkeypatch.setattr(gpu_figures, "heaviest_convolutions", lambda *_: small["convolution"])
    monkeypatch.setattr(gpu_figures, "CONVOLUTIONS", {"NCSN++": (2, (1, 2))})
    monkeypatch.setattr(gpu_figures, "BATCHES", (2,))
    monkeypatch.setattr(gpu_figures, "ATTENTION_CHANNELS", 32)
    monkeypatch.setattr(gpu_figures, "BYTES", 2**16)
    monkeypatch.setattr(gpu_figures, "STEP_BATCHES", {"256 MB": 2, "CIFAR-10 batch 64": 1})
    monkeypatch.setattr(gpu_figures, "rotation", lambda make, limit: [make()])
    monkeypatch.setattr(gpu_figures, "gpu_seconds", one_reading)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return gpu_checks, gpu_figures


def one_reading(calls: dict[str, Callable[..., Any]], inputs: Any, rounds: int) -> dict[str, float]:
    seconds = {}
    for name, function in calls.items():
        start = time.perf_counter()
        function(*inputs[0])
        seconds[name] = time.perf_counter() - start
    return seconds


def test_without_a_gpu(root: Path) -> None:
    """`--list` names the parts; a run says that there is no GPU and exits with 3."""
    script = [sys.executable, str(root / "benchmarks" / "gpu.py")]
    listed = subprocess.run([*script, "--list"], capture_output=True, text=True)
    assert listed.returncode == 0 and "rows 3-5" in listed.stdout
    if not torch.cuda.is_available():
        ran = subprocess.run(script, capture_output=True, text=True)
        assert ran.returncode == 3 and "needs a GPU and none was found" in ran.stdout


@pytest.mark.parametrize("part", ["steps", "group_norm_silu", "fir", "attention_block", "convolutions"])
def test_checks_run_and_pass(modules: tuple[ModuleType, ModuleType], part: str) -> None:
    """The checks compare every backend that is here, and pass."""
    result = getattr(modules[0], part)()
    assert result["passed"], {label: ratio for label, ratio in result["worst"].items() if ratio > 1}
    assert any("triton" in label for label in result["worst"])


def test_conditions_are_checked(modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """The inference network's gradient is the plain one's, and guided runs agree; runs that do not agree fail."""
    import gpu_conditions

    monkeypatch.setattr(gpu_conditions, "MODELS", ("digits-vp",))
    result = gpu_conditions.conditions()
    assert result["passed"] and result["apart"] == {"digits-vp": 0.0}
    monkeypatch.setattr(gpu_conditions, "captured_apart", lambda *_: 1.0)
    assert not gpu_conditions.conditions()["passed"]


def test_a_wrong_kernel_is_seen(modules: tuple[ModuleType, ModuleType]) -> None:
    """NaN and an error of three times the reference's both fail."""
    errors = modules[0].Errors()
    truth = torch.linspace(1, 2, 8, dtype=torch.float64) + 1e-9
    errors.see("wrong", truth.float() + 1e-5, truth.float(), truth)
    errors.see("nan", torch.full((8,), float("nan")), truth.float(), truth)
    errors.see("right", truth.float(), truth.float(), truth)
    assert not errors.summary()["passed"]
    assert errors.worst["right"] <= 1 < errors.worst["wrong"] and errors.worst["nan"] == float("inf")


@pytest.mark.parametrize("rows", ["norm_rows", "step_rows", "attention_row"])
def test_figures_run(modules: tuple[ModuleType, ModuleType], rows: str) -> None:
    """The measurements go through and report each row's figure."""
    result = getattr(modules[1], rows)(1.0)
    assert result["cases"] and any(key.startswith("row ") for key in result)


def test_figures_of_convolutions(modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tile is checked and measured; what wins at all batches is named in the form of the table it goes into."""
    figures = modules[1]
    chosen = figures._name(figures.convolution_kernels.choose_tile(16, 16, 8, 2, False))
    for faster, named in (("cudnn", []), (chosen, [(16, 16, 8, 3), (16, 8, 16, 1)])):
        monkeypatch.setattr(
            figures,
            "gpu_seconds",
            lambda calls, *_, faster=faster, **__: {name: 2.0 - (name == faster) for name in calls},
        )
        result = figures.convolution_rows(1.0)
        assert result["passed"] and len(result["cases"]) == 4 and not result["left out for time"]
        assert result["FASTER_FUSED"] == named
    monkeypatch.setattr(figures, "CONVOLUTION_SECONDS", -1)
    assert len(figures.convolution_rows(1.0)["left out for time"]) == 2


def test_shapes_of_the_networks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCSN++ for CIFAR-10 calls 95 norms an evaluation, those of its attention blocks included."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from network_shapes import hot_calls

    calls = hot_calls("NCSN++")
    norms = sum(count for (name, _, _), count in calls.items() if name == "group_norm_silu")
    attention = sum(count for (name, _, _), count in calls.items() if name == "group_norm_attention")
    assert norms + attention == 95


def test_heaviest_convolutions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the work of NCSN++ is in 3x3 convolutions of 256 channels at 16x16 and of 128 at 32x32."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from network_shapes import heaviest_convolutions

    assert heaviest_convolutions("NCSN++", 2) == [((256, 16, 16), (256, 3)), ((128, 32, 32), (128, 3))]
