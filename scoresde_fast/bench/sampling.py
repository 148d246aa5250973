# SPDX-License-Identifier: Apache-2.0
"""Benchmark of sampling: the speed and the error of each variant on each network, interleaved in one process."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from scoresde_fast.bench.results import (
    BatchLine,
    BatchPoint,
    BatchSeries,
    BenchResult,
    LeftOutVariant,
    MeasuredNetwork,
    MeasuredVariant,
    device_name,
    error_sentence,
    provenance,
    write_result,
)
from scoresde_fast.bench.timing import (
    bfloat16_is_fast,
    highest_rates,
    peak_rates,
    quartiles,
    race,
    synchronise,
    wall_seconds,
)
from scoresde_fast.bench.variants import VARIANTS, Run, Variant
from scoresde_fast.bench.workload import (
    AMOUNTS,
    OTHER_AMOUNTS,
    SERIES,
    Workload,
    measured_model,
    require_names,
)
from scoresde_fast.checkpoints.loading import embedded_names
from scoresde_fast.checkpoints.python_models import is_python_name
from scoresde_fast.devices import usable_device

BATCHES = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256)}
SERIES_NFE = 4
MAX_EMULATED_HALF_GFLOP = 400.0
"""GFLOP above which a 16-bit run takes over 30 s on a CPU without native 16-bit matrix products."""

NOTES = (
    "All variants of a network run in one process, interleaved in an order that rotates; figures are medians.",
    "All variants draw the same noise from this package's generator. It is cheaper than torch.randn, which favours the "
    "baselines.",
    "Networks with random weights have noise levels up to 1, so that images of few steps are not all black and white.",
    "The share of matmul peak counts the operations of the plain network, also for variants that do fewer.",
    "GPU memory is each variant's peak, including weights. It is not measured on a CPU, where the variants share one "
    "process and its allocator reuses freed pages.",
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
        names: embedded models, presets, or models in Python, see `load_model`; by default those of `AMOUNTS`.
        device: name of a PyTorch device.
        batch, nfe: batch size and network evaluations an image; by default those of `AMOUNTS`.
        seconds: time budget of a network's timed rounds, excluding preparation and first runs.
        full: also run variants that take minutes: compiled networks, and 16 bits on a CPU without native support.
        out: output file, rewritten after each network so that an interrupted run keeps its results.

    Raises:
        ValueError: a name is unknown, there is no such device, or a number is out of range.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(f"the time budget is {seconds} seconds; it must be finite and greater than 0")
    require_names(names)
    begin, torch_device = time.perf_counter(), usable_device(device)
    variants = [variant for variant in VARIANTS if torch_device.type in variant.devices]
    rates = [peak_rates(torch_device)]
    print(
        f"{device_name(torch_device)}: {rates[0]['matmul_tflops']:.3g} TFLOP/s in {rates[0]['matmul_dtype']}, "
        f"copy {rates[0]['copy_gb_per_s']:.3g} GB/s",
        flush=True,
    )
    networks: list[MeasuredNetwork] = []
    series: list[BatchSeries] = []
    for name in names or AMOUNTS:
        default_batch, default_nfe = AMOUNTS.get(name, OTHER_AMOUNTS)[torch_device.type]
        workload = Workload.of(
            measured_model(name),
            batch=default_batch if batch is None else batch,
            nfe=default_nfe if nfe is None else nfe,
            device=torch_device,
        )
        print(f"{name}, batch {workload.batch}, {workload.nfe} NFE", flush=True)
        networks.append(measure_network(name, workload, variants, seconds, full=full))
        if name in SERIES[torch_device.type]:
            short = Workload.of(workload.model, workload.batch, SERIES_NFE, torch_device)
            series.append(measure_batches(name, short, variants, seconds, full=full))
        del workload
        torch.cuda.empty_cache()
        rates.append(peak_rates(torch_device))
        highest = highest_rates(rates)
        result = BenchResult(
            title=device_name(torch_device),
            seconds=round(time.perf_counter() - begin, 1),
            **provenance(torch_device),  # with the clocks after the run
            ceilings=highest,
            notes=list(NOTES),
            networks=[_with_shares(network, highest["matmul_tflops"]) for network in networks],
            batches=series,
        )
        if out is not None:
            write_result(result, out)
    if not result.ceilings["steady"]:
        print(
            "warning: peak matmul throughput varied by more than 20 %; another process was probably using this machine"
        )
    return result


def _with_shares(network: MeasuredNetwork, matmul_tflops: float) -> MeasuredNetwork:
    """Return the network with each variant's share of the matmul peak."""
    lines = [
        replace(line, share_of_matmul_peak=line.tflops / matmul_tflops) if isinstance(line, MeasuredVariant) else line
        for line in network.lines
    ]
    return replace(network, lines=lines)


