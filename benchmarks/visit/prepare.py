# SPDX-License-Identifier: Apache-2.0
"""Makes what a visit to a GPU takes along, without a GPU: python -m benchmarks.visit.prepare [--quick]

Compiles every Triton kernel that `gpu.py` will ask for into a cache, by calling the launchers on tensors without data
while Triton believes in a GPU of compute capability 9.0; and builds the extension. Both lie in build/gpu/prepared, the
cache as an archive. The cache is of use where Triton, Python and the kernels' sources are the same; elsewhere kernels
are compiled anew.
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
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.visit import build
from benchmarks.visit.build import count_kernels

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

CAPABILITY = 90
BATCHES = (1, 4, 16, 64, 256, 512)
NEEDED = (".cubin", ".json")
"""Files of a kernel that its use needs."""


def install() -> None:
    """Let launchers compile and not launch, and put the visit's items on tensors without data."""
    import torch
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from benchmarks.visit import checks, common, kernels, network_checks

    driver.set_active(Driver())
    run = JITFunction.run
    JITFunction.run = lambda self, *args, grid, warmup, **options: run(self, *args, grid=grid, warmup=True, **options)
    torch.compile = lambda function, **_: function
    common.DEVICE = "meta"
    common.Errors.within = lambda *_: None
    common.Errors.tell = lambda *_: None
    for module in (checks, kernels, network_checks):
        module.present = launchers
    kernels.rotation = lambda make, limit: [make()]
    kernels.gpu_seconds = compiled
    kernels.NORM_SECONDS = kernels.CONVOLUTION_SECONDS = math.inf


