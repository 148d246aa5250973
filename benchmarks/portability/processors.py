# SPDX-License-Identifier: Apache-2.0
"""The numerical tests with the instruction sets of older processors: python -m benchmarks.portability.processors

Limits PyTorch, oneDNN, the BLAS libraries and this package's kernels to the instructions of older processors, one
library at a time and all at once, as far as this processor supports them. Each combination is a row of the
table in docs/portability.md: prints a line for it and saves it in benchmarks/results/portability-PROCESSOR.json. Exit
status 1 if a test fails.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.portability import pytest_runs
from scoresde_fast.bench.results import cpu_name, device_info

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "portability"
TESTS = ("-m", "not slow and not same_everywhere", "-k", "not triton")
"""Selection of tests: without Triton kernels, which Triton's interpreter would run in NumPy."""
AVX2 = frozenset({"avx2", "fma"})
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
AMX = frozenset({"amx_tile", "amx_bf16", "amx_int8"})
LEVELS = {1: frozenset[str](), 3: AVX2, 4: AVX512}
"""Flags of /proc/cpuinfo that the CPU kernels need for each level of x86-64."""
NUMPY_BEYOND_SSE = "AVX512_SPR,AVX512_ICL,X86_V4,AVX512_SKX,X86_V3,AVX2,FMA3"
"""Features beyond SSE among which NumPy's wheels choose at run time."""


@dataclass(frozen=True)
class Row:
    """One run of the tests.

    Attributes:
        name: name of the row: its difference from the default.
        environment: environment variables that limit the libraries.
        level: level of x86-64 for which the CPU kernels are built; None uses the installed extension.
        threads: PyTorch threads in each test process.
        needs: flags of /proc/cpuinfo that the processor must have.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    level: int | None = None
    threads: int = 1
    needs: frozenset[str] = frozenset()


ROWS = (
    Row("as it is"),
    Row("two threads", threads=2),
    Row("PyTorch without AVX2", {"ATEN_CPU_CAPABILITY": "default"}),
    Row("PyTorch with AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}, needs=AVX2),
    Row("PyTorch with AVX-512", {"ATEN_CPU_CAPABILITY": "avx512"}, needs=AVX512),
    Row("oneDNN with AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}, needs=AVX2),
    Row("oneDNN with AVX-512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, needs=AVX512),
    Row("oneDNN with AMX", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, needs=AVX512 | AMX),
    Row("BLAS with AVX2", {"OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}, needs=AVX2),
    Row("BLAS without AVX", {"OPENBLAS_CORETYPE": "Prescott", "MKL_CBWR": "COMPATIBLE"}),
    Row("our kernels for x86-64", level=1),
    Row("our kernels for x86-64-v3", level=3, needs=LEVELS[3]),
    Row("our kernels for x86-64-v4", level=4, needs=LEVELS[4]),
    Row(
        "all without AVX, two threads",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Prescott",
            "MKL_CBWR": "COMPATIBLE",
            "NPY_DISABLE_CPU_FEATURES": NUMPY_BEYOND_SSE,
        },
        level=1,
        threads=2,
    ),
)


@cache
def cpu_flags() -> frozenset[str]:
    """Return the flags of this processor; empty on a system without /proc/cpuinfo."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


def why_not_run(row: Row) -> str | None:
    """Return why this machine cannot run a row, or None."""
    if row.level is not None and not (platform.machine() == "x86_64" and sys.platform == "linux"):
        return "the kernels are not built for levels of x86-64 on this system"
    missing = sorted(row.needs - cpu_flags())
    return f"this processor has no {', '.join(missing)}" if missing else None


def package(folder: Path, definitions: str) -> Path:
    """Return a folder of links to the checkout's files, with an extension built in ``folder`` by these of CMake."""
    links = folder / "package" / "scoresde_fast"
    shutil.rmtree(links.parent, ignore_errors=True)
    links.mkdir(parents=True)
    for name in ("benchmarks", "docs", "examples", "kernels", "pyproject.toml", "tests"):
        (links.parent / name).symlink_to(ROOT / name)
    # As setup.py maps it, kernels is also the package scoresde_fast.kernels.
    for entry in [*(ROOT / "scoresde_fast").iterdir(), ROOT / "kernels"]:
        if entry.name != "__pycache__" and not entry.name.startswith("_C."):
            (links / entry.name).symlink_to(entry)
    settings = {"SCORESDE_FAST_EXT": "require", "CMAKE_ARGS": f"-DSSF_CUDA=OFF {definitions}"}
    build = [sys.executable, "setup.py", "build_ext", f"--build-temp={folder}", f"--build-lib={links.parent}"]
    done = subprocess.run(
        build, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"building the extension with {definitions} failed:\n{done.stdout}")
    return links.parent


def run(row: Row, tests: list[str]) -> dict[str, Any]:
    """Run the tests of a row; return their counts, the names of failed ones, and the seconds."""
    started = time.perf_counter()
    processes = max(1, (os.cpu_count() or 1) // row.threads)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [str(Path(sys.executable).with_name("pytest")), "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *TESTS]
        if processes > 1:
            command += [f"--numprocesses={processes}"]
        # A separate cache, because code that inductor compiled for one instruction set fails with another.
        variables = {"OMP_NUM_THREADS": str(row.threads), "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        # pytest puts the tests' folder first on sys.path; processes started by tests use PYTHONPATH.
        level = row.level
        source = ROOT if level is None else package(BUILD / f"level{level}", f"-DSSF_X86_LEVEL={level}")
        if level is not None:
            variables |= {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}
        environment = {**os.environ, **row.environment, **variables}
        done = subprocess.run(
            [*command, *tests], cwd=source, env=environment, capture_output=True, text=True, check=False
        )
        if not report.is_file():
            raise SystemExit(f"row {row.name!r} did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        counts = pytest_runs.counts(report)
    return {**counts, "seconds": round(time.perf_counter() - started)}


def run_row(row: Row, tests: list[str]) -> dict[str, Any]:
    """Run a row; return its settings and counts, or why this machine cannot run it."""
    settings = " ".join(f"{name}={value}" for name, value in row.environment.items())
    line: dict[str, Any] = {"name": row.name, "settings": settings, "threads": row.threads, "level": row.level}
    if reason := why_not_run(row):
        return {**line, "not_run": reason, "summary": f"{row.name:<32} not run: {reason}"}
    line |= run(row, tests)
    outcome = f"{line['passed']} passed, {line['failed']} failed, {line['seconds']} s"
    return {**line, "summary": f"{row.name:<32} {outcome}"}


def results_file() -> Path:
    """Return the results file, named after the processor and its widest instruction set."""
    sets = {"amx": AMX, "avx512": AVX512, "avx2": AVX2, "baseline": frozenset[str]()}
    widest = next(name for name, needs in sets.items() if needs <= cpu_flags())
    name = "-".join(re.findall(r"[a-z0-9]+", f"{cpu_name()} {widest}".lower()))
    return ROOT / "benchmarks" / "results" / f"portability-{name}.json"


def header() -> dict[str, Any]:
    """Return the command, the device and the processor's flags."""
    return {"command": "make portability", "device": device_info(), "flags": sorted(cpu_flags())}


if __name__ == "__main__":
    sys.exit(pytest_runs.main(__doc__, ROWS, results_file(), run_row, header))