def measure_network(
    name: str, workload: Workload, variants: Sequence[Variant], seconds: float, *, full: bool = False
) -> MeasuredNetwork:
    """Measure each variant on one network; the first variant is the baseline of the others."""
    torch.compiler.reset()  # the recompile limit is shared by all networks
    ready: dict[str, _PreparedVariant] = {}
    left_out: dict[str, LeftOutVariant] = {}
    compiled = name in SERIES[workload.device.type]
    for variant in variants:
        try:
            prepared = _prepare(variant, workload, compiled=compiled, full=full)
        except _LeftOutError as reason:
            left_out[variant.name] = LeftOutVariant(variant.name, variant.what, variant.ours, str(reason))
            print(f"  {variant.name}: {reason}", flush=True)
        else:
            ready[variant.name] = prepared
            print(f"  {variant.name}: {prepared.run_seconds:.2f} s a run", flush=True)
    readings = race({name: prepared.run for name, prepared in ready.items()}, workload.device, seconds)
    times = {name: quartiles(values) for name, values in readings.items()}
    first = next(iter(ready))

    def measured(variant: Variant) -> MeasuredVariant:
        prepared, run_seconds = ready[variant.name], times[variant.name]
        psnr, max_error = image_error(prepared.images, ready[first].images)
        accurate = psnr is None or psnr >= variant.stated_db
        return MeasuredVariant(
            name=variant.name,
            what=variant.what,
            ours=variant.ours,
            images_per_second=workload.batch / run_seconds.median,
            ms_per_nfe=1e3 * run_seconds.median / workload.nfe,
            ms_per_nfe_quartiles=(1e3 * run_seconds.lower / workload.nfe, 1e3 * run_seconds.upper / workload.nfe),
            readings=len(readings[variant.name]),
            seconds_to_first_images=prepared.first_seconds,
            tflops=workload.gflop * workload.nfe / run_seconds.median / 1e3,
            peak_memory_mib=prepared.memory,
            psnr_db=psnr,
            max_error=max_error,
            stated_db=variant.stated_db,
            within_stated=accurate and bool(torch.isfinite(prepared.images).all()),
            against_first=times[first].median / run_seconds.median,
        )

    return MeasuredNetwork(
        name=name,
        weights="embedded" if name in embedded_names() else "own" if is_python_name(name) else "random",
        parameters=sum(parameter.numel() for parameter in workload.model.network.parameters()),
        gflop_per_image=workload.gflop / workload.batch,
        batch=workload.batch,
        nfe=workload.nfe,
        solver={key: str(value) if key == "device" else value for key, value in workload.sampler_options().items()},
        operations=workload.operations,
        lines=[left_out.get(variant.name) or measured(variant) for variant in variants],
    )


def image_error(images: Tensor, reference: Tensor) -> tuple[float | None, float]:
    """Return PSNR in dB (data range 1; None if identical) and the maximum absolute error."""
    difference = (images - reference).double()
    square = float(difference.square().mean())
    return (-10 * math.log10(square) if square else None), float(difference.abs().max())


