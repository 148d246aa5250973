# SPDX-License-Identifier: Apache-2.0
"""HTML pages of the committed results: python -m benchmarks.pages [--out build/pages]"""

from __future__ import annotations

import argparse
from pathlib import Path

from scoresde_fast.bench.pages import write_html
from scoresde_fast.bench.results import BenchResult, Comparison, read_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS: dict[str, type[BenchResult] | type[Comparison]] = {"sampling": BenchResult, "solvers": Comparison}
"""Types of results, by the first word of the file's name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "pages")
    out = parser.parse_args().out
    for name, kind in RESULTS.items():
        for result in sorted((ROOT / "benchmarks" / "results").glob(f"{name}-*.json")):
            path = out / f"{result.stem}.html"
            write_html(read_result(kind, result), path)
            print(path)


if __name__ == "__main__":
    main()
