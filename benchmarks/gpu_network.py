# SPDX-License-Identifier: Apache-2.0
"""Figures of a whole network and of sampling on a GPU: rows 6 to 11 of the targets, on NCSN++ in bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

import gpu_errors
import gpu_setting
import torch
from gpu_limits import peak
from gpu_report import Report
from network_profile import KINDS, kind_of, times_by_name

from scoresde_fast.bench.operations import operations, total_gflop
from scoresde_fast.bench.timing import gpu_seconds, race, replay_seconds, synchronise
from scoresde_fast.bench.variants import VARIANTS, Run
from scoresde_fast.bench.workload import Workload
from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.precision import arithmetic
from scoresde_fast.sampler import Sampler

CAPTURED, COMPILED = "ours: folded, captured bf16", "ours: folded, compiled, captured bf16"
TF32, FLOAT32, AUTOCAST = "eager TF32", "eager float32", "autocast bf16, channels_last"
REDUCE_OVERHEAD = "torch.compile reduce-overhead bf16"
MAX_AUTOTUNE, WITH_FUSED_FIR = "torch.compile max-autotune bf16", "torch.compile max-autotune bf16, fused FIR"
KERNELS = 30
"""Kernels that are listed, those with most time first."""


def captured(report: Report) -> None:
    """Rows 6, 7 and 11 of the folded network, captured; and the kernels of one evaluation."""
    _forward(report, compile=False)


def compiled(report: Report) -> None:
    """The same, compiled too."""
    _forward(report, compile=True)


def _forward(report: Report, *, compile: bool) -> None:
    workload = _workload(gpu_setting.now.batch)
    options: dict[str, Any] = {"precision": "bf16", "compile": compile, "capture": True}
    sampler = Sampler(workload.model, **workload.sampler_options(), **options)
    sampler.sample(workload.seeds)
    runs: dict[str, Run] = {"run": lambda: sampler.sample(workload.seeds)}
    wall = median(race(runs, workload.device, gpu_setting.now.seconds / 2)["run"])
    suffix = ", compiled" if compile else ""
    report.figure(f"images/s at {workload.nfe} evaluations{suffix}", workload.batch / wall)

    gflop = total_gflop(operations(workload.model.network, workload.model.state_shape, workload.batch, torch.bfloat16))
    with torch.inference_mode(), arithmetic("bf16", workload.device):
        # Made in here, or what was compiled for tensors of inference mode would be compiled anew.
        x = torch.rand(workload.batch, *workload.model.state_shape, device=workload.device)
        row = torch.zeros(1, dtype=torch.int64, device=workload.device)
        evaluate = sampler.runner.evaluate
        network = gpu_seconds({"network": lambda: evaluate(x, row)}, rounds=gpu_setting.now.rounds)["network"]
    report.figure(f"evaluation ms{suffix}", 1e3 * network)
    report.figure(f"row 7: share of matmul peak (floor 0.55, goal 0.7){suffix}", gflop / 1e3 / network / peak(report))
    report.figure(f"row 6: not the network (floor 0.02, goal 0.005){suffix}", 1 - network * workload.nfe / wall)

    with torch.inference_mode():  # the loop's registers were made in it
        _replays(report, sampler, workload, wall, suffix)


def _replays(report: Report, sampler: Sampler, workload: Workload, wall: float, suffix: str) -> None:
    """Row 11, and the kernels of the pattern that comes most often."""
    loop = sampler.runner.prepare(workload.batch)
    assert isinstance(loop, CapturedLoop), "the loop could not be captured"
    patterns = list(loop.patterns())
    replays = {str(place): pattern.replay for place, pattern in enumerate(patterns)}
    seconds = replay_seconds(replays, rounds=gpu_setting.now.rounds)
    whole = sum(seconds[str(place)] * pattern.repeats for place, pattern in enumerate(patterns))
    report.figure(f"row 11: wall over replays (floor 1.03, goal 1.005){suffix}", wall / whole)
    longest = max(patterns, key=lambda pattern: pattern.repeats)
    _profile(report, longest.replay, longest.evaluations, workload.device)


def _profile(report: Report, replay: Run, evaluations: int, device: torch.device) -> None:
    """The kernels of a replay, in milliseconds an evaluation."""
    synchronise(device)
    with torch.profiler.profile() as profiler:
        replay()
        synchronise(device)
    times = {name: 1e-3 * time / evaluations for name, time in times_by_name(profiler, device).items()}
    whole = sum(times.values())
    kinds: dict[str, float] = {kind: 0.0 for kind in (*KINDS, "the rest")}
    for name, time in times.items():
        kinds[kind_of(name)] += time
    report.case("ms an evaluation by kind", kinds | {"all": whole})
    slowest = sorted(times.items(), key=lambda item: -item[1])[:KERNELS]
    report.case("ms an evaluation by kernel", {name[:120]: time for name, time in slowest})


def against_eager(report: Report) -> None:
    """Row 8: sampling with as many evaluations, against plain PyTorch at its best batch."""
    best: dict[str, float] = {}
    for batch in gpu_setting.now.eager_batches:
        rates = _rates(report, (TF32, FLOAT32, AUTOCAST, CAPTURED), batch)
        best = {name: max(rate, best.get(name, 0.0)) for name, rate in rates.items()}
        for name, floors in ((TF32, " (floor 4, goal 5.5)"), (FLOAT32, " (floor 9, goal 14)"), (AUTOCAST, "")):
            report.figure(f"row 8: captured against {name}{floors}", best[CAPTURED] / best[name])


def latency(report: Report) -> None:
    """Row 10: at small batches, against plain PyTorch; `against_reduce_overhead` has the rest of it."""
    for batch in gpu_setting.now.latencies:
        rates = _rates(report, (TF32, CAPTURED), batch)
        report.figure(f"row 10: batch {batch} against eager TF32 (floor 8, goal 12)", rates[CAPTURED] / rates[TF32])


def against_reduce_overhead(report: Report) -> None:
    """Row 10: at small batches, against PyTorch's compiler with its own CUDA graphs."""
    for batch in gpu_setting.now.latencies:
        rates = _rates(report, (REDUCE_OVERHEAD, CAPTURED, COMPILED), batch)
        ratio = max(rates[CAPTURED], rates[COMPILED]) / rates[REDUCE_OVERHEAD]
        report.figure(f"row 10: batch {batch} against reduce-overhead (floor 1.3, goal 1.7)", ratio)


