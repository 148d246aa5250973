# SPDX-License-Identifier: Apache-2.0
"""What faults do to the package: python benchmarks/faults.py [KIND ...] [--minutes M] [--seed S] [--part P]

Kills writers of sets, damages their files, and gives wild configurations, images, checkpoints, command lines and
operators' arguments to the package, at random but by a seed. Writes benchmarks/results/faults.json, with the first
inputs of each fault, unless it runs for some kinds only. Exit status 1 if there are faults.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process without threads can be forked
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installed package

from benchmarks.files import RESULTS, parser, save
from benchmarks.fuzz.cases import FAULTS, RIGHT, Kind
from benchmarks.fuzz.checkpoints import checkpoints
from benchmarks.fuzz.commands import commands
from benchmarks.fuzz.operators import operators
from benchmarks.fuzz.options import configurations, sampler_options
from benchmarks.fuzz.pictures import wild_images
from benchmarks.fuzz.processes import Result, run_cases
from benchmarks.fuzz.sets import flips, kills

KINDS = [
    Kind("kills", "kills of writers", kills, 80, 0.3, hang_seconds=60),
    Kind("flips", "damaged files of sets", flips, 6000, 0.22, hang_seconds=2),
    Kind("images", "wild files of images", wild_images, 1500, 0.12, 10, cpu_seconds=1, megabytes=200),
    Kind("checkpoints", "wild checkpoints", checkpoints, 500, 0.12, 10, cpu_seconds=5, megabytes=200),
    Kind("configurations", "wild configurations", configurations, 600, 0.08, 5, cpu_seconds=1, megabytes=200),
    Kind("options", "wild options of a sampler", sampler_options, 300, 0.08, 5, cpu_seconds=1, megabytes=200),
    Kind("commands", "wild command lines", commands, 400, 0.2, 20),
    Kind("operators", "wild calls of operators", operators, 500, 0.1, separate=True),
]
EXAMPLES = 3
"""Inputs of a fault that are kept."""


def run(kinds: Sequence[Kind], *, minutes: float, part: float, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Run each kind, with ``part`` of its cases, and return the summaries; each kind has its share of the minutes."""
    start, shares, summaries = time.monotonic(), 0.0, []
    for kind in kinds:
        shares += kind.share / sum(each.share for each in kinds)
        until = start + 60 * minutes * shares
        count, began = ceil(kind.cases * part), time.monotonic()
        results = list(run_cases(kind, count, f"{seed} {kind.name}", folder / kind.name, until=until))
        summaries.append(summary(kind, results, count) | {"seconds": time.monotonic() - began})
        print(row(summaries[-1]), flush=True)
    return summaries


def summary(kind: Kind, results: Sequence[Result], cases: int) -> dict[str, Any]:
    """Return the tries and the faults of a kind: their numbers by verdict and place, and the first inputs of each."""
    causes = defaultdict(list)
    places: dict[str, Counter[str]] = defaultdict(Counter)
    verdicts: Counter[str] = Counter()
    for result in sorted(results, key=lambda result: result.index):
        outcome = result.outcome
        places[result.place]["tries"] += outcome.tries
        if outcome.verdict != RIGHT:
            verdicts[outcome.verdict] += 1
            places[result.place][outcome.verdict] += 1
            what = f"{result.place}: {result.what}" + (f": {outcome.message}" if outcome.message else "")
            causes[outcome.verdict, outcome.cause].append(what)
    return {
        "kind": kind.name,
        "title": kind.title,
        "cases": cases,
        "done": len(results),
        "tries": sum(place["tries"] for place in places.values()),
        "verdicts": {verdict: verdicts[verdict] for verdict in FAULTS},
        "places": {name: dict(places[name]) for name in sorted(places)},
        "faults": [
            {"verdict": verdict, "cause": cause, "count": len(inputs), "inputs": inputs[:EXAMPLES]}
            for (verdict, cause), inputs in sorted(causes.items(), key=lambda fault: -len(fault[1]))
        ],
    }


def row(summary: dict[str, Any]) -> str:
    """Return a line of the table."""
    counts = "".join(f"{summary['verdicts'][verdict]:>12}" for verdict in FAULTS)
    late = (
        "" if summary["done"] == summary["cases"] else f"  ended by the budget, {summary['done']} of {summary['cases']}"
    )
    return f"{summary['title']:<32}{summary['tries']:>8}{counts}{summary['seconds']:>8.0f} s{late}"


def main() -> int:
    """Run the chosen kinds, print the table, write the result and return the exit status."""
    import torch
    import torch._dynamo  # a first import inside a case would count as its time

    arguments = parser(__doc__)
    arguments.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(kind.name for kind in KINDS)}")
    arguments.add_argument("--minutes", type=float, default=10.0, help="limit of the run (default: 10)")
    arguments.add_argument("--part", type=float, help="part of all cases that is tried (default: a tenth per minute)")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the faults")
    arguments.add_argument("--json", type=Path, help=f"output file (default: {RESULTS.name}/faults.json for all kinds)")
    chosen = arguments.parse_args()
    names = chosen.kinds or [kind.name for kind in KINDS]
    if unknown := {*names} - {kind.name for kind in KINDS}:
        arguments.error(f"unknown kind {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    print(f"{'':<32}{'tries':>8}{''.join(f'{verdict:>12}' for verdict in FAULTS)}")
    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind in KINDS if kind.name in names]
        part = chosen.minutes / 10 if chosen.part is None else chosen.part
        summaries = run(kinds, minutes=chosen.minutes, part=part, seed=chosen.seed, folder=Path(folder))
    result = {"minutes": chosen.minutes, "seed": chosen.seed, "verdicts": FAULTS, "kinds": summaries}
    path = chosen.json or (None if chosen.kinds else RESULTS / "faults.json")
    if path:
        save(result, path)
    return int(any(any(summary["verdicts"].values()) for summary in summaries))


if __name__ == "__main__":
    sys.exit(main())
