# SPDX-License-Identifier: Apache-2.0
"""Rehearsal of a GPU visit without a GPU: python -m benchmarks.visit.rehearse [--prepare]

Checks that kernels precompiled by `benchmarks.visit.prepare` are found, then runs all items on tiny tensors, in a copy
of the tracked files and an environment with only the packages of the GPU machine. ``--prepare`` instead makes the
complete folder build/gpu/prepared for a visit. Exit status: 0 success, 1 a step failed or the output is too long.
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
PACKAGES = [
    "torch==2.11.0", "triton==3.6.0", "numpy", "scipy", "safetensors", "huggingface-hub", "pillow", "scikit-learn",
    "matplotlib", "jinja2", "lazy_loader", "tqdm", "pytest", "cmake", "ninja", "pybind11",
]  # fmt: skip
"""The packages of the GPU machine: neither tyro nor torch-fidelity."""
PYTHON = "3.12"
CHARACTERS = 6000
"""Maximum length of the visit's output."""


def environment() -> Path:
    """Create an environment with `PACKAGES` if necessary, and return its interpreter."""
    python = BUILD / "venv" / "bin" / "python"
    installed = BUILD / "packages.json"
    if not installed.exists() or json.loads(installed.read_text()) != PACKAGES:
        subprocess.run([interpreter(PYTHON), "-m", "venv", BUILD / "venv"], check=True)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *PACKAGES], check=True)
        installed.write_text(json.dumps(PACKAGES))
    return python


def run(python: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the copied sources in the environment; print and return its output."""
    variables = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    clean = {name: value for name, value in variables.items() if not name.startswith(("PYTHON", "TRITON", "SCORESDE"))}
    done = subprocess.run(
        [str(python), *command], cwd=BUILD / "source", env=clean, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    return done


def rehearse(python: Path) -> str | None:
    """Run the rehearsal; return why it failed, or None."""
    prepared = run(python, "-m", "benchmarks.visit.prepare", "--quick")
    if prepared.returncode:
        return "benchmarks.visit.prepare failed"
    done = run(python, "benchmarks/gpu.py", "--rehearse", "--seconds", "900", "--out", "rehearsal.json")
    results = json.loads((BUILD / "source" / "rehearsal.json").read_text())["items"]
    if missing := [item.name for item in ITEMS if item.name not in results]:
        return f"these items have no results: {', '.join(missing)}"
    if len(done.stdout) > CHARACTERS:
        return f"the output has {len(done.stdout)} characters; at most {CHARACTERS} are allowed"
    return "an item failed" if done.returncode else None


def main() -> int:
    """Rehearse or prepare, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="make the folder build/gpu/prepared for a visit")
    options = parser.parse_args()
    python = environment()
    copy_sources(BUILD / "source")
    begin = time.perf_counter()
    if options.prepare:
        failure = "benchmarks.visit.prepare failed" if run(python, "-m", "benchmarks.visit.prepare").returncode else ""
        target = ROOT / "build" / "gpu" / "prepared"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(BUILD / "source" / "build" / "gpu" / "prepared", target)
    else:
        failure = rehearse(python) or ""
    print(f"{failure or 'success'}, after {time.perf_counter() - begin:.0f} s")
    return int(bool(failure))


if __name__ == "__main__":
    sys.exit(main())
