# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read from the sources themselves; and what every source file looks like."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scoresde_fast"

# From the lowest to the highest: a layer imports itself and lower ones. A folder is one, unless its files are named.
LAYERS = (
    "errors",
    "run_options",
    "keywords",
    "files",
    "devices",
    "_extension",
    "rng",
    "ops",
    "noise",
    "environment",
    "sdes",
    "solvers",
    "precision",
    "networks",
    "configs",
    "data",
    "model",
    "mixture",
    "classifier",
    "fingerprint",
    "loop.phases",
    "loop.program",
    "loop.condition",
    "loop.guidance",
    "loop.watch",
    "loop.loop",
    "loop.evaluate",
    "loop.capture_safety",
    "loop.fallback",
    "loop.capture",
    "loop.lanes",
    "loop.runner",
    "loop.strict",
    "loop.batch_fit",
    "loop.batches",
    "loop.table_runner",
    "loop",
    "conditions",
    "flow",
    "sampler.options",
    "sampler.sampler",
    "sampler",
    "checkpoints",
    "tasks",
    "generate",
    "training",
    "evaluation",
    "bench",
    "cli",
)
# Layers that know less than everything below them.
ONLY = {
    "rng": {"errors"},
    "ops": {"devices", "errors", "_extension", "rng"},
    "noise": {"errors", "ops", "rng"},
    "sdes": {"errors"},
    "solvers": {"errors", "sdes"},
    "networks": {"errors", "ops", "precision"},
    "configs": {"errors"},
    "data": {"errors"},
    "mixture": {"errors", "sdes", "model"},
    "devices": set(),
    "fingerprint": set(),
    "loop.phases": set(),
    "loop.program": {"errors", "ops", "solvers", "loop.phases"},
    "loop.condition": {"model", "sdes", "solvers"},
    "loop.guidance": {"loop.condition"},
    "loop.watch": {"solvers"},
    "loop.loop": {
        *("errors", "ops", "noise", "loop.condition", "loop.guidance", "loop.phases", "loop.program", "loop.watch"),
    },
    "loop.evaluate": {"networks", "precision"},
    "loop.capture_safety": set(),
    "loop.fallback": set(),
    "loop.capture": {"noise", "loop.capture_safety", "loop.fallback", "loop.loop", "loop.phases", "loop.watch"},
    "loop.lanes": {"errors", "loop.watch"},
    "loop.runner": {"loop.watch", "model", "noise", "precision", "run_options"},
    "loop.table_runner": {
        *("devices", "model", "precision", "run_options", "solvers", "loop.capture", "loop.condition", "loop.evaluate"),
        *("loop.fallback", "loop.guidance", "loop.lanes", "loop.loop", "loop.program", "loop.runner", "loop.watch"),
    },
    "precision": {"errors"},
    "run_options": set(),
    "keywords": {"errors", "run_options"},
    "flow": {
        *("devices", "errors", "fingerprint", "keywords", "loop.batch_fit", "loop.batches", "loop.capture"),
        *("loop.evaluate", "loop.fallback", "loop.lanes", "loop.loop", "loop.runner", "loop.table_runner"),
        *("loop.watch", "model", "noise", "ops", "precision", "rng", "run_options", "sdes", "solvers"),
    },
    "loop.batch_fit": {"files", "fingerprint", "loop.runner", "model"},
    "loop.strict": set(),
    "loop.batches": {"loop.batch_fit", "loop.fallback", "loop.lanes", "loop.runner", "loop.strict", "loop.watch"},
    "sampler.options": {"errors", "flow", "keywords", "model", "solvers"},
}
INCLUDES = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "torch": {"core", "cpu", "cuda", "torch"},
    "tests": {"core", "cpu", "cuda", "tests"},
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")  # it gathers the names
CXX_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
HEADERS_AND_SOURCES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in CXX_SUFFIXES)
SOURCES = [
    *(ROOT / name for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "Makefile")),
    *HEADERS_AND_SOURCES,
    *(
        path
        for folder in ("scoresde_fast", "kernels", "build_system", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ),
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(dotted: str) -> str:
    """The layer of a name below the package: its folder or its own; "" for the package itself."""
    parts = dotted.split(".")
    folders = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((folder for folder in folders if folder in LAYERS), parts[0])


def below_package(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name below the package) of everything a module imports from the package."""
    package = ["scoresde_fast", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            found = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
        else:
            continue
        for dotted in found:
            top, _, rest = dotted.partition(".")
            if top == "scoresde_fast":
                yield node.lineno, rest


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_downwards(path: Path) -> None:
    """No module imports a higher layer, nor one that its own is to know nothing of."""
    here = layer(below_package(path))
    assert here in LAYERS, f"{name(path)} belongs to no layer: give it a place in LAYERS"
    allowed = ONLY.get(here, set(LAYERS[: LAYERS.index(here)])) | {here, "__version__"}
    # The command line is the one user of the public interface.
    allowed |= {""} if here == "cli" else set()
    wrong = [f"line {line}: {dotted}" for line, dotted in imported(path) if layer(dotted) not in allowed]
    assert not wrong, f"{name(path)} ({here}) may import {sorted(allowed)}, but has {wrong}"


@pytest.mark.parametrize("path", HEADERS_AND_SOURCES, ids=name)
def test_includes_go_downwards(path: Path) -> None:
    """The core knows the standard library, the kernels know the core, and torch's headers appear in csrc/torch only."""
    folder = path.relative_to(ROOT / "csrc").parts[0]
    included = re.findall(r'#include ([<"])([^>"]+)', path.read_text())
    ours = {target.split("/")[0] for mark, target in included if mark == '"'}
    assert ours <= INCLUDES[folder]
    theirs = {target.split("/")[0] for mark, target in included if mark == "<" and "/" in target}
    assert theirs <= {"torch": {"torch"}, "tests": {"pybind11"}}.get(folder, set())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_source_files_are_short_and_licensed(path: Path) -> None:
    """At most 600 lines, and the licence in the first line."""
    lines = path.read_text().splitlines()
    assert len(lines) <= 600, f"{name(path)} has {len(lines)} lines"
    assert "SPDX-License-Identifier: Apache-2.0" in lines[0], f"{name(path)} does not begin with the SPDX line"
