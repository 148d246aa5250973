# SPDX-License-Identifier: Apache-2.0
"""Detection of the tools for building the extension: compiler, torch, CMake and Ninja."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

MODES = ("auto", "require", "off")
TORCH, CMAKE = "2.11", "3.25"
"""Oldest versions that can build the extension, which uses the stable ABI of this torch."""
# CMake and Ninja installed by pip are next to the interpreter, whose folder may not be on PATH.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def extension_mode() -> str:
    """Return the value of SCORESDE_FAST_EXT, by default "auto"; raise SystemExit if it is unknown."""
    mode = os.environ.get("SCORESDE_FAST_EXT", "auto")
    if mode not in MODES:
        raise SystemExit(f"scoresde_fast: unknown SCORESDE_FAST_EXT {mode!r}; choose from: {', '.join(MODES)}")
    return mode


def version_of(text: str) -> tuple[int, ...]:
    """Return the first version number in a text as integers, or () if it contains none."""
    match = re.search(r"\d+(\.\d+)+|\d+", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def find_torch() -> tuple[Path, str]:
    """Return the folder and version of the importable torch, or else of the torch in the target environment.

    An isolated build has separate packages but the interpreter of the target environment, whose torch has the same
    headers.  The version is "" if there is no torch.
    """
    spec = find_spec("torch")
    site = Path(spec.origin).parent.parent if spec and spec.origin else Path(sysconfig.get_path("platlib"))
    version = next((package.version for package in metadata.distributions(name="torch", path=[str(site)])), "")
    return site / "torch", version


def torch_folder() -> Path | None:
    """Return the folder of a torch that is new enough, or None."""
    folder, version = find_torch()
    return folder if version_of(version) >= version_of(TORCH) else None


def find_tool(name: str) -> str | None:
    """Return the path of a tool, or None."""
    return shutil.which(name, path=TOOL_PATH)


def cmakes() -> Iterator[tuple[str, str]]:
    """Yield the path and version of each CMake on PATH."""
    for folder in TOOL_PATH.split(os.pathsep):
        if cmake := shutil.which("cmake", path=folder):
            output = subprocess.run([cmake, "--version"], capture_output=True, text=True, check=False).stdout
            yield cmake, ".".join(map(str, version_of(output)))


def find_cmake() -> str | None:
    """Return the path of the first CMake that is new enough, or None."""
    return next((path for path, version in cmakes() if version_of(version) >= version_of(CMAKE)), None)


def compiler() -> str:
    """Return the command of the C++ compiler."""
    return (os.environ.get("CXX") or "c++").split()[0]


def build_requirements() -> list[str]:
    """Return the requirements that an isolated build must install to compile; none without a compiler."""
    if extension_mode() == "off" or not find_tool(compiler()):
        return []
    needs = {
        f"torch>={TORCH}": torch_folder() is None,
        f"cmake>={CMAKE}": not find_cmake(),
        "ninja": not find_tool("ninja"),
    }
    return [requirement for requirement, missing in needs.items() if missing]


def why_pure() -> str | None:
    """Return why the package is built without the extension, or None if it can be built."""
    if extension_mode() == "off":
        return "the package was built with SCORESDE_FAST_EXT=off"
    if not find_tool(compiler()):
        return f"there was no C++ compiler: `{compiler()}` is not on PATH (Debian, Ubuntu: apt-get install g++)"
    # Isolated builds get the rest by `build_requirements`; only other builds can lack it.
    if not torch_folder():
        return _lacking("torch", find_torch()[1], TORCH)
    if not find_cmake():
        return _lacking("CMake", next((version for _, version in cmakes()), ""), CMAKE)
    return None if find_tool("ninja") else "there was no Ninja in the build's environment"


def _lacking(name: str, version: str, oldest: str) -> str:
    problem = f"{name} {version} was too old" if version else f"there was no {name}"
    return f"{problem} in the build's environment, which needs {oldest} or newer"
