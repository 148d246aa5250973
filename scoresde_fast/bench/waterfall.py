# SPDX-License-Identifier: Apache-2.0
"""The measurement: every variant on every network, interleaved in one process, with its error beside its speed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from scoresde_fast.bench.machine import bfloat16_is_fast
from scoresde_fast.bench.measured import BatchPoint, BatchSeries, Figures, MeasuredNetwork, MeasuredVariant
from scoresde_fast.bench.networks import COMPILED
from scoresde_fast.bench.operations import operations, total_gflop
from scoresde_fast.bench.timing import quartiles, race, synchronise, wall_seconds
from scoresde_fast.bench.variants import VARIANTS, Run, Variant
from scoresde_fast.bench.workload import Workload
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
    workload: Workload,
    effort: Effort,
    *,
    variants: Sequence[Variant] = VARIANTS,
    say: Say = tell,
) -> MeasuredNetwork:
    """One network's waterfall, the shares of the peak left open; the first variant is what the others refer to."""
    stated = {variant.name: variant for variant in variants}
    network = workload.model.network
    half = workload.device.type == "cuda"
    shares = operations(network, workload.model.state_shape, workload.batch, torch.bfloat16 if half else torch.float32)
    gflop = total_gflop(shares)
    ready = _Ready(workload, effort, gflop * workload.nfe, compiled=name in COMPILED[workload.device.type])
    for variant in variants:
        ready.add(variant)
        say(f"  {variant.name}: {ready.left_out.get(variant.name) or f'{ready.first[variant.name]:.2f} s a run'}")
    timed = race(ready.runs, workload.device, effort.seconds)
    figures = {name: _figures(stated[name], timed[name], ready, gflop) for name in ready.runs}
    first = next(iter(figures.values())).ms_per_nfe
    return MeasuredNetwork(
        name=name,
        weights="embedded" if name in embedded_names() else "random",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflop_per_image=gflop / workload.batch,
        batch=workload.batch,
        nfe=workload.nfe,
        solver={key: str(value) if key == "device" else value for key, value in workload.sampler_options().items()},
        operations=shares,
        variants=[
            MeasuredVariant(variant.name, variant.what, variant.ours, None, ready.left_out.get(variant.name))
            if (found := figures.get(variant.name)) is None
            else MeasuredVariant(
                variant.name, variant.what, variant.ours, replace(found, against_first=first / found.ms_per_nfe)
            )
            for variant in variants
        ],
    )


class _Ready:
    """The lines that run here, made ready and run once; the others with the reason."""

    def __init__(self, workload: Workload, effort: Effort, gflop: float, *, compiled: bool) -> None:
        self.workload, self.effort, self.compiled = workload, effort, compiled
        self.gflop = gflop  # of a run
        self.runs: dict[str, Run] = {}
        self.first: dict[str, float] = {}
        self.images: dict[str, Tensor] = {}
        self.memory: dict[str, float | None] = {}
        self.start: dict[str, float] = {}
        self.left_out: dict[str, str] = {}
        torch.compiler.reset()  # or the compiler gives up on code that it has seen with many networks

    def add(self, variant: Variant) -> None:
        why = self._too_long(variant)
        if why is None:
            before = _reserved(self.workload.device)
            try:
                self._try(variant, before)
                return
            except Exception as error:  # one broken line must not cost the others: Triton's errors have no common type
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.left_out[variant.name] = why
        self.runs.pop(variant.name, None)

    def _try(self, variant: Variant, before: int | None) -> None:
        workload, begin = self.workload, time.perf_counter()
        run = variant.build(workload)
        images: list[Tensor] = []
        self.first[variant.name] = wall_seconds(lambda: images.append(run()), workload.device)
        self.start[variant.name] = time.perf_counter() - begin
        self.images[variant.name] = images.pop().detach().float().cpu()
        self.runs[variant.name] = run
        self.memory[variant.name] = None if before is None else _run_memory(run, workload.device, before)

    def _too_long(self, variant: Variant) -> str | None:
        if self.effort.full:
            return None
        if variant.compiled and not self.compiled:
            return "compiling takes minutes; --full does it"
        if variant.half and (variant.compiled or self.gflop > HALF_GFLOP) and not self._fast_half:
            return "this CPU has no 16-bit matrix instructions, and it would take minutes; --full does it"
        return None

    @cached_property
    def _fast_half(self) -> bool:
        return bfloat16_is_fast(self.workload.device)


def _figures(variant: Variant, readings: list[float], ready: _Ready, gflop: float) -> Figures:
    workload = ready.workload
    lower, seconds, upper = quartiles(readings)
    images = ready.images[variant.name]
    psnr, largest = image_error(images, ready.images[next(iter(ready.images))])
    return Figures(
        images_per_second=workload.batch / seconds,
        ms_per_nfe=1e3 * seconds / workload.nfe,
        ms_per_nfe_quartiles=(1e3 * lower / workload.nfe, 1e3 * upper / workload.nfe),
        readings=len(readings),
        seconds_to_first_images=ready.start[variant.name],
        tflops=gflop * workload.nfe / seconds / 1e3,
        peak_memory_mib=ready.memory[variant.name],
        psnr_db=psnr,
        max_error=largest,
        stated_db=variant.stated_db,
        within_stated=bool(torch.isfinite(images).all()) and (psnr is None or psnr >= variant.stated_db),
    )


def image_error(images: Tensor, truth: Tensor) -> tuple[float | None, float]:
    """(peak signal-to-noise ratio in dB for the data range 1, None where images are equal; largest difference)."""
    difference = (images - truth).double()
    square = float(difference.square().mean())
    return (-10 * math.log10(square) if square else None), float(difference.abs().max())


def measure_batches(
    name: str,
    workload: Workload,
    batches: Sequence[int],
    effort: Effort,
    *,
    variants: Sequence[Variant] = VARIANTS,
    say: Say = tell,
) -> BatchSeries:
    """The variants that are measured against the batch size, at each of ``batches``."""
    series = [variant for variant in variants if variant.series]
    points: dict[str, list[BatchPoint]] = {}
    gflop = total_gflop(operations(workload.model.network, workload.model.state_shape))
    for batch in batches:
        compiled = workload.device.type == "cuda" and name in embedded_names()
        same = replace(workload, seeds=tuple(range(batch)))
        ready = _Ready(same, effort, gflop * batch * workload.nfe, compiled=compiled)
        for variant in series:
            ready.add(variant)
        timed = race(ready.runs, workload.device, effort.seconds / len(batches))
        spoken = []
        for variant_name, readings in timed.items():
            seconds = quartiles(readings)[1]
            point = BatchPoint(batch, 1e3 * seconds / workload.nfe, batch / seconds)
            points.setdefault(variant_name, []).append(point)
            spoken.append(f"{variant_name} {point.ms_per_nfe:.2f} ms an NFE")
        say(f"  batch {batch}: {', '.join(spoken)}")
    return BatchSeries(name, workload.nfe, points, {variant.name: variant.ours for variant in series})


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
