# SPDX-License-Identifier: Apache-2.0
"""All checks and measurements that need a GPU: python benchmarks/gpu.py [--list] [--only ITEM ...]

Each item of `ITEMS` runs in a separate process with a time limit, and its results are saved at once. The network is
measured first; then the checks against float64 run in parallel, and the other measurements follow. If a check fails,
the figures of its operation are kept and marked. Items that compile for minutes run only if named (``--only``).
`benchmarks.visit.prepare` precompiles kernels without a GPU; ``--rehearse`` runs all items without a GPU, on tiny
tensors. Exit status: 0 success, 1 an item failed, 3 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.visit import build
from benchmarks.visit import report as reports
from benchmarks.visit.build import ROOT

LOGS = ROOT / "build" / "gpu" / "logs"
CHARACTERS = 5500
"""Maximum number of characters printed by all items."""
SECONDS = 400.0
"""Time after which no item is started."""
PATIENCE = 4
"""Factor of an item's time limit in a rehearsal, which runs on a CPU."""
SLOWER = "runs anyway, but more slowly"
"""Text of the warning in an item's log if a network was not compiled or captured."""


@dataclass(frozen=True)
class Item:
    """A part of the visit.

    Attributes:
        name: name for ``--only`` and in the results.
        where: module and function, called as ``function(report)``.
        what: description for ``--list``.
        seconds: time limit; results saved before it are kept.
        checks: items whose failure casts doubt on this item's figures.
        together: whether it may run in parallel with its neighbours; true of items that measure no times.
        later: whether it runs only if named, or in a rehearsal.
    """

    name: str
    where: str
    what: str
    seconds: float
    checks: tuple[str, ...] = ()
    together: bool = False
    later: bool = False


NORM, CONVOLUTION, STEPS = "check norms", "check convolutions", "check steps"
NETWORK = (NORM, CONVOLUTION, "check filters", "check attention", "check network")
ITEMS = (
    Item("device", ".device.device", "versions, clocks, copy bandwidth, peak of the matrix product", 90),
    Item("smoke", ".device.smoke", "every operation on every backend once", 40),
    Item("network", ".network.captured", "NCSN++ captured, uncompiled; its kernels", 60, NETWORK),
    Item("check noise", ".checks.noise", "signs and normals against the CPU's", 120, together=True),
    Item(STEPS, ".checks.steps", "steps, Langevin, projections and Hutchinson's sums", 120, together=True),
    Item(NORM, ".network_checks.norms", "GroupNorm + SiLU and its other results", 120, together=True),
    Item("check filters", ".network_checks.filters", "FIR filters", 120, together=True),
    Item("check attention", ".network_checks.attention", "the attention block", 120, together=True),
    Item(CONVOLUTION, ".network_checks.convolutions", "convolutions, TF32 too", 120, together=True),
    Item("check derivatives", ".network_checks.derivatives", "gradients and tangents", 120, together=True),
    Item("check network", ".network_checks.network", "the folded network, captured, in bf16", 120, together=True),
    Item("check conditions", ".checks.conditions", "guided runs, captured and not", 120, together=True),
    Item("compiled", ".network.compiled", "the same network, compiled", 120, NETWORK),
    Item("eager", ".network.against_eager", "sampling against eager PyTorch in TF32 and float32", 100, NETWORK),
    Item("steps", ".kernels.steps", "step and Langevin kernels: share of copy bandwidth", 40, (STEPS,)),
    Item("norms", ".kernels.norms", "GroupNorm + SiLU: share of copy bandwidth", 60, (NORM,)),
    Item("attention", ".kernels.attention", "the attention block against SDPA", 40, ("check attention",)),
    Item("convolutions", ".kernels.convolutions", "the nine heaviest: cuDNN and our tiles", 60, (CONVOLUTION,)),
    Item("divergence", ".network.divergence", "an evaluation with its divergence against one without", 60, NETWORK),
    Item("RK45", ".network.integration", "RK45 against SciPy's", 60, NETWORK),
    Item("batches", ".network.batches", "images per second at batch 64 and 512", 60, NETWORK),
    Item("latency", ".network.latency", "latency at batch 1, 4 and 16 against eager PyTorch", 45, NETWORK),
    Item("usual search", ".kernels.usual_search", "the same convolutions with cuDNN's default search", 40),
    Item("reduce-overhead", ".network.against_reduce_overhead", "latency against PyTorch's graphs", 200, later=True),
    Item("max-autotune", ".network.against_max_autotune", "against torch.compile", 240, NETWORK, later=True),
)


def run_item(where: str, path: str, log: str, known: dict[str, Any], rehearse: bool) -> None:
    """Run an item in this process, with its output in ``log``."""
    os.setsid()  # so that its child processes can be killed with it
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if rehearse:
        from benchmarks.visit import stand_ins

        stand_ins.install()
    import torch

    torch.manual_seed(0)
    module, _, function = where.rpartition(".")
    with reports.Report(Path(path), known) as report:
        report.results["kernels"] = build.count_kernels()
        getattr(import_module(module, __package__), function)(report)


