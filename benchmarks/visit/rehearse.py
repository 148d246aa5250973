# SPDX-License-Identifier: Apache-2.0
"""A rehearsal of the visit to a GPU, without one: python -m benchmarks.visit.rehearse [--prepare]

Every item of the visit on tiny tensors, in an environment with only the packages of the GPU machine and in a copy of
the tracked files, after `benchmarks.visit.prepare` has shown that a cache made ahead is found. ``--prepare`` makes the
whole of build/gpu/prepared instead, which a visit takes along. Exit status 1 if an item fails or too much is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.portability.matrix import ROOT, copy_sources, interpreter
from benchmarks.visit.run import ITEMS

BUILD = ROOT / "build" / "rehearsal"
PACKAGES = (
    *("torch==2.11.0", "triton==3.6.0", "numpy", "scipy", "safetensors", "huggingface-hub", "pillow", "scikit-learn"),
    *("matplotlib", "jinja2", "lazy_loader", "tqdm", "pytest", "cmake", "ninja", "pybind11"),
)
"""The packages of the GPU machine: neither tyro nor torch-fidelity."""
PYTHON = "3.12"
CHARACTERS = 6000
"""Limit of the visit's output."""


def environment() -> Path:
    """Return the interpreter of an environment with `PACKAGES`, which the first call makes."""
    python = BUILD / "venv" / "bin" / "python"
    made = BUILD / "packages.json"
    if not made.exists() or json.loads(made.read_text()) != list(PACKAGES):
        subprocess.run([interpreter(PYTHON), "-m", "venv", BUILD / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *PACKAGES], check=True)
        made.write_text(json.dumps(PACKAGES))
    return python


def run(python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the copy in the environment; its output also goes to the terminal."""
    found = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    found = {name: value for name, value in found.items() if not name.startswith(("PYTHON", "TRITON", "SCORESDE"))}
    done = subprocess.run(
        [str(python), *command], cwd=BUILD / "source", env=found, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    return done


def rehearse(python: Path) -> str | None:
    """Run everything; returns the failure, or None."""
    prepared = run(python, "-m", "benchmarks.visit.prepare", "--quick")
    if prepared.returncode:
        return "benchmarks.visit.prepare failed"
    done = run(python, "benchmarks/gpu.py", "--rehearse", "--seconds", "900", "--out", "rehearsal.json")
    results = json.loads((BUILD / "source" / "rehearsal.json").read_text())["items"]
    if missing := [item.name for item in ITEMS if item.name not in results]:
        return f"these items have not reported: {', '.join(missing)}"
    if len(done.stdout) > CHARACTERS:
        return f"{len(done.stdout)} characters were printed, and {CHARACTERS} come back"
    return "an item failed" if done.returncode else None


def main() -> int:
    """Rehearse or prepare; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="make what a visit takes along, in build/gpu/prepared")
    options = parser.parse_args()
    python = environment()
    copy_sources(BUILD / "source")
    begin = time.perf_counter()
    if options.prepare:
        why = "benchmarks.visit.prepare failed" if run(python, "-m", "benchmarks.visit.prepare").returncode else None
        target = ROOT / "build" / "gpu" / "prepared"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(BUILD / "source" / "build" / "gpu" / "prepared", target)
    else:
        why = rehearse(python)
    print(f"{why or 'all went well'}, after {time.perf_counter() - begin:.0f} s")
    return int(why is not None)


if __name__ == "__main__":
    sys.exit(main())
