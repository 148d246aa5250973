# SPDX-License-Identifier: Apache-2.0
"""The pages of the committed results: python -m benchmarks.pages [--out build/pages]"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scoresde_fast.bench import report
from scoresde_fast.bench.measured import BenchResult
from scoresde_fast.bench.solvers import page

ROOT = Path(__file__).resolve().parent.parent
PAGES: dict[str, Callable[[Any, Path], None]] = {
    "sampling": lambda found, path: report.write_html(BenchResult.of(found), path),
    "solvers": page.write_html,
}
"""The function that writes a page, by the first word of the result's name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "pages")
    out = parser.parse_args().out
    for kind, write_html in PAGES.items():
        for result in sorted((ROOT / "benchmarks" / "results").glob(f"{kind}-*.json")):
            path = out / f"{result.stem}.html"
            write_html(json.loads(result.read_text()), path)
            print(path)


if __name__ == "__main__":
    main()
