# SPDX-License-Identifier: Apache-2.0
"""Preparation of a visit to a GPU, without a GPU: python -m benchmarks.visit.prepare [--quick]

Compiles every Triton kernel that the visit uses into a cache, by calling the launchers on tensors without data while
Triton believes in a GPU of compute capability 9.0; and builds the extension. Both lie in build/gpu/prepared, the cache
as an archive. The cache is used where Triton, Python and the kernels' sources are the same; elsewhere kernels are
compiled anew.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from scoresde_fast.kernels import launcher
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import scoresde_fast as sf
from benchmarks.visit import build, checks, common, kernels, network_checks
from benchmarks.visit.report import Report
from scoresde_fast.devices import Precision
from scoresde_fast.loop.evaluator import evaluator, timed_evaluator
from scoresde_fast.ops import operations
from scoresde_fast.ops.normal import normal
from scoresde_fast.ops.rademacher import rademacher

CAPABILITY = 90
BATCHES = (1, 4, 16, 64, 256, 512)
NEEDED = (".cubin", ".json")
"""The files of a kernel that its use needs."""


class Driver:
    """A stand-in for Triton's driver, with which it compiles for a GPU and launches nothing."""

    launcher_cls = staticmethod(lambda source, metadata: lambda *arguments: None)
    utils = SimpleNamespace(
        # Handles of the module and the function; registers, spills, and the most threads.
        load_binary=lambda *_: (1, 1, 0, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132},
        unload_module=lambda _: None,
    )

    def get_current_target(self) -> Any:
        """Return a Hopper GPU."""
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        """Return the first device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


def install() -> None:
    """Let launchers compile and not launch, and put the visit's items on tensors without data."""
    driver.set_active(Driver())
    run = JITFunction.run
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (JITFunction, "run", lambda self, *args, warmup, **options: run(self, *args, warmup=True, **options)),
        (torch, "compile", lambda function, **_: function),
        (common, "DEVICE", "meta"),
        (common.Errors, "within", lambda *_: None),
        (common.Errors, "tell", lambda *_: None),
        *((module, "present", launchers) for module in (checks, kernels, network_checks)),
        (kernels, "rotation", lambda make, limit: [make()]),
        (kernels, "gpu_seconds", call_once),
        *((kernels, limit, math.inf) for limit in ("NORM_SECONDS", "CONVOLUTION_SECONDS")),
    )
    for owner, name, value in replaced:
        setattr(owner, name, value)


