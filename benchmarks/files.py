# SPDX-License-Identifier: Apache-2.0
"""The folders of results and documents, and the header that every result carries."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from scoresde_fast.bench.results import provenance, write_rounded

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the command line whose help is a module's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def save(result: dict[str, Any], path: Path) -> None:
    """Write a result with the command, the date, the device and the versions that made it."""
    module = sys.modules["__main__"].__spec__
    command = {"command": shlex.join(["python", "-m", module.name, *sys.argv[1:]])} if module else {}
    write_rounded({**result, **provenance(), **command}, path)