def against_max_autotune(report: Report) -> None:
    """Row 9: against PyTorch's compiler at its best, with FIR filters that it fuses, then with grouped convolutions.

    Coordinate descent, which takes many minutes, is off.
    """
    workload = _workload(gpu_setting.now.batch)
    runs, baselines = _made_ready((CAPTURED, COMPILED), workload), list[str]()
    for name in (WITH_FUSED_FIR, MAX_AUTOTUNE):
        baselines.append(name)
        runs |= _made_ready((name,), workload)
        rates = _raced(report, runs, workload)
        ours = max(rates[CAPTURED], rates[COMPILED])
        for baseline in baselines:
            report.figure(f"row 9: against {baseline} (floor 1.3, goal 1.8)", ours / rates[baseline])


def batches(report: Report) -> None:
    """Images a second against the batch."""
    for batch in gpu_setting.now.batches:
        report.figure(f"images/s, batch {batch}", _rates(report, (CAPTURED,), batch)[CAPTURED])


def _workload(batch: int) -> Workload:
    return Workload.of(gpu_setting.now.model(), batch, gpu_setting.now.nfe, torch.device(gpu_errors.DEVICE))


def _rates(report: Report, names: Iterable[str], batch: int) -> dict[str, float]:
    """Images a second of lines of the waterfall, interleaved."""
    workload = _workload(batch)
    return _raced(report, _made_ready(names, workload), workload)


def _made_ready(names: Iterable[str], workload: Workload) -> dict[str, Run]:
    """Lines of the waterfall that have run once: compiled, searched and captured."""
    lines = {line.name: line for line in VARIANTS}
    runs = {name: lines[name].build(workload) for name in names}
    for run in runs.values():
        run()
    return runs


def _raced(report: Report, runs: dict[str, Run], workload: Workload) -> dict[str, float]:
    """Images a second of each."""
    readings = race(runs, workload.device, gpu_setting.now.seconds)
    rates = {name: workload.batch / median(taken) for name, taken in readings.items()}
    evaluations = workload.batch / workload.nfe
    milliseconds = {f"{name} ms an evaluation": 1e3 * evaluations / rate for name, rate in rates.items()}
    title = f"batch {workload.batch}, {workload.nfe} evaluations"
    report.case(title, {f"{name} images/s": rate for name, rate in rates.items()} | milliseconds)
    return rates