def launchers(operation: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the launcher in ``scoresde_fast.kernels``, in place of `common.present`."""
    if operation in operations and "triton" in operations[operation].backends:
        yield "triton", launcher(operation)


def call_once(calls: dict[str, Callable[..., Any]], inputs: Any = ((),), rounds: int = 1) -> dict[str, float]:
    """Call each once and say that it takes a second, in place of `gpu_seconds`."""
    for call in calls.values():
        call(*inputs[0])
    return dict.fromkeys(calls, 1.0)


LAUNCHED: set[str] = set()
"""Operations whose launcher this process has called."""


class CompileAhead(TorchDispatchMode):
    """A mode that calls the launcher of every operation of ours, or of its reference, beside it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace.startswith("scoresde_fast") and args[0].dtype != torch.float64:
            for _, launch in launchers(function._opname):
                launch(*args)
                LAUNCHED.add(function._opname)
        return function(*args, **(kwargs or {}))


def images(model: Any, batch: int, **options: Any) -> tuple[Any, Any]:
    """Return (B, C, H, W) and (B,) without data."""
    x = torch.empty(batch, *model.state_shape, device="meta", **options)
    return x, torch.empty(batch, device="meta")


PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
OF_NETWORK = {"group_norm_silu", "fir_resample", "group_norm_attention", "convolution"}
"""The kernels of the measured network; cuDNN has most of its convolutions."""


def network(batch: int) -> None:
    """Evaluate the measured network, at one time and with a time for each sample."""
    model = common.now.model().to("meta")
    x, times = images(model, batch)
    row = torch.empty(1, dtype=torch.int64, device="meta")
    with torch.inference_mode(), CompileAhead():
        for precision in PRECISIONS:
            evaluator(model.network, torch.ones(1), precision)(x, row)
            timed_evaluator(model.network, precision)(x, times)
    if missed := OF_NETWORK - LAUNCHED:
        raise SystemExit(f"the network has called no {' and no '.join(sorted(missed))}, for which it has kernels")


def flow() -> None:
    """Evaluate the networks of the items "RK45" and "divergence", and their derivative in a direction."""
    now = common.now
    for model, batch in ((now.model(), now.batch), (sf.load(now.flow_model), now.flow_batch)):
        model.to("meta")
        x, times = images(model, batch)
        for precision in PRECISIONS:
            with torch.no_grad(), forward_ad.dual_level(), CompileAhead():
                evaluate = timed_evaluator(model.network, precision)
                evaluate(x, times)
                evaluate(forward_ad.make_dual(x, torch.empty_like(x)), times)


def conditions() -> None:
    """Evaluate the networks of the item "check conditions", and their gradient."""
    row = torch.empty(1, dtype=torch.int64, device="meta")
    for name in checks.GUIDED_MODELS:
        model = sf.load(name).to("meta")
        with CompileAhead():
            folded = evaluator(model.network, torch.ones(1), "fp32")
            for batch in checks.GUIDED_BATCHES:
                x, times = images(model, batch, requires_grad=True)
                folded(x, row).sum().backward()
                model.network(x, times).sum().backward()


def noise() -> None:
    """Make the fields of the item "check noise"."""
    for samples, elements in ((4, checks.FIELD), checks.DRAWS[1:]):
        ids = torch.empty(samples, dtype=torch.int64, device="meta")
        for _, launch in launchers("normal"):
            for precise in (True, False):
                normal(ids, 0, 0, (elements,), precise=precise, implementation=launch)
        for _, launch in launchers("rademacher"):
            rademacher(ids, 0, 0, (elements,), implementation=launch)


def item(function: Callable[[Report], None]) -> None:
    """Run an item of the visit."""
    with CompileAhead():
        function(Report(known={common.COPY: 1.0, common.PEAK: 1.0}))


ITEMS = (
    kernels.steps, kernels.norms, kernels.attention, kernels.convolutions, checks.steps, network_checks.norms,
    network_checks.filters, network_checks.attention, network_checks.convolutions, network_checks.derivatives,
)  # fmt: skip
JOBS: dict[str, Callable[[], None]] = {
    **{f"network, batch {batch}": partial(network, batch) for batch in BATCHES},
    **{work.__name__: work for work in (flow, conditions, noise)},
    **{f"{work.__module__}.{work.__name__}": partial(item, work) for work in ITEMS},
}


def run_job(job: str) -> tuple[str, int, int]:
    """Run a job in a process of its own; returns it with the kernels compiled, and found in the cache."""
    counts = build.count_kernels()
    install()
    JOBS[job]()
    return job, counts["compiled"], counts["found"]


def fill_cache(jobs: Iterable[str]) -> tuple[int, int]:
    """Fill the cache with a process a core; returns the numbers of kernels compiled, and found there."""
    os.environ["TRITON_CACHE_DIR"] = str(build.CACHE)
    os.environ.pop("TRITON_INTERPRET", None)
    compiled, found = 0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        for job, new, old in pool.map(run_job, jobs):
            print(f"{job}: {new} new, {old} there", flush=True)
            compiled, found = compiled + new, found + old
    return compiled, found


def pack() -> float:
    """Move the needed files of the cache into its archive; returns the archive's MiB."""
    for path in build.CACHE.glob("*/*"):
        if path.suffix not in NEEDED:
            path.unlink()
    shutil.rmtree(build.PREPARED, ignore_errors=True)
    build.PREPARED.mkdir(parents=True)
    shutil.make_archive(str(build.ARCHIVE).removesuffix(".tar.xz"), "xztar", build.CACHE)
    shutil.rmtree(build.CACHE)
    return build.ARCHIVE.stat().st_size / 2**20


def main() -> int:
    """Fill and pack the cache, test it, build the extension; returns 1 if the extension was not built."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network's kernels alone, and no extension")
    options = parser.parse_args()
    begin = time.perf_counter()
    shutil.rmtree(build.CACHE, ignore_errors=True)
    build.CACHE.mkdir(parents=True)
    jobs = list(JOBS)[: 1 if options.quick else None]
    new, _ = fill_cache(jobs)
    size = pack()
    print(f"{new} kernels, {size:.1f} MiB, in {time.perf_counter() - begin:.0f} s")
    build.adopt_cache()
    missed, found = fill_cache(jobs[:1])  # another process finds them
    if missed or not found:
        raise SystemExit(f"Triton's cache misses {missed} kernels that it has just been given, and finds {found}")
    if options.quick:
        return 0
    why = build.build(build.PREPARED, [str(CAPABILITY)], 1800)
    print(why or f"the extension is {build.PREPARED / build.EXTENSION}")
    return int(why is not None)


if __name__ == "__main__":
    sys.exit(main())
