# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for a GPU in a rehearsal: tiny CPU tensors, Triton's interpreter, and fakes of CUDA graphs and events.

A replay of a captured step runs it again, an event records the wall-clock time, and torch.compile only traces. The
figures are meaningless; a rehearsal only shows that every item runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from benchmarks.visit.common import Sizes

Step = Callable[[], Any]
Put = Callable[[Any, str, Any], None]

SHAPES: dict[str, list[tuple[tuple[int, ...], Any]]] = {
    "group_norm_silu": [((32, 4, 4), "shift"), ((16, 8, 8), "")],
    "fir_resample": [((8, 4, 4), "up")],
    "convolution": [((16, 4, 4), (8, 3)), ((8, 4, 4), (16, 1))],
}
"""The (C, H, W) and form of each operation's calls, as in `benchmarks.kernels.shapes`."""

TINY: dict[str, Any] = {
    "data": {"image_size": 8, "centered": False},
    "model": {"name": "ncsnpp", "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
              "resblock_type": "biggan", "fir": True, "progressive": "none", "progressive_input": "residual",
              "progressive_combine": "sum", "scale_by_sigma": True, "embedding_type": "fourier"},
    "training": {"sde": "vesde", "continuous": True},
    "sampling": {"predictor": "reverse_diffusion", "corrector": "langevin"},
}  # fmt: skip
SMALL = Sizes(
    config=TINY,
    batch=2,
    nfe=4,
    batches=(1,),
    latencies=(1,),
    eager_batches=(1, 2),
    flow_batch=2,
    check_batch=2,
    copy_gigabytes=0.001,
    matmul_sizes=(64,),
    state_bytes=2**12,
    step_batch=1,
    rounds=1,
    seconds=0.1,
    derivatives=(("group_norm_silu", (2, 32, 4, 4)), ("fir_resample up", (1, 8, 4, 4))),
)
"""Sizes in a rehearsal."""


class Event:
    """A fake CUDA event: records the wall-clock time."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Return the time to ``end`` in milliseconds, at least a microsecond."""
        return max(1e-3, 1e3 * (end.at - self.at))


class Graph:
    """A fake CUDA graph, whose replay does nothing."""

    def replay(self) -> None:
        pass


class Stream:
    """A fake CUDA stream."""

    def wait_stream(self, other: Stream) -> None:
        pass


class EagerGraphs:
    """A fake of `scoresde_fast.loop.capture.CudaGraphs`: a replay runs the step again."""

    def __init__(self, device: torch.device) -> None:
        pass

    def warm_up(self, step: Step) -> None:
        step()

    def capture(self, step: Step) -> Step:
        return step


def install(put: Put = setattr) -> None:
    """Install the stand-ins and the small sizes with ``put(object, name, value)``."""
    from benchmarks.studies import flow
    from benchmarks.visit import checks, common, kernels, network_checks
    from scoresde_fast import devices
    from scoresde_fast.bench import timing
    from scoresde_fast.flow import probability_flow
    from scoresde_fast.loop import capture, table_runner

    put(common, "DEVICE", "cpu")
    put(common, "sizes", SMALL)
    put(checks, "STATES", {"even": ((2, 4, 4), (1,)), "odd": ((3, 3, 5), (2,))})
    put(timing, "WARM_UP_CALLS", 1)
    put(timing, "MIN_GRAPH_SECONDS", 0.0)
    put(checks, "FIELD", 1001)
    put(checks, "DRAWS", (1, 2, 4000))
    put(network_checks, "ATTENTION", (((32, 4), 1), ((32, 4), 2)))
    put(network_checks, "BATCHES", {"NCSN++": (1, 2)})
    put(checks, "GUIDED_MODELS", ("digits-vp",))
    put(checks, "GUIDED_STEPS", 4)
    put(flow, "TOLERANCE", 0.1)
    put(kernels, "BATCHES", (2,))
    put(kernels, "ATTENTION", (32, (4,)))
    put(kernels, "CONVOLUTIONS", {"NCSN++": (2, (1, 2))})
    put(kernels, "heaviest_convolutions", lambda *_: SHAPES["convolution"])
    for module in (kernels, network_checks):
        put(module, "shapes", lambda operation, *_: {"NCSN++": SHAPES[operation]})
        if hasattr(module, "rotation"):
            put(module, "rotation", lambda make, limit: [make()])  # one set of inputs

    for name, value in (("Event", Event), ("Stream", Stream), ("CUDAGraph", Graph)):
        put(torch.cuda, name, value)
    for name in ("synchronize", "empty_cache"):
        put(torch.cuda, name, lambda *_: None)
    put(torch.cuda, "current_stream", lambda *_: Stream())
    for name in ("stream", "graph"):
        put(torch.cuda, name, lambda *_, **__: nullcontext())
    compile_ = torch.compile
    put(torch, "compile", lambda f, **options: compile_(f, **_tracing_options(options)))

    put(devices, "MIN_CAPABILITY", {})
    put(devices, "choose_capture", lambda choice, _: bool(choice))
    put(capture, "CudaGraphs", EagerGraphs)
    put(capture, "require_capturable", lambda *_: None)  # on a CPU, all tensors are host tensors
    for module in (table_runner, probability_flow):
        put(module, "choose_capture", lambda choice, _: bool(choice))


def _tracing_options(options: dict[str, Any]) -> dict[str, Any]:
    tracing = {name: value for name, value in options.items() if name in ("fullgraph", "dynamic")}
    return {**tracing, "backend": "eager"}