class Launcher:
    """What would launch a kernel, and does nothing."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        pass


class Utilities:
    """What would load a kernel."""

    def load_binary(self, *arguments: Any) -> tuple[int, int, int, int, int]:
        """Handles of the module and the function; registers, spills, and the most threads."""
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132}

    def unload_module(self, module: int) -> None:
        pass


class Driver:
    """In place of Triton's own."""

    launcher_cls = Launcher
    utils = Utilities()

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def launchers(operation: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """In place of `common.present`: the launcher of ``kernels/OPERATION.py``."""
    import pkgutil

    from scoresde_fast import kernels

    if operation in {module.name for module in pkgutil.iter_modules(kernels.__path__)}:
        found = getattr(import_module(f"scoresde_fast.kernels.{operation}"), operation, None)
        if found is not None:
            yield "triton", found


def compiled(calls: dict[str, Callable[..., Any]], inputs: Any = ((),), rounds: int = 1) -> dict[str, float]:
    """In place of `gpu_seconds`: one call of each, which takes a second."""
    for call in calls.values():
        call(*inputs[0])
    return dict.fromkeys(calls, 1.0)


LAUNCHED: set[str] = set()
"""Operations whose kernels this process has compiled beside them."""


def compile_ahead() -> TorchDispatchMode:
    """A mode in which, beside every operation of ours or its reference, its launcher is called."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class CompileAhead(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.namespace.startswith("scoresde_fast") and args[0].dtype != torch.float64:
                for _, launch in launchers(function._opname):
                    launch(*args)
                    LAUNCHED.add(function._opname)
            return function(*args, **(kwargs or {}))

    return CompileAhead()


def images(model: Any, batch: int, **options: Any) -> tuple[Any, Any]:
    """(B, C, H, W) and (B,) without data."""
    import torch

    x = torch.empty(batch, *model.state_shape, device="meta", **options)
    return x, torch.empty(batch, device="meta")


OF_NETWORK = {"group_norm_silu", "fir_resample", "group_norm_attention", "convolution"}
"""What the measured network consists of; cuDNN has most of its convolutions."""


def network(batch: int) -> None:
    """An evaluation of the measured network, at one time and with a time for each sample."""
    import torch

    from benchmarks.visit import common
    from scoresde_fast.loop.evaluate import evaluator, timed_evaluator

    model = common.now.model().to("meta")
    x, times = images(model, batch)
    row = torch.empty(1, dtype=torch.int64, device="meta")
    with torch.inference_mode(), compile_ahead():
        for precision in ("bf16", "fp32"):
            evaluator(model.network, torch.ones(1), precision)(x, row)
            timed_evaluator(model.network, precision)(x, times)
    if missed := OF_NETWORK - LAUNCHED:
        raise SystemExit(f"the network has called no {' and no '.join(sorted(missed))}, for which it has kernels")


def flow() -> None:
    """What the items "RK45" and "divergence" evaluate: also the network's derivative in a direction."""
    import torch
    from torch.autograd import forward_ad

    import scoresde_fast as sf
    from benchmarks.visit import common
    from scoresde_fast.loop.evaluate import timed_evaluator

    now = common.now
    for model, batch in ((now.model(), now.batch), (sf.load(now.flow_model), now.flow_batch)):
        model.to("meta")
        x, times = images(model, batch)
        for precision in ("bf16", "fp32"):
            with torch.no_grad(), forward_ad.dual_level(), compile_ahead():
                evaluate = timed_evaluator(model.network, precision)
                evaluate(x, times)
                evaluate(forward_ad.make_dual(x, torch.empty_like(x)), times)


def conditions() -> None:
    """What the item "check conditions" evaluates: also the network's gradient."""
    import torch

    import scoresde_fast as sf
    from benchmarks.visit import checks
    from scoresde_fast.loop.evaluate import evaluator

    row = torch.empty(1, dtype=torch.int64, device="meta")
    for name in checks.GUIDED_MODELS:
        model = sf.load(name).to("meta")
        with compile_ahead():
            folded = evaluator(model.network, torch.ones(1), "fp32")
            for batch in checks.GUIDED_BATCHES:
                x, times = images(model, batch, requires_grad=True)
                folded(x, row).sum().backward()
                model.network(x, times).sum().backward()


def noise() -> None:
    """The fields of the item "check noise"."""
    import torch

    from benchmarks.visit import checks

    for samples, elements in ((4, checks.FIELD), checks.DRAWS[1:]):
        ids = torch.empty(samples, dtype=torch.int64, device="meta")
        for _, launch in launchers("normal"):
            for precise in (True, False):
                checks.normal(ids, 0, 0, (elements,), precise=precise, implementation=launch)
        for _, launch in launchers("rademacher"):
            checks.rademacher(ids, 0, 0, (elements,), implementation=launch)


def item(where: str) -> None:
    """An item of the visit."""
    from benchmarks.visit import common
    from benchmarks.visit.report import Report

    module, _, function = where.rpartition(".")
    report = Report(known={common.COPY: 1.0, common.PEAK: 1.0})
    with compile_ahead():
        getattr(import_module(module, __package__), function)(report)


ITEMS = (
    ".kernels.steps",
    ".kernels.norms",
    ".kernels.attention",
    ".kernels.convolutions",
    ".checks.steps",
    ".network_checks.norms",
    ".network_checks.filters",
    ".network_checks.attention",
    ".network_checks.convolutions",
    ".network_checks.derivatives",
)
JOBS: dict[str, Callable[[], None]] = {
    **{f"network, batch {batch}": partial(network, batch) for batch in BATCHES},
    **{work.__name__: work for work in (flow, conditions, noise)},
    **{where: partial(item, where) for where in ITEMS},
}


def run(job: str) -> tuple[str, int, int]:
    """A job in a process of its own: (the job, kernels compiled, kernels found in the cache)."""
    counts = count_kernels()
    install()
    JOBS[job]()
    return job, counts["compiled"], counts["found"]


def fill_cache(jobs: Iterable[str]) -> tuple[int, int]:
    """Fill the cache, a process a core; returns how many kernels were compiled, and found there."""
    os.environ["TRITON_CACHE_DIR"] = str(build.CACHE)
    os.environ.pop("TRITON_INTERPRET", None)
    counts = [0, 0]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:
        for job, new, old in pool.map(run, jobs):
            print(f"{job}: {new} new, {old} there", flush=True)
            counts = [counts[0] + new, counts[1] + old]
    return counts[0], counts[1]


def pack() -> float:
    """Move the cache into its archive, without what only its making needed; returns the archive's MiB."""
    for path in build.CACHE.glob("*/*"):
        if path.suffix not in NEEDED:
            path.unlink()
    shutil.rmtree(build.PREPARED, ignore_errors=True)
    build.PREPARED.mkdir(parents=True)
    shutil.make_archive(str(build.ARCHIVE).removesuffix(".tar.xz"), "xztar", build.CACHE)
    shutil.rmtree(build.CACHE)
    return build.ARCHIVE.stat().st_size / 2**20


def main() -> int:
    """Returns the exit status: 1 where the extension was not built."""
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
