# SPDX-License-Identifier: Apache-2.0
"""Build of ``scoresde_fast``. CMake compiles the extension; `build_system/` finds the tools."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# `./kernels` must not shadow the PyPI package `kernels`, which hooks into setuptools.
sys.path[:] = [str(ROOT / "build_system"), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]

import setuptools  # noqa: E402
from setuptools import Extension, find_namespace_packages, setup  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.command.build_py import build_py  # noqa: E402
from setuptools.errors import CompileError  # noqa: E402
from toolchain import TOOL_PATH, extension_mode, find_cmake, torch_folder, version_of, why_pure  # noqa: E402

SETUPTOOLS = "77"
"""Oldest setuptools that supports the project's metadata."""
REASON = Path("scoresde_fast") / "why_no_extension.txt"
"""File with the reason for a build without the extension, read by `scoresde_fast._extension`."""


def long_description() -> str:
    """Return the README with absolute links, for the package index."""
    source = re.findall(r'^Source = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]

    def absolute(link: re.Match[str]) -> str:
        return f"{link[1]}{source}/{'raw' if link[1].startswith('!') else 'blob'}/main/{link[2]}"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?\[[^]]*\]\()(?!https?:|#)([^)]+)", absolute, readme)


def allowed_reason() -> str | None:
    """Return why this build has no extension, or None; raise SystemExit if the extension is required but missing."""
    reason = why_pure()
    if reason and extension_mode() == "require":
        raise SystemExit(f"scoresde_fast: cannot build the extension (SCORESDE_FAST_EXT=require): {reason}")
    return reason


def record_reason(reason: str | None, folder: Path) -> None:
    """Write the reason into the package below ``folder``; if it is None, remove the file of an earlier build."""
    if reason is None:
        (folder / REASON).unlink(missing_ok=True)
        return
    (folder / REASON).parent.mkdir(parents=True, exist_ok=True)
    (folder / REASON).write_text(reason + "\n", encoding="utf-8")
    print(f"scoresde_fast: building without the C++ extension: {reason}", file=sys.stderr)


def first_error(output: str) -> str:
    """Return the first error of a compiler or CMake as one line; CMake's messages have several indented lines."""
    match = re.search(r"^.*\berror:.*$|^CMake Error.*(?:(?:\n(?:  .*?)?)*?\.$|\n.*)", output, re.MULTILINE)
    return " ".join((match[0] if match else output[-300:]).split())[:300]


class CMakeBuild(build_ext):
    """Builds the extension with CMake."""

    def initialize_options(self) -> None:
        """Build in the checkout instead of a temporary folder, so that later installs are incremental."""
        super().initialize_options()
        self.build_temp = str(ROOT / "build" / "extension")

    def run(self) -> None:
        """Stop early if the extension is required and something it needs is missing."""
        allowed_reason()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Configure and build the target ``_C`` into the folder where setuptools expects it.

        Raises:
            CompileError: compilation failed; setuptools continues without an optional extension.
        """
        build = Path(self.build_temp)
        # Forget the torch, compiler and options of an earlier build; Ninja knows which objects are still valid.
        for configured in [build / "CMakeCache.txt", *build.glob("CMakeFiles/*/CMake*Compiler.cmake")]:
            configured.unlink(missing_ok=True)
        definitions = {
            "SSF_TESTS": "OFF",
            "SSF_TORCH_DIR": torch_folder(),
            "Python_EXECUTABLE": sys.executable,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": Path(self.get_ext_fullpath(ext.name)).resolve().parent,
        }
        options = [f"-D{name}={value}" for name, value in definitions.items()]
        options += os.environ.get("CMAKE_ARGS", "").split()
        environment = {**os.environ, "PATH": TOOL_PATH}
        for arguments in (["-S", ROOT, "-B", build, "-GNinja", *options], ["--build", build, "--target", "_C"]):
            result = subprocess.run(
                [find_cmake(), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            print(result.stdout, file=sys.stderr)
            if result.returncode:
                reason = f"compiling it failed: {first_error(result.stdout)}"
                folder = ROOT if self.editable_mode else Path(self.build_lib)
                record_reason(reason, folder)
                for outdated in (folder / "scoresde_fast").glob("_C*"):  # from an earlier build of other sources
                    outdated.unlink()
                raise CompileError(reason)


class BuildPython(build_py):
    """Adds the reason for a missing extension to the package's files."""

    def run(self) -> None:
        """Copy the package's files and write the reason."""
        reason = allowed_reason()
        super().run()
        record_reason(reason, ROOT if self.editable_mode else Path(self.build_lib))


def main() -> None:
    """Run setuptools."""
    if version_of(setuptools.__version__) < version_of(SETUPTOOLS):
        raise SystemExit(
            f"scoresde_fast: setuptools {setuptools.__version__} is too old to build this package, which needs "
            f"{SETUPTOOLS} or newer: pip install --upgrade setuptools"
        )
    mode = extension_mode()
    pure = mode != "require" and why_pure() is not None
    setup(
        long_description=long_description(),
        long_description_content_type="text/markdown",
        # Namespace packages, because setuptools warns about data folders that are not listed.
        packages=[
            *find_namespace_packages(include=["scoresde_fast*"], exclude=["*.__pycache__*"]),
            "scoresde_fast.kernels",
        ],
        package_dir={"scoresde_fast": "scoresde_fast", "scoresde_fast.kernels": "kernels"},
        ext_modules=[] if pure else [Extension("scoresde_fast._C", [], py_limited_api=True, optional=mode == "auto")],
        cmdclass={"build_ext": CMakeBuild, "build_py": BuildPython},
        options={} if pure else {"bdist_wheel": {"py_limited_api": "cp310"}},
    )


if __name__ == "__main__":
    main()
