# SPDX-License-Identifier: Apache-2.0
"""The benchmark of sampling: every variant on every network, interleaved in one process, with its error."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scoresde_fast.bench.machine import bfloat16_is_fast, ceilings, device_name, highest, provenance
from scoresde_fast.bench.results import (
    BatchLine,
    BatchPoint,
    BatchSeries,
    BenchResult,
    LeftOutVariant,
    MeasuredNetwork,
    MeasuredVariant,
    error_sentence,
)
from scoresde_fast.bench.timing import quartiles, race, synchronise, wall_seconds
from scoresde_fast.bench.variants import VARIANTS, Run, Variant
from scoresde_fast.bench.workload import (
    AMOUNTS,
    COMPILED,
    OTHERS,
    SERIES,
    Workload,
    measured_model,
    operations,
    require_names,
    total_gflop,
)
from scoresde_fast.checkpoints.loading import embedded_names
from scoresde_fast.devices import usable_device

BATCHES = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256)}
SERIES_NFE = 4
HALF_GFLOP = 400.0
"""10^9 operations of a run that take half a minute in 16 bits on a CPU without 16-bit instructions."""

NOTES = (
    "All variants of a network run in one process, interleaved in an order that rotates; figures are medians.",
    "Every variant draws the same noise from this package's generator, which is cheaper than torch.randn: that favours "
    "the baselines.",
    "Networks with random weights have noise levels up to 1, so that images of few steps are not all black and white.",
    "The share of the matrix product's peak counts the plain network's operations, also where a variant does fewer.",
    "GPU memory is the most that a variant holds, weights included. It is not measured on a CPU: variants share one "
    "process, whose allocator hands freed pages on.",
)


def bench(
    names: Sequence[str] = (),
    *,
    device: str = "cpu",
    batch: int | None = None,
    nfe: int | None = None,
    seconds: float = 20.0,
    full: bool = False,
    out: Path | None = None,
) -> BenchResult:
    """Measure the speed of sampling.

    Args:
        names: embedded models or presets; by default those of `AMOUNTS`.
        device: a device that PyTorch knows.
        batch, nfe: instead of each network's own batch size and number of evaluations.
        seconds: of a network's timed rounds; preparation and first runs come on top.
        full: also measure what takes minutes: compiling every network, 16 bits on a CPU without such instructions.
        out: a file that is written after every network, so that a run that stops early loses little.

    Raises:
        ValueError: a name is unknown, there is no such device, or a number is out of range.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"the budget is {seconds} seconds; it must be a finite number greater than 0")
    require_names(names)
    begin, where = time.perf_counter(), usable_device(device)
    variants = [variant for variant in VARIANTS if where.type in variant.devices]
    peaks = [ceilings(where)]
    print(
        f"{device_name(where)}: {peaks[0]['matmul_tflops']:.3g} TFLOP/s in {peaks[0]['matmul_dtype']}, "
        f"copy {peaks[0]['copy_gb_per_s']:.3g} GB/s",
        flush=True,
    )
    networks: list[MeasuredNetwork] = []
    series: list[BatchSeries] = []
    for name in names or AMOUNTS:
        own_batch, own_nfe = AMOUNTS.get(name, OTHERS)[where.type]
        amount = (own_batch if batch is None else batch, own_nfe if nfe is None else nfe)
        workload = Workload.of(measured_model(name), *amount, where)
        print(f"{name}, batch {workload.batch}, {workload.nfe} NFE", flush=True)
        networks.append(measure_network(name, workload, variants, seconds, full=full))
        if name in SERIES[where.type]:
            short = Workload.of(workload.model, workload.batch, SERIES_NFE, where)
            series.append(measure_batches(name, short, variants, seconds, full=full))
        del workload
        torch.cuda.empty_cache()
        peaks.append(ceilings(where))
        peak, known = highest(peaks), provenance()
        result = BenchResult(
            title=device_name(where),
            command=known["command"],
            date=known["date"],
            seconds=round(time.perf_counter() - begin, 1),
            device={"type": where.type, **known["device"]},
            ceilings=peak,
            notes=list(NOTES),
            networks=[_with_shares(network, peak["matmul_tflops"]) for network in networks],
            batches=series,
        )
        if out is not None:
            result.write(out)
    if not result.ceilings["steady"]:
        print("something else was busy on this machine: the peak of the matrix product changed by more than a fifth")
    return result


