# SPDX-License-Identifier: Apache-2.0
"""A whole benchmark as one result: what was measured, on what, by which command, with which versions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from scoresde_fast.bench.job import Job
from scoresde_fast.bench.lines import LINES, Line
from scoresde_fast.bench.machine import ceilings, device_name, highest, provenance
from scoresde_fast.bench.networks import AMOUNTS, OTHERS, SERIES, measured_model, require_names
from scoresde_fast.bench.rounding import rounded
from scoresde_fast.bench.waterfall import Effort, Say, add_shares, measure_batches, measure_network, tell
from scoresde_fast.devices import usable_device
from scoresde_fast.files import make_folder, replacing

BATCHES = {"cpu": (1, 4, 16, 64), "cuda": (1, 4, 16, 64, 256)}
SERIES_NFE = 4

RESULT_KEYS = ("title", "command", "date", "seconds", "device", "ceilings", "notes", "networks", "batches")
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
    lines: Sequence[Line] = LINES,
    say: Say = tell,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure networks: `RESULT_KEYS`.

    Args:
        names: embedded models or presets; none: those of `AMOUNTS`.
        device: where.
        batch, nfe: instead of each network's own.
        effort: how much.
        command: what the user wrote.
        lines: what is compared, the first with all others.
        say: hears of progress, a line at a time.
        keep: given the result so far after every network, so that a run that is stopped loses little.

    Raises:
        ValueError: a name is unknown, there is no such device, or an amount is out of range.
    """
    effort = effort or Effort()
    require_names(names)
    begin, where = time.perf_counter(), usable_device(device)
    lines = [line for line in lines if where.type in line.devices]
    limits = [ceilings(where)]
    say(
        f"{device_name(where)}: {limits[0]['matmul_tflops']:.3g} TFLOP/s in {limits[0]['matmul_dtype']}, "
        f"copy {limits[0]['copy_gb_per_s']:.3g} GB/s"
    )
    networks: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    for name in names or AMOUNTS:
        own_batch, own_nfe = AMOUNTS.get(name, OTHERS).on(where)
        amount = (own_batch if batch is None else batch, own_nfe if nfe is None else nfe)
        job = Job.of(measured_model(name), *amount, where)
        say(f"{name}, batch {job.batch}, {job.nfe} NFE")
        networks.append(measure_network(name, job, effort, lines=lines, say=say))
        if name in SERIES[where.type]:
            short = Job.of(job.model, job.batch, SERIES_NFE, where)
            series.append(measure_batches(name, short, BATCHES[where.type], effort, lines=lines, say=say))
        del job
        torch.cuda.empty_cache()
        limits.append(ceilings(where))
        result = _result(where, command, time.perf_counter() - begin, highest(limits), networks, series)
        keep(result)
    if not result["ceilings"]["steady"]:
        say("something else was busy on this machine: the peak of the matrix product changed by more than a fifth")
    return result


def _result(
    where: torch.device,
    command: str,
    seconds: float,
    found: dict[str, Any],
    networks: list[dict[str, Any]],
    series: list[dict[str, Any]],
) -> dict[str, Any]:
    add_shares(networks, found)
    known = provenance()
    return {
        "title": device_name(where),
        "command": command or known["command"],
        "date": known["date"],
        "seconds": round(seconds, 1),
        "device": {"type": where.type, **known["device"]},
        "ceilings": found,
        "notes": list(NOTES),
        "networks": networks,
        "batches": series,
    }


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write the result, figures rounded to five digits."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write((json.dumps(rounded(result), indent=1) + "\n").encode())
