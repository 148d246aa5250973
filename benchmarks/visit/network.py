# SPDX-License-Identifier: Apache-2.0
"""GPU times of a whole network, of sampling and of the probability flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.studies.flow import divergence_cost, rk45_against_scipy
from benchmarks.studies.network_profile import KINDS, kind_of, times_by_name
from benchmarks.visit import common
from benchmarks.visit.common import peak
from benchmarks.visit.report import Report
from scoresde_fast.bench.timing import gpu_seconds, race, replay_seconds, synchronise
from scoresde_fast.bench.variants import VARIANTS, Run
from scoresde_fast.bench.workload import Workload
from scoresde_fast.devices import Precision, arithmetic
from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.loop.program import Pattern
from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.sampler import Sampler

CAPTURED, COMPILED = "ours: folded, captured bf16", "ours: folded, compiled, captured bf16"
TF32, FLOAT32, AUTOCAST = "eager TF32", "eager float32", "autocast bf16, channels_last"
REDUCE_OVERHEAD = "torch.compile reduce-overhead bf16"
MAX_AUTOTUNE, WITH_FUSED_FIR = "torch.compile max-autotune bf16", "torch.compile max-autotune bf16, fused FIR"
KERNELS = 30
"""Number of kernels listed, slowest first."""
EXACT: tuple[Precision, ...] = ("tf32", "fp32")
"""Precisions in which SciPy's loop and ours use the same arithmetic."""


def captured(report: Report) -> None:
    """Measure the folded, captured network: its share of the matmul peak and of a run's time, and its kernels."""
    _forward(report, compile=False)


def compiled(report: Report) -> None:
    """Measure the same network, also compiled."""
    _forward(report, compile=True)


def _forward(report: Report, *, compile: bool) -> None:
    workload = _workload(common.sizes.batch)
    options: dict[str, Any] = {"precision": "bf16", "compile": compile, "capture": True}
    sampler = Sampler(workload.model, **workload.sampler_options(), **options)
    sampler.sample(workload.seeds)
    runs: dict[str, Run] = {"run": lambda: sampler.sample(workload.seeds)}
    wall = median(race(runs, workload.device, common.sizes.seconds / 2)["run"])
    variant = "compiled" if compile else "uncompiled"
    report.figure(f"images/s at {workload.nfe} evaluations, {variant}", workload.batch / wall)

    with torch.inference_mode(), arithmetic("bf16", workload.device):
        # Inference tensors, as in the run: other tensors would trigger a recompilation.
        x = torch.rand(workload.batch, *workload.model.state_shape, device=workload.device)
        row = torch.zeros(1, dtype=torch.int64, device=workload.device)
        loop = _captured_loop(sampler, workload)
        network = gpu_seconds({"network": lambda: loop.loop.evaluate(x, row)}, rounds=common.sizes.rounds)["network"]
    report.figure(f"evaluation ms, {variant}", 1e3 * network)
    report.target("matmul share", workload.gflop / 1e3 / network / peak(report), variant)
    report.target("outside the network", 1 - network * workload.nfe / wall, variant)

    with torch.inference_mode():  # the loop's registers are inference tensors
        _replays(report, loop, workload, wall, variant)


def _captured_loop(sampler: Sampler, workload: Workload) -> CapturedLoop:
    assert isinstance(sampler.runner, TableRunner)
    loop = sampler.runner.prepare(workload.batch)
    assert isinstance(loop, CapturedLoop), "the loop could not be captured"
    return loop


def _replays(report: Report, loop: CapturedLoop, workload: Workload, wall: float, variant: str) -> None:
    """Report the wall-clock time over the time of all replays, and the kernels of the most frequent pattern."""

    def replay(pattern: Pattern) -> None:
        loop.registers.counter.zero_()  # replays advance the counter, which must stay inside the table
        loop.replays[pattern]()

    replays: dict[str, Callable[[], Any]] = {
        str(index): partial(replay, phase.pattern) for index, phase in enumerate(loop.phases)
    }
    seconds = replay_seconds(replays, rounds=common.sizes.rounds)
    total = sum(seconds[str(index)] * phase.repeats for index, phase in enumerate(loop.phases))
    report.target("wall over replays", wall / total, variant)
    frequent = max(loop.phases, key=lambda phase: phase.repeats).pattern
    _profile(report, partial(replay, frequent), sum(kind.evaluates for kind in frequent), workload.device)


