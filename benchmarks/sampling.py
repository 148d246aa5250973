# SPDX-License-Identifier: Apache-2.0
"""The sampling waterfall on this machine: python benchmarks/sampling.py [--device cuda] [--full] [NAMES]

Writes benchmarks/results/sampling-DEVICE.json and .html; the options are those of `scoresde-fast bench`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from scoresde_fast.bench.machine import device_slug
from scoresde_fast.bench.report import require_libraries, write_html
from scoresde_fast.bench.result import bench, write_json
from scoresde_fast.bench.waterfall import Effort
from scoresde_fast.memory import keep_freed_memory

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="embedded models and presets (default: seven of them)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="for each network's interleaved rounds")
    parser.add_argument("--full", action="store_true", help="also what takes many minutes: compiling every network")
    parser.add_argument(
        "--out", type=Path, help="JSON (default: benchmarks/results/sampling-DEVICE.json); .html beside"
    )
    options = parser.parse_args()
    require_libraries()
    keep_freed_memory()  # for every line alike
    effort = Effort(options.seconds, options.full)
    command = "python " + shlex.join(["benchmarks/sampling.py", *sys.argv[1:]])
    out = options.out or RESULTS / f"sampling-{device_slug(options.device)}.json"
    result = bench(
        options.names, device=options.device, effort=effort, command=command, keep=lambda found: write_json(found, out)
    )
    write_html(result, out.with_suffix(".html"))
    print(f"{out} and .html after {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
