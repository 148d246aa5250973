# SPDX-License-Identifier: Apache-2.0
"""Preparation of a GPU visit without a GPU: python -m benchmarks.visit.prepare [--quick]

Compiles all Triton kernels of the visit into a cache, and builds the extension. Kernels are compiled by calling their
launchers on meta tensors with a fake driver for a GPU of compute capability 9.0. Both results are put into
build/gpu/prepared, the cache as an archive. The cache is valid for the same Triton, Python and kernel sources; with
others, kernels are compiled during the visit.
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
from scoresde_fast.ops.normal import normal, rademacher

CAPABILITY = 90
BATCHES = (1, 4, 16, 64, 256, 512)
NEEDED = (".cubin", ".json")
"""Suffixes of the cached files that are needed to use a kernel."""


class Driver:
    """A fake Triton driver with which Triton compiles kernels but does not launch them."""

    launcher_cls = staticmethod(lambda source, metadata: lambda *arguments: None)
    utils = SimpleNamespace(
        # Handles of the module and the function, registers, spills, and maximum number of threads.
        load_binary=lambda *_: (1, 1, 0, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132},
        unload_module=lambda _: None,
    )

    def get_current_target(self) -> Any:
        """Return the target, a Hopper GPU."""
        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        """Return the first device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0


def install() -> None:
    """Patch launchers to compile only, and the visit's items to run on meta tensors."""
    driver.set_active(Driver())
    run = JITFunction.run
    replaced: tuple[tuple[Any, str, Any], ...] = (
        (JITFunction, "run", lambda self, *args, warmup, **options: run(self, *args, warmup=True, **options)),
        (torch, "compile", lambda function, **_: function),
        (common, "DEVICE", "meta"),
        (common.Errors, "within", lambda *_: None),
        (common.Errors, "report_to", lambda *_: None),
        *((module, "present", launchers) for module in (checks, kernels, network_checks)),
        (kernels, "rotation", lambda make, limit: [make()]),
        (kernels, "gpu_seconds", call_once),
        *((kernels, limit, math.inf) for limit in ("NORM_SECONDS", "CONVOLUTION_SECONDS")),
    )
    for owner, name, value in replaced:
        setattr(owner, name, value)


def launchers(operation: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield an operation's launcher in ``scoresde_fast.kernels``; replaces `common.present`."""
    if operation in operations and "triton" in operations[operation].backends:
        yield "triton", launcher(operation)


def call_once(calls: dict[str, Callable[..., Any]], inputs: Any = ((),), rounds: int = 1) -> dict[str, float]:
    """Call each function once and return one second for each; replaces `gpu_seconds`."""
    for call in calls.values():
        call(*inputs[0])
    return dict.fromkeys(calls, 1.0)


LAUNCHED: set[str] = set()
"""Operations whose launcher was called in this process."""


class CompileAhead(TorchDispatchMode):
    """A mode in which every call of one of our operations, or of its reference, also calls its launcher."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace.startswith("scoresde_fast") and args[0].dtype != torch.float64:
            for _, launch in launchers(function._opname):
                launch(*args)
                LAUNCHED.add(function._opname)
        return function(*args, **(kwargs or {}))


def images(model: Any, batch: int, **options: Any) -> tuple[Any, Any]:
    """Return images (B, C, H, W) and times (B,) on the meta device."""
    x = torch.empty(batch, *model.state_shape, device="meta", **options)
    return x, torch.empty(batch, device="meta")


PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
OF_NETWORK = {"group_norm_silu", "fir_resample", "group_norm_attention", "convolution"}
"""Operations with kernels in the measured network; cuDNN computes most of its convolutions."""


def network(batch: int) -> None:
    """Evaluate the measured network, with one time for all samples and with a time for each sample."""
    model = common.sizes.model().to("meta")
    x, times = images(model, batch)
    row = torch.empty(1, dtype=torch.int64, device="meta")
    with torch.inference_mode(), CompileAhead():
        for precision in PRECISIONS:
            evaluator(model.network, torch.ones(1), precision)(x, row)
            timed_evaluator(model.network, precision)(x, times)
    if missed := OF_NETWORK - LAUNCHED:
        raise SystemExit(f"the network did not call its operations {', '.join(sorted(missed))}")


def flow() -> None:
    """Evaluate the networks of the items "RK45" and "divergence", with tangents."""
    sizes = common.sizes
    for model, batch in ((sizes.model(), sizes.batch), (sf.load(sizes.flow_model), sizes.flow_batch)):
        model.to("meta")
        x, times = images(model, batch)
        for precision in PRECISIONS:
            with torch.no_grad(), forward_ad.dual_level(), CompileAhead():
                evaluate = timed_evaluator(model.network, precision)
                evaluate(x, times)
                evaluate(forward_ad.make_dual(x, torch.empty_like(x)), times)


def conditions() -> None:
    """Evaluate the networks of the item "check conditions", with gradients."""
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
    """Generate the noise of the item "check noise"."""
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
    """Run a job; return its name and the numbers of kernels compiled and found in the cache."""
    counts = build.count_kernels()
    install()
    JOBS[job]()
    return job, counts["compiled"], counts["found"]


def fill_cache(jobs: Iterable[str]) -> tuple[int, int]:
    """Fill the cache with one process per core; return the numbers of kernels compiled and found in the cache."""
    os.environ["TRITON_CACHE_DIR"] = str(build.CACHE)
    os.environ.pop("TRITON_INTERPRET", None)
    compiled, found = 0, 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        for job, new, old in pool.map(run_job, jobs):
            print(f"{job}: {new} compiled, {old} in the cache", flush=True)
            compiled, found = compiled + new, found + old
    return compiled, found


def pack() -> float:
    """Move the needed files of the cache into its archive and return the archive's size in MiB."""
    for path in build.CACHE.glob("*/*"):
        if path.suffix not in NEEDED:
            path.unlink()
    shutil.rmtree(build.PREPARED, ignore_errors=True)
    build.PREPARED.mkdir(parents=True)
    shutil.make_archive(str(build.ARCHIVE).removesuffix(".tar.xz"), "xztar", build.CACHE)
    shutil.rmtree(build.CACHE)
    return build.ARCHIVE.stat().st_size / 2**20


def main() -> int:
    """Fill, pack and test the cache, and build the extension; return 1 if the build failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the network's kernels at batch 1; no extension")
    options = parser.parse_args()
    begin = time.perf_counter()
    shutil.rmtree(build.CACHE, ignore_errors=True)
    build.CACHE.mkdir(parents=True)
    jobs = list(JOBS)[: 1 if options.quick else None]
    new, _ = fill_cache(jobs)
    size = pack()
    print(f"{new} kernels, {size:.1f} MiB, in {time.perf_counter() - begin:.0f} s")
    build.adopt_cache()
    missed, found = fill_cache(jobs[:1])  # another process must find the kernels
    if missed or not found:
        raise SystemExit(f"the unpacked cache lacks {missed} of its kernels and has {found}")
    if options.quick:
        return 0
    failure = build.build(build.PREPARED, [str(CAPABILITY)], 1800)
    print(failure or f"the extension is {build.PREPARED / build.EXTENSION}")
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