class Running:
    """A running item."""

    def __init__(self, item: Item, known: dict[str, Any], rehearse: bool) -> None:
        self.item, self._begin = item, time.perf_counter()
        self._seconds = item.seconds * (PATIENCE if rehearse else 1)
        self._path, self._log = (LOGS / f"{item.name}.{suffix}" for suffix in ("json", "log"))
        for path in (self._path, self._log):
            path.unlink(missing_ok=True)
        context = get_context("forkserver")
        context.set_forkserver_preload(["torch", "benchmarks.visit.preload"])
        arguments = (item.where, str(self._path), str(self._log), known, rehearse)
        self._process: BaseProcess = context.Process(target=run_item, args=arguments)
        self._process.start()

    def wait(self) -> dict[str, Any]:
        """Wait for the item, kill it at its time limit, and return its results."""
        remaining = self._seconds - (time.perf_counter() - self._begin)
        self._process.join(max(0.0, remaining))
        results: dict[str, Any] = {}
        stopped = self._process.is_alive()
        if stopped:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
            self._process.join()
        if self._path.exists():
            results = json.loads(self._path.read_text())
        log = self._log.read_text()[-1500:].strip() if self._log.exists() else ""
        results["log"] = log
        if stopped:
            results["error"] = f"stopped after {self._seconds:g} s"
        elif self._process.exitcode:
            results["error"] = f"{log.splitlines()[-1] if log else 'no output'} (exit status {self._process.exitcode})"
        elif SLOWER in log:
            results["error"] = "a network was not compiled or captured, see the log"
        results.setdefault("seconds", round(time.perf_counter() - self._begin, 1))
        return results


def groups(items: Sequence[Item]) -> list[list[Item]]:
    """Return the items in order, in groups that run in parallel."""
    parallel: list[list[Item]] = []
    for item in items:
        if parallel and item.together and parallel[-1][0].together:
            parallel[-1].append(item)
        else:
            parallel.append([item])
    return parallel


def mark_doubts(results: dict[str, Any], items: Sequence[Item]) -> None:
    """Add to each item's results the names of its checks that failed or did not finish."""
    for item in items:
        bad = [name for name in item.checks if name in results and not results[name].get("passed")]
        if bad and item.name in results:
            results[item.name]["doubts"] = bad


def visit(items: Sequence[Item], out: Path, result: dict[str, Any], seconds: float, rehearse: bool) -> bool:
    """Run the items, and after each write ``out`` and print a line; return whether all succeeded."""
    begin, printed, results = time.perf_counter(), 0, result["items"]

    def print_within_limit(text: str) -> None:
        nonlocal printed
        if printed + len(text) < CHARACTERS:
            print(text, flush=True)
        printed += len(text) + 1

    def record(name: str, item_results: dict[str, Any]) -> None:
        results[name] = item_results
        mark_doubts(results, ITEMS)
        result["seconds"] = round(time.perf_counter() - begin, 1)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print_within_limit(reports.summary(name, item_results))

    for group in groups(items):
        if time.perf_counter() - begin > seconds:
            for item in group:
                record(item.name, {"error": f"skipped: more than {seconds:g} s had passed"})
            continue
        known = {key: value for earlier in results.values() for key, value in earlier.get("figures", {}).items()}
        for running in [Running(item, known, rehearse) for item in group]:
            record(running.item.name, running.wait())
    bad = [name for name, each in results.items() if "error" in each or not each.get("passed", True)]
    outcome = f"failed: {', '.join(bad)}" if bad else "all passed"
    print(f"{out} after {result['seconds']} s; {outcome}")
    return not bad


def main() -> int:
    """Run the items of the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list the items and stop")
    parser.add_argument("--only", nargs="+", metavar="ITEM", help="run only these items")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="start no item after this time in seconds")
    parser.add_argument(
        "--out", type=Path, help="the JSON file; default DEVICE-DATE.json in $OUT, or in benchmarks/results"
    )
    parser.add_argument("--rehearse", action="store_true", help="run every item without a GPU, on tiny tensors")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{item.name:<18} {item.seconds:>4g} s  {item.what}" for item in ITEMS))
        return 0
    by_name = {item.name: item for item in ITEMS}
    if unknown := [name for name in options.only or [] if name not in by_name]:
        parser.error(f"there is no item {unknown[0]!r}; choose from: {', '.join(by_name)}")
    gpu = build.gpu_name()
    if gpu is None and not options.rehearse:
        print("benchmarks/gpu.py needs a GPU and none was found; --rehearse runs it without a GPU, on tiny tensors")
        return 3
    chosen = [by_name[name] for name in options.only] if options.only else [i for i in ITEMS if not i.later]
    if options.rehearse and not options.only:
        chosen = list(ITEMS)
    LOGS.mkdir(parents=True, exist_ok=True)
    device = "rehearsal" if options.rehearse else "-".join((gpu or "").lower().split())
    today = date.today().isoformat()
    default = LOGS / "rehearsal.json" if options.rehearse else ROOT / "benchmarks/results" / f"{device}-{today}.json"
    if out_folder := os.environ.get("OUT"):
        default = Path(out_folder) / default.name
    out = options.out or default
    before = json.loads(out.read_text()) if options.only and out.exists() else {}
    result: dict[str, Any] = {
        "command": "python " + shlex.join(["benchmarks/gpu.py", *sys.argv[1:]]),
        "date": today,
        "device": device,
        "build": build.ready(options.rehearse),
        "items": before.get("items", {}),
    }
    print(result["build"], flush=True)
    return int(not visit(chosen, out, result, options.seconds, options.rehearse))


if __name__ == "__main__":
    sys.exit(main())
