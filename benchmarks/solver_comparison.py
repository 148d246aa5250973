# SPDX-License-Identifier: Apache-2.0
"""The committed comparisons of solvers: python benchmarks/solver_comparison.py [MODELS] [--seconds 1200]

Does what `scoresde-fast bench solvers` does for the embedded models and the mixtures, one after the other, and writes
benchmarks/results/solvers-MODEL.json and .html.  A second call goes on after the last line: quality may be measured
with --timing-seconds 0 beside other work, and the times by the same command without it on a quiet machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

from scoresde_fast.bench.report import require_libraries
from scoresde_fast.bench.solvers.compare import compare
from scoresde_fast.bench.solvers.contender import BUDGETS, Rules
from scoresde_fast.bench.solvers.mixtures import MIXTURES
from scoresde_fast.bench.solvers.page import write_html
from scoresde_fast.memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parent / "results"
MODELS = (*MIXTURES, "digits-vp", "digits-ve", "digits-subvp", "digits-cld")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS, help="embedded models and mixtures (default: all eight)")
    parser.add_argument("--seconds", type=float, help="for each model (default: as many as it takes)")
    parser.add_argument("--timing-seconds", type=float, help="for the times, after all (default: 120 or 30; 0: none)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--samples", type=int, help="of every line (default: 2 000 images or 20 000 numbers)")
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS, help="budgets of network evaluations")
    parser.add_argument("--grids", nargs="+", default=(), help="time grids (default: all)")
    parser.add_argument("--reference-steps", type=int, default=1000, help="of the published sampler")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    chosen = parser.parse_args()
    require_libraries()
    keep_freed_memory()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    rules = Rules(budgets=tuple(chosen.nfe), grids=tuple(chosen.grids), reference_steps=chosen.reference_steps)
    command = "python " + shlex.join(["benchmarks/solver_comparison.py", *sys.argv[1:]])
    for model in chosen.models:
        out = chosen.results / f"solvers-{model}.json"
        limits = {"samples": chosen.samples, "seconds": chosen.seconds, "timing_seconds": chosen.timing_seconds}
        write_html(compare(model, rules, **limits, out=out, command=command), out.with_suffix(".html"))
        print(f"{out} and .html", flush=True)


if __name__ == "__main__":
    main()
