# SPDX-License-Identifier: Apache-2.0
"""The measurement: every line on every network, interleaved in one process, with its error beside its speed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.bench.job import Job
from scoresde_fast.bench.lines import LINES, Line, Run
from scoresde_fast.bench.machine import bfloat16_is_fast
from scoresde_fast.bench.networks import COMPILED
from scoresde_fast.bench.operations import as_dicts, operations, total_gflop
from scoresde_fast.bench.timing import quartiles, race, synchronise, wall_seconds
from scoresde_fast.checkpoints.loading import embedded_names

HALF_GFLOP = 400.0
"""10^9 operations of a run that a CPU without 16-bit instructions does in half a minute, in 16 bits."""

Say = Callable[[str], None]
tell: Say = partial(print, flush=True)


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        seconds: of a network's timed rounds; making ready and the first run of every line come on top.
        full: also what takes minutes: compiling every network, 16 bits on a CPU without such instructions.
    """

    seconds: float = 20.0
    full: bool = False

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise ValueError(f"the budget is {self.seconds} seconds; it must be a finite number greater than 0")


def measure_network(
    name: str,
    job: Job,
    effort: Effort,
    *,
    lines: Sequence[Line] = LINES,
    say: Say = tell,
) -> dict[str, Any]:
    """One network's waterfall, as JSON holds it: `NETWORK_KEYS`, and for each line `LINE_KEYS` or why it is left out.

    The first line is what errors and speed-ups refer to.  `add_shares` completes the lines.
    """
    network = job.model.network
    half = job.device.type == "cuda"
    shares = operations(network, job.model.state_shape, job.batch, torch.bfloat16 if half else torch.float32)
    gflop = total_gflop(shares)
    ready = _Ready(job, effort, gflop * job.nfe, compiled=name in COMPILED[job.device.type])
    for line in lines:
        ready.add(line)
        say(f"  {line.name}: {ready.left_out.get(line.name) or f'{ready.first[line.name]:.2f} s a run'}")
    timed = race(ready.runs, job.device, effort.seconds)
    measured: dict[str, Any] = {}
    for line in lines:
        if line.name in ready.runs:
            measured[line.name] = _figures(line, timed[line.name], ready, gflop)
    first = next(iter(measured.values()))["ms_per_nfe"]
    for figures in measured.values():
        figures["against_first"] = first / figures["ms_per_nfe"]
    return {
        "name": name,
        "weights": "embedded" if name in embedded_names() else "random",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gflop_per_image": gflop / job.batch,
        "batch": job.batch,
        "nfe": job.nfe,
        "solver": {key: str(value) if key == "device" else value for key, value in job.sampler_options().items()},
        "operations": as_dicts(shares),
        "lines": [
            {"name": line.name, "what": line.what, "ours": line.ours}
            | measured.get(line.name, {"left_out": ready.left_out.get(line.name)})
            for line in lines
        ],
    }


NETWORK_KEYS = ("name", "weights", "parameters", "gflop_per_image", "batch", "nfe", "solver", "operations", "lines")
LINE_KEYS = (
    "images_per_second",
    "ms_per_nfe",
    "ms_per_nfe_quartiles",
    "readings",
    "seconds_to_first_images",
    "tflops",
    "share_of_matmul_peak",
    "peak_memory_mib",
    "psnr_db",
    "max_error",
    "stated_db",
    "within_stated",
    "against_first",
)


class _Ready:
    """The lines that run here, made ready and run once; the others with the reason."""

    def __init__(self, job: Job, effort: Effort, gflop: float, *, compiled: bool) -> None:
        self.job, self.effort, self.compiled = job, effort, compiled
        self.gflop = gflop  # of a run
        self.runs: dict[str, Run] = {}
        self.first: dict[str, float] = {}
        self.images: dict[str, Tensor] = {}
        self.memory: dict[str, float | None] = {}
        self.start: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        torch.compiler.reset()  # or the compiler gives up on code that it has seen with many networks

    def add(self, line: Line) -> None:
        why = line.missing() or self._too_long(line)
        if why is None:
            before = _reserved(self.job.device)
            try:
                self._try(line, before)
                return
            except Exception as error:  # one broken line must not cost the others: Triton's errors have no common type
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.left_out[line.name] = why
        self.runs.pop(line.name, None)

    def _try(self, line: Line, before: int | None) -> None:
        job, begin = self.job, time.perf_counter()
        run = line.build(job)
        images: list[Tensor] = []
        self.first[line.name] = wall_seconds(lambda: images.append(run()), job.device)
        self.start[line.name] = time.perf_counter() - begin
        self.images[line.name] = images.pop().detach().float().cpu()
        self.runs[line.name] = run
        self.memory[line.name] = None if before is None else _run_memory(run, job.device, before)

    def _too_long(self, line: Line) -> str | None:
        if self.effort.full:
            return None
        if line.compiled and not self.compiled:
            return "compiling takes minutes; --full does it"
        if line.half and (line.compiled or self.gflop > HALF_GFLOP) and not self._fast_half:
            return "this CPU has no 16-bit matrix instructions, and it would take minutes; --full does it"
        return None

    @cached_property
    def _fast_half(self) -> bool:
        return bfloat16_is_fast(self.job.device)


