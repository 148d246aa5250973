# SPDX-License-Identifier: Apache-2.0
"""The visit without a GPU: tiny tensors on the CPU, Triton's interpreter, and stand-ins for what only a GPU has.

A captured step runs again in place of its replay, an event is a reading of the clock, and PyTorch's compiler traces
and compiles nothing. Figures from here mean nothing; that they come out at all is what is rehearsed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

Step = Callable[[], Any]
Set = Callable[[Any, str, Any], None]

SHAPES: dict[str, list[tuple[tuple[int, ...], Any]]] = {
    "group_norm_silu": [((32, 4, 4), "shift"), ((16, 8, 8), "")],
    "fir_resample": [((8, 4, 4), "up")],
    "convolution": [((16, 4, 4), (8, 3)), ((8, 4, 4), (16, 1))],
}


class Event:
    """A reading of the clock."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds, and at least one microsecond."""
        return max(1e-3, 1e3 * (end.at - self.at))


class Graph:
    """A graph of which nothing was recorded."""

    def replay(self) -> None:
        pass


class Stream:
    """A stream of the CPU, which has one."""

    def wait_stream(self, other: Stream) -> None:
        pass


class Steps:
    """In place of `scoresde_fast.loop.capture.CudaGraphs`: a step runs again where a graph would be replayed."""

    def __init__(self, device: torch.device) -> None:
        pass

    def warm_up(self, step: Step) -> None:
        step()

    def capture(self, step: Step) -> Step:
        return step


def install(put: Set = setattr) -> None:
    """Put the stand-ins in place with ``put(object, name, value)``, and everything to its small size."""
    import flow
    import gpu_checks
    import gpu_conditions
    import gpu_errors
    import gpu_kernels
    import gpu_network_checks
    import gpu_setting

    from scoresde_fast import devices, precision
    from scoresde_fast.bench import timing
    from scoresde_fast.flow import probability_flow
    from scoresde_fast.loop import capture, table_runner

    put(gpu_errors, "DEVICE", "cpu")
    put(gpu_setting, "now", gpu_setting.SMALL)
    put(gpu_checks, "STATES", {"even": ((2, 4, 4), (1,)), "odd": ((3, 3, 5), (2,))})
    put(timing, "WARM_UP", 1)
    put(timing, "SHORTEST", 0.0)
    put(gpu_checks, "FIELD", 1001)
    put(gpu_checks, "DRAWS", (1, 2, 4000))
    put(gpu_network_checks, "ATTENTION", (((32, 4), 1), ((32, 4), 2)))
    put(gpu_network_checks, "BATCHES", {"NCSN++": (1, 2)})
    put(gpu_conditions, "MODELS", ("digits-vp",))
    put(gpu_conditions, "STEPS", 4)
    put(flow, "TOLERANCE", 0.1)
    put(gpu_kernels, "BATCHES", (2,))
    put(gpu_kernels, "ATTENTION", (32, (4,)))
    put(gpu_kernels, "CONVOLUTIONS", {"NCSN++": (2, (1, 2))})
    put(gpu_kernels, "heaviest_convolutions", lambda *_: SHAPES["convolution"])
    for module in (gpu_kernels, gpu_network_checks):
        put(module, "shapes", lambda operation, *_: {"NCSN++": SHAPES[operation]})
        if hasattr(module, "rotation"):
            put(module, "rotation", lambda make, limit: [make()])

    for name, value in (("Event", Event), ("Stream", Stream), ("CUDAGraph", Graph)):
        put(torch.cuda, name, value)
    for name in ("synchronize", "empty_cache"):
        put(torch.cuda, name, lambda *_: None)
    put(torch.cuda, "current_stream", lambda *_: Stream())
    for name in ("stream", "graph"):
        put(torch.cuda, name, lambda *_, **__: nullcontext())
    compile_ = torch.compile
    put(torch, "compile", lambda f, **options: compile_(f, **_traced(options)))

    put(precision, "LEAST_CAPABILITY", {})
    put(devices, "choose_capture", lambda choice, _: bool(choice))
    put(capture, "CudaGraphs", Steps)
    put(capture, "require_capturable", lambda *_: None)  # a CPU's tensors cannot be told from the host's
    for module in (table_runner, probability_flow):
        put(module, "choose_capture", lambda choice, _: bool(choice))


def _traced(options: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in options.items() if name in ("fullgraph", "dynamic")}
    return {**kept, "backend": "eager"}
