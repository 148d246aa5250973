# SPDX-License-Identifier: Apache-2.0
"""Installation and tests with the supported versions of Python and torch: python -m benchmarks.portability.matrix

For each row of `ROWS`, copies the tracked files, creates a virtual environment, installs the package as a user would,
and runs the tests except slow ones. The environments stay in build/matrix for the next run. Prints two lines per row
and saves them in benchmarks/results/matrix.json. Exit status 1 if a row fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.portability import pytest_runs

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "matrix"
RESULTS = ROOT / "benchmarks" / "results" / "matrix.json"
LIBRARIES = ("torch", "triton", "numpy", "scipy", "setuptools")
HAS_TRITON = "from importlib.util import find_spec; print(find_spec('triton') is not None)"
# This test compares docs/portability.md with the results, which change while the rows run.
NOT_RUN = "tests/benchmarks/test_portability.py::test_figures_come_from_results"
# Prints the processor, the versions, and whether the extension loads, as JSON.
REPORT = f"""
import json, platform
from importlib import metadata
from scoresde_fast import _extension
from scoresde_fast.bench.results import device_info
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
found = {{"python": platform.python_version(), **{{name: version(name) for name in {LIBRARIES!r}}}}}
print(json.dumps({{"cpu": device_info()["cpu"], "versions": found, "extension": _extension.why_missing or "loaded"}}))
"""


@dataclass(frozen=True)
class Row:
    """One environment.

    Attributes:
        name: name of the row and of its folder.
        python: version of the interpreter, such as "3.12".
        packages: packages installed first: torch.
        triton: the Triton to install if torch does not depend on Triton, like some CPU builds.
        pinned: whether the other packages have the versions of constraints.txt instead of the newest.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    triton: str = "triton==3.6.0"
    pinned: bool = False


ROWS = (
    Row("oldest-python", "3.10", ("torch==2.13.0",), pinned=True),
    Row("gpu-machine", "3.12", ("torch==2.11.0",)),
    Row("newest", "3.13", ("torch",), triton="triton"),
)


def interpreter(version: str) -> str:
    """Return a Python of this version, from PATH or pyenv.

    Raises:
        SystemExit: no Python of that version was found.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(map(str, pyenv.glob(f"{version}.*/bin/python"))), shutil.which(f"python{version}") or ""]
    for candidate in filter(None, candidates):
        done = subprocess.run([candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        if done.stdout.strip() == version:
            return candidate
    raise SystemExit(f"there is no Python {version}: install it, for example with pyenv install {version}")


def copy_sources(target: Path) -> None:
    """Copy the tracked files as they are in the checkout."""
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def run_row(row: Row, tests: Sequence[str]) -> dict[str, Any]:
    """Install and test a row; return the versions, the state of the extension, and the test counts."""
    folder, source = BUILD / row.name, BUILD / row.name / "source"
    copy_sources(source)
    python = str(folder / "venv" / "bin" / "python")
    if not Path(python).exists():
        call([interpreter(row.python), "-m", "venv", folder / "venv"], folder, "venv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if row.pinned:
        pip += ["--constraint", str(ROOT / "constraints.txt")]
    started = time.perf_counter()
    call([*pip, *row.packages], folder, "torch")
    if call([python, "-c", HAS_TRITON], folder, "triton") == "False":
        call([*pip, row.triton], folder, "triton")
    # torch is named again, or pip might change its version for another package.
    call([*pip, *row.packages, "--editable", f"{source}[train,test]"], folder, "install")
    installed = time.perf_counter()
    environment = json.loads(call([python, "-c", REPORT], folder, "report", cwd=folder))
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [str(folder / "venv" / "bin" / "pytest"), "-q", "--numprocesses=2"]
    command += [f"--junitxml={report}", f"--deselect={NOT_RUN}", *tests]
    call(command, folder, "tests", cwd=source, may_fail=True)
    if not report.is_file():
        raise SystemExit(f"the tests of {row.name} did not run: see {folder / 'tests.log'}")
    seconds = {"install": round(installed - started), "tests": round(time.perf_counter() - installed)}
    line = {"name": row.name, **environment, **pytest_runs.counts(report), "seconds": seconds}
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
    outcome = f"{line['passed']} passed, {line['failed']} failed, {line['skipped']} skipped, {seconds} s"
    return {**line, "summary": f"{row.name}: {versions}; extension {line['extension']}\n    {outcome}"}


def call(
    command: Sequence[str | Path], folder: Path, name: str, cwd: Path | None = None, *, may_fail: bool = False
) -> str:
    """Run a command, write its output to ``folder/name.log``, and return the last line of the output.

    Raises:
        SystemExit: the command failed and ``may_fail`` is False.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    log = folder / f"{name}.log"
    log.write_text(done.stdout)
    if done.returncode and not may_fail:
        raise SystemExit(f"{name} of {folder.name} failed: see {log}\n{done.stdout[-2000:]}")
    return (done.stdout.splitlines() or [""])[-1]


if __name__ == "__main__":
    sys.exit(pytest_runs.main(__doc__, ROWS, RESULTS, run_row, lambda: {"command": "make matrix"}))
