# SPDX-License-Identifier: Apache-2.0
"""Builds ``scoresde_fast``. CMake does all compiling; `build_system/` finds what that needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# `./kernels` must not shadow the package of that name on the index, which hooks into setuptools.
sys.path[:] = [str(ROOT / "build_system"), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]

import setuptools  # noqa: E402
from setuptools import Extension, find_namespace_packages, setup  # noqa: E402
from setuptools.command.build_ext import build_ext  # noqa: E402
from setuptools.command.build_py import build_py  # noqa: E402
from setuptools.errors import CompileError  # noqa: E402
from toolchain import TOOL_PATH, extension_mode, find_cmake, torch_folder, version_of, why_pure  # noqa: E402

SETUPTOOLS = "77"
"""The oldest that knows the project's metadata."""
REASON = Path("scoresde_fast") / "why_no_extension.txt"
"""Where a build without the extension says why, for `scoresde_fast._extension`."""


def long_description() -> str:
    """The README as a package index shows it, away from the files beside it: with absolute links."""
    source = re.findall(r'^Source = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]

    def absolute(link: re.Match[str]) -> str:
        return f"{link[1]}{source}/{'raw' if link[1].startswith('!') else 'blob'}/main/{link[2]}"

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?\[[^]]*\]\()(?!https?:|#)([^)]+)", absolute, readme)


def allowed_reason() -> str | None:
    """Why this build has no extension, or None. Raises SystemExit where it must have one."""
    why = why_pure()
    if why and extension_mode() == "require":
        raise SystemExit(f"scoresde_fast: cannot build the extension (SCORESDE_FAST_EXT=require): {why}")
    return why


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
    """The first error that a compiler or CMake reports, in one line; CMake's indented sentences have several."""
    found = re.search(r"^.*\berror:.*$|^CMake Error.*(?:(?:\n(?:  .*?)?)*?\.$|\n.*)", output, re.MULTILINE)
    return " ".join((found[0] if found else output[-300:]).split())[:300]


class CMakeBuild(build_ext):
    """Hands the extension to CMake."""

    def initialize_options(self) -> None:
        """Build in the checkout, not in a temporary folder: an install after the first compiles what has changed."""
        super().initialize_options()
        self.build_temp = str(ROOT / "build" / "extension")

    def run(self) -> None:
        """Stop before CMake fails for want of what is missing, where the extension is required."""
        allowed_reason()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds the target ``_C`` into the folder where setuptools expects it.

        Raises:
            CompileError: it does not compile; setuptools goes on without an optional extension.
        """
        build = Path(self.build_temp)
        # The torch, compiler and options of an earlier build are forgotten; Ninja knows which objects remain valid.
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
        """Copy the files, and the reason."""
        why = allowed_reason()
        super().run()
        record_reason(why, ROOT if self.editable_mode else Path(self.build_lib))


def main() -> None:
    """What setuptools runs."""
    if version_of(setuptools.__version__) < version_of(SETUPTOOLS):
        raise SystemExit(
            f"scoresde_fast: setuptools {setuptools.__version__} is too old to build this package, which needs "
            f"{SETUPTOOLS}: pip install --upgrade setuptools"
        )
    mode = extension_mode()
    pure = mode != "require" and why_pure() is not None
    setup(
        long_description=long_description(),
        long_description_content_type="text/markdown",
        # Folders without modules, which hold data, are named too: setuptools warns of those that are not.
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