def measure_batches(
    name: str, workload: Workload, variants: Sequence[Variant], seconds: float, *, full: bool = False
) -> BatchSeries:
    """Measure the variants marked ``series`` at each batch size in `BATCHES`."""
    batches = BATCHES[workload.device.type]
    lines = {variant.name: BatchLine(variant.name, variant.ours, []) for variant in variants if variant.series}
    compiled = workload.device.type == "cuda" and name in embedded_names()

    def medians(workload: Workload) -> dict[str, float]:
        """Return the median seconds of each variant's run; the prepared runs are freed on return."""
        torch.compiler.reset()
        runs = {}
        for variant in variants:
            if variant.series:
                with suppress(_LeftOutError):
                    runs[variant.name] = _prepare(variant, workload, compiled=compiled, full=full).run
        readings = race(runs, workload.device, seconds / len(batches))
        return {label: quartiles(values).median for label, values in readings.items()}

    for batch in batches:
        texts = []
        for label, run_seconds in medians(replace(workload, seeds=tuple(range(batch)))).items():
            point = BatchPoint(batch, 1e3 * run_seconds / workload.nfe, batch / run_seconds)
            lines[label].points.append(point)
            texts.append(f"{label} {point.ms_per_nfe:.2f} ms an NFE")
        print(f"  batch {batch}: {', '.join(texts)}", flush=True)
    return BatchSeries(name, workload.nfe, [line for line in lines.values() if line.points])


@dataclass(frozen=True)
class _PreparedVariant:
    """A variant that has run once.

    Attributes:
        run: runs the whole sampling loop.
        images: images of the first run, on the CPU.
        run_seconds: time of the first run.
        first_seconds: the same including preparation.
        memory: peak GPU memory in MiB; None on a CPU.
    """

    run: Run
    images: Tensor
    run_seconds: float
    first_seconds: float
    memory: float | None


class _LeftOutError(Exception):
    """The reason why a variant is not measured."""


def _prepare(variant: Variant, workload: Workload, *, compiled: bool, full: bool) -> _PreparedVariant:
    """Build a variant and run it once, with a compiler only if ``compiled`` or ``full``.

    Raises:
        _LeftOutError: the variant would take minutes, unless ``full``, or it fails.
    """
    if not full and variant.compiled and not compiled:
        raise _LeftOutError("skipped: compilation takes minutes; use --full")
    slow = variant.half and (variant.compiled or workload.gflop * workload.nfe > MAX_EMULATED_HALF_GFLOP)
    if not full and slow and not bfloat16_is_fast(workload.device):
        raise _LeftOutError("skipped: no native 16-bit matrix products on this CPU, would take minutes; use --full")
    before = _reserved_memory(workload.device)
    begin = time.perf_counter()
    try:
        run = variant.build(workload)
        images: list[Tensor] = []
        run_seconds = wall_seconds(lambda: images.append(run()), workload.device)
        first_seconds = time.perf_counter() - begin
        on_cpu = images.pop().detach().float().cpu()  # before memory is measured
        memory = None if before is None else _run_memory(run, workload.device, before)
        return _PreparedVariant(run, on_cpu, run_seconds, first_seconds, memory)
    except Exception as error:  # a broken variant must not stop the others; Triton's exceptions have no common base
        raise _LeftOutError(error_sentence(error)) from error


def _reserved_memory(device: torch.device) -> int | None:
    """Release unused memory, and return the bytes that PyTorch still reserves on a GPU; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronise(device)
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _run_memory(run: Run, device: torch.device, before: int) -> float:
    """Return the peak GPU memory of a run in MiB above ``before`` bytes: weights, graphs and activations.

    Measures reserved rather than allocated memory, because a graph's private pool counts as free between replays.
    """
    _reserved_memory(device)  # releases the memory of the first run
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronise(device)
    return (torch.cuda.max_memory_reserved(device) - before) / 2**20
