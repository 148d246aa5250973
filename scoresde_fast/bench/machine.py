# SPDX-License-Identifier: Apache-2.0
"""The measured machine: its name, clocks and versions, and the peak rates that it reaches in the same process."""

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
    """Return command, date, device and versions, which are stored with each result."""
    return {"command": command_line(), "date": date.today().isoformat(), "device": device_info()}


def device_info() -> dict[str, Any]:
    """Return the CPU, GPU 0 if there is one with its current clocks, and the versions."""
    libraries: dict[str, Any] = versions("torch", "triton")
    info: dict[str, Any] = {
        "cpu": cpu_name(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "versions": libraries,
    }
    if torch.cuda.is_available():
        libraries |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        gpu = torch.cuda.get_device_properties(0)
        info |= {"gpu": gpu.name, "multiprocessors": gpu.multi_processor_count, "nvidia-smi": _smi()}
    return info


def device_name(device: torch.device, *, with_threads: bool = True) -> str:
    """Return the device's name for a title; a CPU's with the instruction set and, by default, the threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).name
    threads = torch.get_num_threads()
    count = [f"{threads} thread{'s' * (threads != 1)}"] if with_threads else []
    return ", ".join([cpu_name(), *count, torch.backends.cpu.get_cpu_capability()])


def cpu_name() -> str:
    """Return the processor's name, or its architecture if the system does not give a name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _smi() -> dict[str, str] | str:
    """Return `SMI_FIELDS` of GPU 0, or why they are unavailable."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"unavailable: {error}"
    return dict(zip(SMI_FIELDS, output.strip().split(", "), strict=False))


def peak_rates(device: torch.device) -> dict[str, Any]:
    """Measure the device's peaks: ``copy_gb_per_s``, and ``matmul_tflops`` in ``matmul_dtype``.

    The matrix product is in bfloat16 on a GPU, and in float32 on a CPU with all of PyTorch's threads.
    """
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    return {
        "copy_gb_per_s": copy_bandwidth(2.0 if on_gpu else 0.25, device),
        "matmul_tflops": matmul_peak((4096, 8192, 12288) if on_gpu else (1024, 2048), dtype, device),
        "matmul_dtype": str(dtype).removeprefix("torch."),
    }


def highest_rates(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the highest of several `peak_rates`; ``steady`` is False if the matmul peak varied by over 20 %."""
    highest = {key: max(reading[key] for reading in readings) for key in ("copy_gb_per_s", "matmul_tflops")}
    lowest = min(reading["matmul_tflops"] for reading in readings)
    steady = lowest >= 0.8 * highest["matmul_tflops"]
    return {**readings[0], **highest, "readings": len(readings), "steady": steady}


@cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices at least as fast as float32 ones; measured on a CPU."""
    if device.type == "cuda":
        return True
    sizes = (512,)
    return matmul_peak(sizes, torch.bfloat16, device) >= matmul_peak(sizes, torch.float32, device)


def copy_bandwidth(gigabytes: float, device: torch.device | str) -> float:
    """Measure the GB/s of a copy on the device, reads plus writes."""
    source = torch.ones(int(gigabytes * 1e9) // 4, device=device)
    target = torch.empty_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), rounds=5, on_gpu=source.is_cuda)
    return 2 * source.nbytes / seconds / 1e9


def matmul_peak(sizes: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> float:
    """Measure the highest TFLOP/s of a product of square random matrices over ``sizes``."""
    best = 0.0
    for size in sizes:
        a, b, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        seconds = _median_seconds(partial(torch.mm, a, b, out=out), rounds=7, on_gpu=out.is_cuda)
        best = max(best, 2 * size**3 / seconds / 1e12)
    return best


def _median_seconds(function: Callable[[], Any], *, rounds: int, on_gpu: bool) -> float:
    """Return the median seconds of a call; ``rounds`` applies to a CPU."""
    calls = {"call": function}
    return gpu_seconds(calls)["call"] if on_gpu else interleaved(calls, rounds)["call"].median