def _with_shares(network: MeasuredNetwork, matmul_tflops: float) -> MeasuredNetwork:
    """Return the network with every variant's share of the peak."""
    lines = [
        replace(line, share_of_matmul_peak=line.tflops / matmul_tflops) if isinstance(line, MeasuredVariant) else line
        for line in network.lines
    ]
    return replace(network, lines=lines)


def measure_network(
    name: str, workload: Workload, variants: Sequence[Variant], seconds: float, *, full: bool = False
) -> MeasuredNetwork:
    """Measure each variant on one network; the others are compared with the first."""
    network, device = workload.model.network, workload.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shares = operations(network, workload.model.state_shape, workload.batch, dtype)
    gflop = total_gflop(shares)
    torch.compiler.reset()  # its limit of recompilations counts all networks together
    ready: dict[str, _Prepared] = {}
    left_out: dict[str, LeftOutVariant] = {}
    compiled = name in COMPILED[device.type]
    for variant in variants:
        found = _prepare(variant, workload, gflop * workload.nfe, compiled=compiled, full=full)
        if isinstance(found, _Prepared):
            ready[variant.name] = found
            print(f"  {variant.name}: {found.run_seconds:.2f} s a run", flush=True)
        else:
            left_out[variant.name] = LeftOutVariant(variant.name, variant.what, variant.ours, found)
            print(f"  {variant.name}: {found}", flush=True)
    readings = race({name: found.run for name, found in ready.items()}, device, seconds)
    first = next(iter(ready))
    first_ms = 1e3 * quartiles(readings[first])[1] / workload.nfe
    truth = ready[first].images
    return MeasuredNetwork(
        name=name,
        weights="embedded" if name in embedded_names() else "random",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gflop_per_image=gflop / workload.batch,
        batch=workload.batch,
        nfe=workload.nfe,
        solver={key: str(value) if key == "device" else value for key, value in workload.sampler_options().items()},
        operations=shares,
        lines=[
            left_out.get(variant.name)
            or _figures(variant, workload, ready[variant.name], readings[variant.name], truth, gflop, first_ms)
            for variant in variants
        ],
    )


def _figures(
    variant: Variant,
    workload: Workload,
    ready: _Prepared,
    readings: list[float],
    truth: Tensor,
    gflop: float,
    first_ms: float,
) -> MeasuredVariant:
    lower, seconds, upper = quartiles(readings)
    psnr, largest = image_error(ready.images, truth)
    return MeasuredVariant(
        name=variant.name,
        what=variant.what,
        ours=variant.ours,
        images_per_second=workload.batch / seconds,
        ms_per_nfe=1e3 * seconds / workload.nfe,
        ms_per_nfe_quartiles=(1e3 * lower / workload.nfe, 1e3 * upper / workload.nfe),
        readings=len(readings),
        seconds_to_first_images=ready.first_seconds,
        tflops=gflop * workload.nfe / seconds / 1e3,
        peak_memory_mib=ready.memory,
        psnr_db=psnr,
        max_error=largest,
        stated_db=variant.stated_db,
        within_stated=bool(torch.isfinite(ready.images).all()) and (psnr is None or psnr >= variant.stated_db),
        against_first=first_ms / (1e3 * seconds / workload.nfe),
    )


def image_error(images: Tensor, truth: Tensor) -> tuple[float | None, float]:
    """Return the peak signal-to-noise ratio in dB for the data range 1, None where equal, and the largest error."""
    difference = (images - truth).double()
    square = float(difference.square().mean())
    return (-10 * math.log10(square) if square else None), float(difference.abs().max())