def _profile(report: Report, replay: Callable[[], Any], evaluations: int, device: torch.device) -> None:
    """Report the kernels of a replay, in milliseconds per evaluation."""
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
    """Compare sampling with eager PyTorch at equal NFE, each at its best batch size."""
    best: dict[str, float] = {}
    for batch in common.sizes.eager_batches:
        rates = _rates(report, (TF32, FLOAT32, AUTOCAST, CAPTURED), batch)
        best = {name: max(rate, best.get(name, 0.0)) for name, rate in rates.items()}
        for name in (TF32, FLOAT32):
            report.target(f"against {name}", best[CAPTURED] / best[name])
        report.figure(f"against {AUTOCAST}", best[CAPTURED] / best[AUTOCAST])


def latency(report: Report) -> None:
    """Compare small batches with eager PyTorch."""
    for batch in common.sizes.latencies:
        rates = _rates(report, (TF32, CAPTURED), batch)
        report.target("latency against eager TF32", rates[CAPTURED] / rates[TF32], f"batch {batch}")


def against_reduce_overhead(report: Report) -> None:
    """Compare small batches with torch.compile and its CUDA graphs."""
    for batch in common.sizes.latencies:
        rates = _rates(report, (REDUCE_OVERHEAD, CAPTURED, COMPILED), batch)
        ratio = max(rates[CAPTURED], rates[COMPILED]) / rates[REDUCE_OVERHEAD]
        report.target("latency against reduce-overhead", ratio, f"batch {batch}")


def against_max_autotune(report: Report) -> None:
    """Compare with max-autotune, first with FIR filters that it can fuse, then with filters as grouped convolutions.

    Its coordinate descent is off, because it takes many minutes.
    """
    workload = _workload(common.sizes.batch)
    baselines: list[str] = []
    runs = _prepared((CAPTURED, COMPILED), workload)
    for name in (WITH_FUSED_FIR, MAX_AUTOTUNE):
        baselines.append(name)
        runs |= _prepared((name,), workload)
        rates = _raced(report, runs, workload)
        ours = max(rates[CAPTURED], rates[COMPILED])
        for baseline in baselines:
            report.target("against max-autotune", ours / rates[baseline], baseline)


def batches(report: Report) -> None:
    """Measure images per second at several batch sizes."""
    for batch in common.sizes.batches:
        report.figure(f"images/s, batch {batch}", _rates(report, (CAPTURED,), batch)[CAPTURED])


def divergence(report: Report) -> None:
    """Compare captured evaluations with and without divergence."""
    device, model = torch.device(common.DEVICE), common.sizes.model()
    precisions: tuple[Precision, ...] = ("bf16", *EXACT)
    for precision in precisions:
        measured = divergence_cost(model, common.sizes.batch, min(8, common.sizes.rounds), device, precision)
        report.case(precision, measured)
        report.target("divergence", measured["times_forward"], precision)


def integration(report: Report) -> None:
    """Compare RK45 with SciPy's loop in the same precisions; in bf16 also report how far the results differ."""
    device = torch.device(common.DEVICE)
    for precision in EXACT:
        measured = rk45_against_scipy(common.sizes.flow_model, common.sizes.flow_batch, 2, device, precision)
        report.case(precision, measured)
        report.target("RK45 against SciPy", measured["times_scipy"], precision)
    # SciPy is fastest in TF32. In bf16 the number of evaluations changes, and images differ by the reported difference.
    measured = rk45_against_scipy(common.sizes.flow_model, common.sizes.flow_batch, 1, device, "bf16")
    report.case("bf16", measured)
    report.target("RK45 against SciPy", measured["times_scipy"], "bf16 against TF32")
    report.figure("largest difference of bf16 from SciPy", measured["largest_difference_from_scipy"])


def _workload(batch: int) -> Workload:
    return Workload.of(common.sizes.model(), batch, common.sizes.nfe, torch.device(common.DEVICE))


def _rates(report: Report, names: Iterable[str], batch: int) -> dict[str, float]:
    """Measure variants interleaved and return the images per second of each."""
    workload = _workload(batch)
    return _raced(report, _prepared(names, workload), workload)


def _prepared(names: Iterable[str], workload: Workload) -> dict[str, Run]:
    """Return the runs of variants after a first run, which compiles, tunes and captures."""
    variants = {variant.name: variant for variant in VARIANTS}
    runs = {name: variants[name].build(workload) for name in names}
    for run in runs.values():
        run()
    return runs


def _raced(report: Report, runs: dict[str, Run], workload: Workload) -> dict[str, float]:
    """Measure the runs interleaved and return the images per second of each."""
    readings = race(runs, workload.device, common.sizes.seconds)
    rates = {name: workload.batch / median(taken) for name, taken in readings.items()}
    evaluations = workload.batch / workload.nfe
    milliseconds = {f"{name} ms an evaluation": 1e3 * evaluations / rate for name, rate in rates.items()}
    title = f"batch {workload.batch}, {workload.nfe} evaluations"
    report.case(title, {f"{name} images/s": rate for name, rate in rates.items()} | milliseconds)
    return rates
