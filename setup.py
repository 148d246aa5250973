# SPDX-License-Identifier: Apache-2.0
"""Builds ``scoresde_fast``. CMake does all compiling; this file decides whether to, and finds what that needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# `./kernels` must not shadow the package of that name on the index, which hooks into setuptools.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

import setuptools  # noqa: E402
from setuptools import Extension, find_packages, setup  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.command.build_py import build_py  # noqa: E402
from setuptools.errors import CompileError  # noqa: E402

MODES = ("auto", "require", "off")
SETUPTOOLS, TORCH, CMAKE = (77,), (2, 11), (3, 25)
"""The oldest versions that build the package; of torch, the one whose stable ABI the extension is built for."""
REASON = Path("scoresde_fast") / "why_no_extension.txt"
"""Where a build without the extension says why, for `scoresde_fast._extension`."""
# CMake and Ninja from the index lie beside the interpreter, which need not be on PATH.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def version_of(text: str) -> tuple[int, ...]:
    """Return the first version number in a text as integers, or an empty tuple if it has none."""
    found = re.search(r"\d+(\.\d+)+|\d+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def torch_folder() -> Path | None:
    """The folder of a torch that is new enough: importable here, or in the environment that is installed into.

    An isolated build has its own packages, but the interpreter of the environment, whose torch has the same headers.
    """
    spec = find_spec("torch")
    site = Path(spec.origin).parent.parent if spec and spec.origin else Path(sysconfig.get_path("platlib"))
    version = next((found.version for found in metadata.distributions(name="torch", path=[str(site)])), "")
    return site / "torch" if version_of(version) >= TORCH else None


def find_tool(name: str) -> str | None:
    """The path of a tool, or None."""
    return shutil.which(name, path=TOOL_PATH)


def find_cmake() -> str | None:
    """The path of the first CMake that is new enough, or None."""
    for folder in TOOL_PATH.split(os.pathsep):
        found = shutil.which("cmake", path=folder)
        if found:
            output = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
            if version_of(output) >= CMAKE:
                return found
    return None


def compiler() -> str:
    """The C++ compiler's command."""
    return (os.environ.get("CXX") or "c++").split()[0]


def build_requirements() -> list[str]:
    """What an isolated build must install before it can compile: nothing where there is no compiler."""
    if os.environ.get("SCORESDE_FAST_EXT") == "off" or not find_tool(compiler()):
        return []
    needs = {
        f"torch>={'.'.join(map(str, TORCH))}": torch_folder() is None,
        f"cmake>={'.'.join(map(str, CMAKE))}": not find_cmake(),
        "ninja": not find_tool("ninja"),
    }
    return [requirement for requirement, missing in needs.items() if missing]


def require_known(mode: str) -> None:
    """Raises SystemExit for an unknown mode."""
    if mode not in MODES:
        raise SystemExit(f"scoresde_fast: unknown SCORESDE_FAST_EXT {mode!r}; choose from: {', '.join(MODES)}")


def why_pure(mode: str) -> str | None:
    """Why this build is to have no extension, or None. Raises SystemExit for an unknown mode, or one that cannot be."""
    require_known(mode)
    why = "the package was built with SCORESDE_FAST_EXT=off" if mode == "off" else missing_tool()
    if why and mode == "require":
        raise SystemExit(f"scoresde_fast: cannot build the extension (SCORESDE_FAST_EXT=require): {why}")
    return why


def missing_tool() -> str | None:
    """What compiling needs and this machine lacks, in words, or None."""
    if not find_tool(compiler()):
        return f"there was no C++ compiler: `{compiler()}` is not on PATH (Debian, Ubuntu: apt-get install g++)"
    # `build_requirements` brings the rest to isolated builds; only others can lack it.
    if not torch_folder():
        return f"there was no torch {'.'.join(map(str, TORCH))} or newer in the build's environment"
    if not find_cmake():
        return f"there was no CMake {'.'.join(map(str, CMAKE))} or newer in the build's environment"
    return None if find_tool("ninja") else "there was no Ninja in the build's environment"


def record_reason(why: str | None, folder: Path) -> None:
    """Write the reason under a folder that holds the package, or remove an older one."""
    if why:
        (folder / REASON).parent.mkdir(parents=True, exist_ok=True)
        (folder / REASON).write_text(why + "\n", encoding="utf-8")
    else:
        (folder / REASON).unlink(missing_ok=True)
        return
    print(f"scoresde_fast: building without the C++ extension: {why}", file=sys.stderr)


def first_error(output: str) -> str:
    """The first error that a compiler or CMake reports, in one line."""
    found = re.search(r"^.*\berror:.*$|^CMake Error[^\n]*\n\s*[^\n]*", output, re.MULTILINE)
    return " ".join((found[0] if found else output[-300:]).split())[:300]


class CMakeBuild(build_ext):
    """Hands the extension to CMake."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds the target ``_C`` into the folder where setuptools expects it.

        Raises:
            CompileError: it does not compile; setuptools goes on without an optional extension.
        """
        # In the checkout, not in setuptools' temporary folder: an install after the first compiles what has changed.
        build = ROOT / "build" / "extension"
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        definitions = {
            "SSF_TESTS": "OFF",
            "SSF_TORCH_DIR": torch_folder(),
            "Python_EXECUTABLE": sys.executable,
            "CMAKE_MAKE_PROGRAM": find_tool("ninja"),  # not that of an earlier isolated build, which is gone
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
        }
        options = [f"-D{name}={value}" for name, value in definitions.items()]
        options += os.environ.get("CMAKE_ARGS", "").split()
        environment = {**os.environ, "PATH": TOOL_PATH}
        for arguments in (["-S", ROOT, "-B", build, "-GNinja", *options], ["--build", build, "--target", "_C"]):
            done = subprocess.run(
                [find_cmake(), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            print(done.stdout, file=sys.stderr)
            if done.returncode:
                why = f"compiling it failed: {first_error(done.stdout)}"
                folder = ROOT if self.editable_mode else Path(self.build_lib)
                record_reason(why, folder)
                for old in (folder / "scoresde_fast").glob("_C*"):  # of an earlier build, from other sources
                    old.unlink()
                raise CompileError(why)


class BuildPython(build_py):
    """Puts the reason for a missing extension among the package's files."""

    def run(self) -> None:
        """Record it first: it is one of the package's files."""
        record_reason(why_pure(os.environ.get("SCORESDE_FAST_EXT", "auto")), ROOT)
        super().run()


def main() -> None:
    """What setuptools runs."""
    if version_of(setuptools.__version__) < SETUPTOOLS:
        raise SystemExit(
            f"scoresde_fast: setuptools {setuptools.__version__} is too old to build this package, which needs "
            f"{SETUPTOOLS[0]}: pip install --upgrade setuptools"
        )
    mode = os.environ.get("SCORESDE_FAST_EXT", "auto")
    require_known(mode)
    pure = mode == "off" or missing_tool() is not None
    setup(
        packages=[*find_packages(include=["scoresde_fast", "scoresde_fast.*"]), "scoresde_fast.kernels"],
        package_dir={"scoresde_fast": "scoresde_fast", "scoresde_fast.kernels": "kernels"},
        ext_modules=[] if pure else [Extension("scoresde_fast._C", [], py_limited_api=True, optional=mode == "auto")],
        cmdclass={"build_ext": CMakeBuild, "build_py": BuildPython},
        options={} if pure else {"bdist_wheel": {"py_limited_api": "cp310"}},
        setup_requires=build_requirements(),  # an isolated build is asked for these first, while it has none of them
    )


if __name__ == "__main__":
    main()