def measure_batches(
    name: str, workload: Workload, variants: Sequence[Variant], seconds: float, *, full: bool = False
) -> BatchSeries:
    """Measure the variants that have a ``series`` at each of `BATCHES`."""
    device = workload.device
    batches = BATCHES[device.type]
    lines = {variant.name: BatchLine(variant.name, variant.ours, []) for variant in variants if variant.series}
    gflop = total_gflop(operations(workload.model.network, workload.model.state_shape))
    compiled = device.type == "cuda" and name in embedded_names()

    def points(batch: int) -> dict[str, BatchPoint]:
        """Measure one batch size; the prepared runs of a large batch do not outlive this function."""
        same = replace(workload, seeds=tuple(range(batch)))
        torch.compiler.reset()
        runs = {}
        for variant in variants:
            if variant.series:
                found = _prepare(variant, same, gflop * batch * workload.nfe, compiled=compiled, full=full)
                if isinstance(found, _Prepared):
                    runs[variant.name] = found.run
        timed = race(runs, device, seconds / len(batches))
        medians = {label: quartiles(readings)[1] for label, readings in timed.items()}
        return {label: BatchPoint(batch, 1e3 * took / workload.nfe, batch / took) for label, took in medians.items()}

    for batch in batches:
        found = points(batch)
        for label, point in found.items():
            lines[label].points.append(point)
        said = (f"{label} {point.ms_per_nfe:.2f} ms an NFE" for label, point in found.items())
        print(f"  batch {batch}: {', '.join(said)}", flush=True)
    return BatchSeries(name, workload.nfe, [line for line in lines.values() if line.points])


@dataclass(frozen=True)
class _Prepared:
    """A variant that has run once.

    Attributes:
        run: the whole sampling loop.
        images: of the first run, on the CPU.
        run_seconds, first_seconds: of the first run alone, and with the preparation.
        memory: peak memory in MiB on a GPU.
    """

    run: Run
    images: Tensor
    run_seconds: float
    first_seconds: float
    memory: float | None


def _prepare(variant: Variant, workload: Workload, gflop: float, *, compiled: bool, full: bool) -> _Prepared | str:
    """Build a variant and run it once, or return the reason why it is left out.

    Args:
        gflop: 10^9 operations of a run.
        compiled: compile variants that need it.
        full: leave out nothing that takes long.
    """
    if not full and variant.compiled and not compiled:
        return "compiling takes minutes; --full does it"
    slow = variant.half and (variant.compiled or gflop > HALF_GFLOP)
    if not full and slow and not bfloat16_is_fast(workload.device):
        return "this CPU has no 16-bit matrix instructions, and it would take minutes; --full does it"
    before = _reserved(workload.device)
    begin = time.perf_counter()
    try:
        run = variant.build(workload)
        images: list[Tensor] = []
        run_seconds = wall_seconds(lambda: images.append(run()), workload.device)
        first_seconds = time.perf_counter() - begin
        on_cpu = images.pop().detach().float().cpu()  # before memory is measured
        memory = None if before is None else _run_memory(run, workload.device, before)
        return _Prepared(run, on_cpu, run_seconds, first_seconds, memory)
    except Exception as error:  # one broken variant must not stop the others; Triton's errors share no type
        return error_sentence(error)


def _reserved(device: torch.device) -> int | None:
    """Return the bytes that PyTorch reserves on a GPU after freed ones are returned; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronise(device)
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _run_memory(run: Run, device: torch.device, before: int) -> float:
    """Return the peak of a run in MiB above ``before``: weights, graphs and activations.

    Reserved, not allocated, memory: the activations of a replayed graph count as free between its replays.
    """
    _reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronise(device)
    return (torch.cuda.max_memory_reserved(device) - before) / 2**20
