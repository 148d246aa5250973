# SPDX-License-Identifier: Apache-2.0
"""The measured machine: its name, clocks, versions, and the peak speeds that it reaches in the same process."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from scoresde_fast.bench.timing import gpu_seconds, interleaved
from scoresde_fast.environment import command_line, versions

SMI_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu")


def provenance() -> dict[str, Any]:
    """Return the record that accompanies every published figure: command, date, device and versions."""
    return {"command": command_line(), "date": date.today().isoformat(), "device": device_info()}


def device_info() -> dict[str, Any]:
    """Return the device, its present clocks, and the versions."""
    found_versions: dict[str, Any] = versions("torch", "triton")
    info: dict[str, Any] = {
        "cpu": cpu_name(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": found_versions,
    }
    if torch.cuda.is_available():
        found_versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found = torch.cuda.get_device_properties(0)
        info |= {"gpu": found.name, "multiprocessors": found.multi_processor_count, "nvidia-smi": _smi()}
    return info


def device_name(device: torch.device, *, with_threads: bool = True) -> str:
    """Return the device's name for a title; a CPU's has the instruction set and, on request, PyTorch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).name
    threads = torch.get_num_threads()
    count = [f"{threads} thread{'s' * (threads != 1)}"] if with_threads else []
    return ", ".join([cpu_name(), *count, torch.backends.cpu.get_cpu_capability()])


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system does not give a name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _smi() -> dict[str, str] | str:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"absent: {error}"
    return dict(zip(SMI_FIELDS, said.strip().split(", "), strict=False))


def ceilings(device: torch.device) -> dict[str, Any]:
    """Measure the device's peaks: ``copy_gb_per_s``, and ``matmul_tflops`` in ``matmul_dtype``.

    The matrix product is in bfloat16 on a GPU and in float32 on a CPU, on all of PyTorch's threads.
    """
    if device.type == "cuda":
        dtype, peak, copy = torch.bfloat16, matmul_peak(device=device), copy_bandwidth(device=device)
    else:
        dtype, peak = torch.float32, matmul_peak((1024, 2048), torch.float32, device)
        copy = copy_bandwidth(0.25, device)
    return {"copy_gb_per_s": copy, "matmul_tflops": peak, "matmul_dtype": str(dtype).removeprefix("torch.")}


def highest(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the highest of several `ceilings` of one run; ``steady`` is False where a peak fell by over a fifth."""
    found = dict(readings[0])
    for key in ("copy_gb_per_s", "matmul_tflops"):
        found[key] = max(reading[key] for reading in readings)
    lowest = min(reading["matmul_tflops"] for reading in readings)
    return found | {"readings": len(readings), "steady": lowest >= 0.8 * found["matmul_tflops"]}


@cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Measure whether the device multiplies bfloat16 matrices at least as fast as float32 ones."""
    if device.type == "cuda":
        return True
    size = (512,)
    return matmul_peak(size, torch.bfloat16, device) >= matmul_peak(size, torch.float32, device)


def copy_bandwidth(gigabytes: float = 2.0, device: torch.device | str = "cuda") -> float:
    """Measure the GB/s of a copy on the device, reads plus writes; a GPU copies at least one GB."""
    on_gpu = torch.device(device).type == "cuda"
    source = torch.ones(int((max(gigabytes, 1.0) if on_gpu else gigabytes) * 1e9) // 4, device=device)
    target = torch.empty_like(source)
    calls = {"copy": lambda: target.copy_(source)}
    seconds = gpu_seconds(calls)["copy"] if on_gpu else interleaved(calls, rounds=5, warm=1)["copy"][1]
    return 2 * source.nbytes / seconds / 1e9


def matmul_peak(
    sizes: Sequence[int] = (4096, 8192, 12288),
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
) -> float:
    """Measure the best TFLOP/s of a square product of random normal matrices over ``sizes``."""
    best = 0.0
    for size in sizes:
        a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        calls: dict[str, Callable[..., Any]] = {"matmul": partial(torch.mm, a, b, out=out)}
        seconds = gpu_seconds(calls)["matmul"] if out.is_cuda else interleaved(calls, rounds=7)["matmul"][1]
        best = max(best, 2 * size**3 / seconds / 1e12)
    return best
