# SPDX-License-Identifier: Apache-2.0
"""The C++ tests and those of the operators under sanitizers: python -m benchmarks.portability.sanitizers

Builds extension and C++ tests with AddressSanitizer and UndefinedBehaviorSanitizer, and runs ctest, the tests of
operations and the fuzzer of the operators. A report of a sanitizer ends its process and this one, with exit status 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.portability.processors import AVX2, ROOT, cpu_flags, package

BUILD = ROOT / "build" / "sanitize"
LEVEL = 3 if cpu_flags() >= AVX2 else 1
"""The level of x86-64 of the kernels: one, because the loader selects among several before the sanitizer is ready."""
CALLS = 10_000
"""Calls of the fuzzer."""
OPTIONS = {
    # Python and PyTorch keep memory until they exit, and PyTorch's own code has no sanitizer.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
BIN = Path(sys.executable).parent


def preloaded() -> str:
    """Return the libraries to load before Python: the sanitizer's, and the C++ library whose exceptions it observes."""
    compiler = os.environ.get("CXX") or "c++"
    found = []
    for library in ("libasan.so", "libstdc++.so"):
        done = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            raise SystemExit(f"{compiler} has no {library}: install GCC and set CXX=g++")
        found.append(str(path))
    return " ".join(found)


def step(title: str, command: list[str], folder: Path, variables: dict[str, str]) -> None:
    """Run one part and print its seconds; raise SystemExit if it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env={**os.environ, **OPTIONS, **variables}, check=False)
    print(f"sanitize: {title}: exit status {done.returncode}, {time.perf_counter() - started:.0f} s", flush=True)
    if done.returncode:
        raise SystemExit(1)


def main() -> None:
    """Build, and run all parts."""
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    libraries = preloaded()
    started = time.perf_counter()
    source = package(BUILD, f"-DSSF_SANITIZE=ON -DSSF_TESTS=ON -DSSF_X86_LEVEL={LEVEL}")
    print(f"sanitize: the extension: {time.perf_counter() - started:.0f} s", flush=True)
    step("the C++ tests", ["cmake", "--build", str(BUILD)], ROOT, path)
    step("ctest", ["ctest", "--test-dir", str(BUILD), "--output-on-failure"], ROOT, path)
    variables = path | {
        "LD_PRELOAD": libraries,
        "PYTHONPATH": str(source),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "2",
    }
    tests = ["-q", "-p", "no:cacheprovider", "-k", "not triton", "tests/ops"]
    step("tests/ops", [sys.executable, "-m", "pytest", *tests], source, variables)
    under_way = BUILD / "fuzzed_call.txt"
    fuzzer = [sys.executable, "-m", "tests.ops.fuzz", str(CALLS), str(under_way)]
    try:
        step("fuzzer", fuzzer, source, variables)
    except SystemExit:
        print(f"sanitize: the call under way was {under_way.read_text(encoding='utf-8')}")
        raise


if __name__ == "__main__":
    main()
