# SPDX-License-Identifier: Apache-2.0
"""A whole benchmark as one result: what was measured, on what, by which command, with which versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scoresde_fast.bench.machine import ceilings, device_name, highest, provenance
from scoresde_fast.bench.measured import BatchSeries, BenchResult, MeasuredNetwork
from scoresde_fast.bench.networks import AMOUNTS, OTHERS, SERIES, measured_model, require_names
from scoresde_fast.bench.variants import VARIANTS, Variant
from scoresde_fast.bench.waterfall import Effort, Say, measure_batches, measure_network, tell
from scoresde_fast.bench.workload import Workload
from scoresde_fast.devices import usable_device

BATCHES = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256)}
SERIES_NFE = 4

NOTES = (
    "All lines of a network run in one process, interleaved in an order that rotates; figures are medians.",
    "Every line draws the same noise from this package's generator, which is cheaper than torch.randn: that favours "
    "the baselines.",
    "Networks with random weights have noise levels up to 1, so that images of few steps are not all black and white.",
    "The share of the matrix product's peak counts the plain network's operations, also where a line does fewer.",
    "GPU memory is what a line holds at its largest, weights included. A CPU's is left out: lines share one process, "
    "whose allocator hands freed pages on.",
)


def bench(
    names: Sequence[str] = (),
    *,
    device: str = "cpu",
    batch: int | None = None,
    nfe: int | None = None,
    effort: Effort | None = None,
    command: str = "",
    variants: Sequence[Variant] = VARIANTS,
    say: Say = tell,
    keep: Callable[[BenchResult], None] = lambda _: None,
) -> BenchResult:
    """Measure networks.

    Args:
        names: embedded models or presets; none: those of `AMOUNTS`.
        device: where.
        batch, nfe: instead of each network's own.
        effort: how much.
        command: what the user wrote.
        variants: what is compared, the first with all others.
        say: hears of progress, a line at a time.
        keep: given the result so far after every network, so that a run that is stopped loses little.

    Raises:
        ValueError: a name is unknown, there is no such device, or an amount is out of range.
    """
    effort = effort or Effort()
    require_names(names)
    begin, where = time.perf_counter(), usable_device(device)
    variants = [variant for variant in variants if where.type in variant.devices]
    limits = [ceilings(where)]
    say(
        f"{device_name(where)}: {limits[0]['matmul_tflops']:.3g} TFLOP/s in {limits[0]['matmul_dtype']}, "
        f"copy {limits[0]['copy_gb_per_s']:.3g} GB/s"
    )
    networks: list[MeasuredNetwork] = []
    series: list[BatchSeries] = []
    for name in names or AMOUNTS:
        own_batch, own_nfe = AMOUNTS.get(name, OTHERS).on(where)
        amount = (own_batch if batch is None else batch, own_nfe if nfe is None else nfe)
        workload = Workload.of(measured_model(name), *amount, where)
        say(f"{name}, batch {workload.batch}, {workload.nfe} NFE")
        networks.append(measure_network(name, workload, effort, variants=variants, say=say))
        if name in SERIES[where.type]:
            short = Workload.of(workload.model, workload.batch, SERIES_NFE, where)
            series.append(measure_batches(name, short, BATCHES[where.type], effort, variants=variants, say=say))
        del workload
        torch.cuda.empty_cache()
        limits.append(ceilings(where))
        result = _result(where, command, time.perf_counter() - begin, highest(limits), networks, series)
        keep(result)
    if not result.ceilings["steady"]:
        say("something else was busy on this machine: the peak of the matrix product changed by more than a fifth")
    return result


def _result(
    where: torch.device,
    command: str,
    seconds: float,
    found: dict[str, Any],
    networks: list[MeasuredNetwork],
    series: list[BatchSeries],
) -> BenchResult:
    known = provenance()
    return BenchResult(
        title=device_name(where),
        command=command or known["command"],
        date=known["date"],
        seconds=round(seconds, 1),
        device={"type": where.type, **known["device"]},
        ceilings=found,
        notes=list(NOTES),
        networks=[network.with_shares(found["matmul_tflops"]) for network in networks],
        batches=list(series),
    )
