# SPDX-License-Identifier: Apache-2.0
"""Source files: includes between C++ folders, and length and licence of each file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).resolve().parents[1]

INCLUDES = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "torch": {"core", "cpu", "cuda", "torch"},
    "tests": {"core", "cpu", "cuda", "tests"},
}

CXX_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
HEADERS_AND_SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in CXX_SUFFIXES)
SOURCES = [
    *(ROOT / name for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "Makefile")),
    *HEADERS_AND_SOURCES,
    *(
        path
        for folder in ("scoresde_fast", "kernels", "build_system", "tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ),
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", HEADERS_AND_SOURCES, ids=name)
def test_includes_go_downwards(path: Path) -> None:
    """The core includes only the standard library, kernels include the core, and only csrc/torch includes torch."""
    folder = path.relative_to(ROOT / "csrc").parts[0]
    included = re.findall(r'#include ([<"])([^>"]+)', path.read_text())
    ours = {target.split("/")[0] for mark, target in included if mark == '"'}
    assert ours <= INCLUDES[folder]
    theirs = {target.split("/")[0] for mark, target in included if mark == "<" and "/" in target}
    assert theirs <= {"torch": {"torch"}, "tests": {"pybind11"}}.get(folder, set())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_source_files_are_short_and_licensed(path: Path) -> None:
    """Files have at most 600 lines and the licence in the first line."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 600, f"{name(path)} has {len(lines)} lines"
    assert "SPDX-License-Identifier: Apache-2.0" in lines[0], f"{name(path)} does not begin with the SPDX line"
