# SPDX-License-Identifier: Apache-2.0
"""What compiling the extension needs, and whether this machine has it: a compiler, torch, CMake and Ninja."""

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
"""The oldest versions that the extension builds with; of torch, the one whose stable ABI it is built for."""
# CMake and Ninja from the index lie beside the interpreter, which need not be on PATH.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def extension_mode() -> str:
    """SCORESDE_FAST_EXT, or "auto". Raises SystemExit for an unknown one."""
    mode = os.environ.get("SCORESDE_FAST_EXT", "auto")
    if mode not in MODES:
        raise SystemExit(f"scoresde_fast: unknown SCORESDE_FAST_EXT {mode!r}; choose from: {', '.join(MODES)}")
    return mode


def version_of(text: str) -> tuple[int, ...]:
    """Return the first version number in a text as integers, or an empty tuple if it has none."""
    found = re.search(r"\d+(\.\d+)+|\d+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def find_torch() -> tuple[Path, str]:
    """The folder and the version of the torch that is importable here, or in the environment that is installed into.

    An isolated build has its own packages, but the interpreter of the environment, whose torch has the same headers.
    The version is empty where there is no torch.
    """
    spec = find_spec("torch")
    site = Path(spec.origin).parent.parent if spec and spec.origin else Path(sysconfig.get_path("platlib"))
    version = next((found.version for found in metadata.distributions(name="torch", path=[str(site)])), "")
    return site / "torch", version


def torch_folder() -> Path | None:
    """The folder of a torch that is new enough, or None."""
    folder, version = find_torch()
    return folder if version_of(version) >= version_of(TORCH) else None


def find_tool(name: str) -> str | None:
    """The path of a tool, or None."""
    return shutil.which(name, path=TOOL_PATH)


def cmakes() -> Iterator[tuple[str, str]]:
    """The path and the version of every CMake on PATH."""
    for folder in TOOL_PATH.split(os.pathsep):
        found = shutil.which("cmake", path=folder)
        if found:
            output = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
            yield found, ".".join(map(str, version_of(output)))


def find_cmake() -> str | None:
    """The path of the first CMake that is new enough, or None."""
    return next((path for path, version in cmakes() if version_of(version) >= version_of(CMAKE)), None)


def compiler() -> str:
    """The C++ compiler's command."""
    return (os.environ.get("CXX") or "c++").split()[0]


def build_requirements() -> list[str]:
    """What an isolated build must install before it can compile: nothing where there is no compiler."""
    if extension_mode() == "off" or not find_tool(compiler()):
        return []
    needs = {
        f"torch>={TORCH}": torch_folder() is None,
        f"cmake>={CMAKE}": not find_cmake(),
        "ninja": not find_tool("ninja"),
    }
    return [requirement for requirement, missing in needs.items() if missing]


def why_pure() -> str | None:
    """Why the package is to be built without the extension, or None."""
    if extension_mode() == "off":
        return "the package was built with SCORESDE_FAST_EXT=off"
    if not find_tool(compiler()):
        return f"there was no C++ compiler: `{compiler()}` is not on PATH (Debian, Ubuntu: apt-get install g++)"
    # `build_requirements` brings the rest to isolated builds; only others can lack it.
    if not torch_folder():
        return _lacking("torch", find_torch()[1], TORCH)
    if not find_cmake():
        return _lacking("CMake", next((version for _, version in cmakes()), ""), CMAKE)
    return None if find_tool("ninja") else "there was no Ninja in the build's environment"


def _lacking(name: str, version: str, oldest: str) -> str:
    found = f"{name} {version} was too old" if version else f"there was no {name}"
    return f"{found} in the build's environment, which needs {oldest} or newer"
