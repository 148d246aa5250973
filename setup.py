# SPDX-License-Identifier: Apache-2.0
"""Builds ``scoresde_fast``. All compiling is CMake's; this file only says whether, and where the result goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# `./kernels` must not shadow the package of that name on the index, which hooks into setuptools.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

from setuptools import Extension, find_packages, setup  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.errors import CompileError  # noqa: E402

MODES = ("auto", "require", "off")
# CMake and Ninja from the index lie beside the interpreter, which need not be on PATH.
TOOL_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def why_pure(mode: str) -> str | None:
    """Why this wheel is to have no extension, or None. Raises SystemExit for an unknown mode, or one that cannot be."""
    if mode not in MODES:
        raise SystemExit(f"scoresde_fast: unknown SCORESDE_FAST_EXT {mode!r}; choose from: {', '.join(MODES)}")
    why = "SCORESDE_FAST_EXT=off" if mode == "off" else missing_tool()
    if why and mode == "require":
        raise SystemExit(f"scoresde_fast: cannot build the extension (SCORESDE_FAST_EXT=require): {why}")
    return why


def missing_tool() -> str | None:
    """What compiling needs and this machine lacks, in words, or None."""
    if find_spec("torch") is None:
        return "torch is not importable here (use --no-build-isolation)"
    tools = ("cmake", "ninja", os.environ.get("CXX", "c++").split()[0])
    return next((f"`{tool}` is not on PATH" for tool in tools if not shutil.which(tool, path=TOOL_PATH)), None)


class CMakeBuild(build_ext):
    """Hands the extension to CMake."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds the target ``_C`` into the folder where setuptools expects it."""
        # In the checkout, not in setuptools' temporary folder: an install after the first compiles what has changed.
        build = ROOT / "build" / "extension"
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        definitions = {
            "SSF_TESTS": "OFF",
            "SSF_TORCH_DIR": Path(find_spec("torch").origin).parent,
            "Python_EXECUTABLE": sys.executable,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
        }
        options = [f"-D{name}={value}" for name, value in definitions.items()]
        options += os.environ.get("CMAKE_ARGS", "").split()
        environment = {**os.environ, "PATH": TOOL_PATH}
        try:
            for arguments in (["-S", ROOT, "-B", build, "-GNinja", *options], ["--build", build, "--target", "_C"]):
                subprocess.run(["cmake", *arguments], check=True, env=environment)
        except subprocess.CalledProcessError as error:
            raise CompileError(str(error)) from error


def main() -> None:
    """What setuptools runs."""
    mode = os.environ.get("SCORESDE_FAST_EXT", "auto")
    why = why_pure(mode)
    if why:
        print(f"scoresde_fast: building without the C++ extension: {why}", file=sys.stderr)
    setup(
        packages=[*find_packages(include=["scoresde_fast", "scoresde_fast.*"]), "scoresde_fast.kernels"],
        package_dir={"scoresde_fast": "scoresde_fast", "scoresde_fast.kernels": "kernels"},
        ext_modules=[] if why else [Extension("scoresde_fast._C", [], py_limited_api=True, optional=mode == "auto")],
        cmdclass={"build_ext": CMakeBuild},
        options={} if why else {"bdist_wheel": {"py_limited_api": "cp310"}},
    )


if __name__ == "__main__":
    main()