def _figures(line: Line, readings: list[float], ready: _Ready, gflop: float) -> dict[str, Any]:
    job = ready.job
    lower, seconds, upper = quartiles(readings)
    truth = ready.images[next(iter(ready.images))]
    psnr, largest = image_error(ready.images[line.name], truth)
    return {
        "images_per_second": job.batch / seconds,
        "ms_per_nfe": 1e3 * seconds / job.nfe,
        "ms_per_nfe_quartiles": [1e3 * lower / job.nfe, 1e3 * upper / job.nfe],
        "readings": len(readings),
        "seconds_to_first_images": ready.start[line.name],
        "tflops": gflop * job.nfe / seconds / 1e3,
        "peak_memory_mib": ready.memory[line.name],
        "psnr_db": psnr,
        "max_error": largest,
        "stated_db": line.stated_db,
        "within_stated": bool(torch.isfinite(ready.images[line.name]).all())
        and (psnr is None or psnr >= line.stated_db),
    }


def add_shares(networks: Sequence[dict[str, Any]], ceilings: dict[str, Any]) -> None:
    """Gives every measured line its share of the matrix product's peak, which is known when all is measured."""
    for line in (line for network in networks for line in network["lines"] if "tflops" in line):
        line["share_of_matmul_peak"] = line["tflops"] / ceilings["matmul_tflops"]


def image_error(images: Tensor, truth: Tensor) -> tuple[float | None, float]:
    """(peak signal-to-noise ratio in dB for the data range 1, None where images are equal; largest difference)."""
    difference = (images - truth).double()
    square = float(difference.square().mean())
    return (-10 * math.log10(square) if square else None), float(difference.abs().max())


def measure_batches(
    name: str,
    job: Job,
    batches: Sequence[int],
    effort: Effort,
    *,
    lines: Sequence[Line] = LINES,
    say: Say = tell,
) -> dict[str, Any]:
    """Milliseconds an evaluation against the batch size: ``{"name", "nfe", "lines": [{"name", "points"}]}``."""
    series = [line for line in lines if line.series]
    points: dict[str, list[dict[str, float]]] = {line.name: [] for line in series}
    gflop = total_gflop(operations(job.model.network, job.model.state_shape))
    for batch in batches:
        compiled = job.device.type == "cuda" and name in embedded_names()
        ready = _Ready(replace(job, seeds=tuple(range(batch))), effort, gflop * batch * job.nfe, compiled=compiled)
        for line in series:
            ready.add(line)
        timed = race(ready.runs, job.device, effort.seconds / len(batches))
        spoken = []
        for line_name, readings in timed.items():
            seconds = quartiles(readings)[1]
            point = {"batch": batch, "ms_per_nfe": 1e3 * seconds / job.nfe, "images_per_second": batch / seconds}
            points[line_name].append(point)
            spoken.append(f"{line_name} {point['ms_per_nfe']:.2f} ms an NFE")
        say(f"  batch {batch}: {', '.join(spoken)}")
    ours = {line.name: line.ours for line in series}
    lines_found = [{"name": key, "ours": ours[key], "points": values} for key, values in points.items() if values]
    return {"name": name, "nfe": job.nfe, "lines": lines_found}


def _reserved(device: torch.device) -> int | None:
    """Bytes that PyTorch holds of a GPU, freed ones given back; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronise(device)
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _run_memory(run: Run, device: torch.device, before: int) -> float:
    """MiB that a line has taken when a run of it is at its largest: weights, graphs and activations.

    What is reserved, not what is allocated: a replayed graph's activations count as free between its replays.
    """
    _reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronise(device)
    return (torch.cuda.max_memory_reserved(device) - before) / 2**20
