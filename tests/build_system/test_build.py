# SPDX-License-Identifier: Apache-2.0
"""Modes, requirements and errors of the build, and the pure-Python wheel."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import setuptools

pytestmark = pytest.mark.same_everywhere

SHIPPED = ("scoresde_fast", "kernels", "build_system", "setup.py", "pyproject.toml", "LICENSE", "README.md")


@pytest.fixture
def toolchain(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return build_system/toolchain.py as a module; sys.path is restored afterwards."""
    monkeypatch.setattr(sys, "path", [str(root / "build_system"), *sys.path])
    return importlib.import_module("toolchain")


@pytest.fixture
def setup_py(root: Path, toolchain: ModuleType) -> ModuleType:
    """Return setup.py as a module."""
    spec = importlib.util.spec_from_file_location("scoresde_fast_setup", root / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mode_off(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """SCORESDE_FAST_EXT=off builds nothing and requires nothing on any machine."""
    monkeypatch.setenv("SCORESDE_FAST_EXT", "off")
    assert toolchain.why_pure() == "the package was built with SCORESDE_FAST_EXT=off"
    assert toolchain.build_requirements() == []


def test_unknown_mode(toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown mode stops the build before anything is installed; the message lists the modes."""
    monkeypatch.setenv("SCORESDE_FAST_EXT", "on")
    with pytest.raises(SystemExit, match="unknown SCORESDE_FAST_EXT 'on'; choose from: auto, require, off"):
        toolchain.build_requirements()


def test_no_compiler(toolchain: ModuleType, setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler "auto" continues and "require" stops, both with the reason; nothing is installed."""
    monkeypatch.setattr(toolchain, "find_tool", lambda tool: None if tool == "no-such-c++" else tool)
    monkeypatch.setenv("CXX", "no-such-c++ -pipe")
    assert "`no-such-c++` is not on PATH" in toolchain.why_pure()
    assert toolchain.build_requirements() == []
    monkeypatch.setenv("SCORESDE_FAST_EXT", "require")
    with pytest.raises(SystemExit, match=r"SCORESDE_FAST_EXT=require.*`no-such-c\+\+` is not on PATH"):
        setup_py.allowed_reason()


def test_requirements_of_an_isolated_build(
    toolchain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirements are torch, if it is missing or old in the target environment, and tools that are not on PATH."""
    monkeypatch.setattr(toolchain, "compiler", lambda: sys.executable)
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(toolchain, "cmakes", lambda: iter([("/usr/bin/cmake", "3.22.1")]))
    monkeypatch.setattr(toolchain, "find_tool", lambda name: None if name == "ninja" else name)
    assert toolchain.build_requirements() == ["torch>=2.11", "cmake>=3.25", "ninja"]
    for version, needed in (("2.10.1", True), ("2.11.0+cu130", False), ("2.15.0", False)):
        site = tmp_path / version
        info = site / f"torch-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name, site=site: str(site))
        assert ("torch>=2.11" in toolchain.build_requirements()) == needed, version


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"torch": ""}, "there was no torch in the build's environment, which needs 2.11 or newer"),
        ({"torch": "2.10.1"}, "torch 2.10.1 was too old in the build's environment, which needs 2.11 or newer"),
        ({"cmake": ""}, "there was no CMake in the build's environment, which needs 3.25 or newer"),
        ({"cmake": "3.22.1"}, "CMake 3.22.1 was too old in the build's environment, which needs 3.25 or newer"),
        ({"ninja": None}, "there was no Ninja in the build's environment"),
        ({}, None),
    ],
    ids=["no torch", "old torch", "no CMake", "old CMake", "no Ninja", "all there"],
)  # fmt: skip
def test_missing_tools_are_named(
    toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch, found: dict[str, str | None], why: str | None
) -> None:
    """Without isolation nothing is installed; the message names the first tool that is missing or too old."""
    tools = {"torch": "2.13.0+cpu", "cmake": "3.25.0", "ninja": "/usr/bin/ninja", **found}
    monkeypatch.setattr(toolchain, "find_torch", lambda: (Path("torch"), tools["torch"]))
    monkeypatch.setattr(toolchain, "cmakes", lambda: iter([("cmake", tools["cmake"])] if tools["cmake"] else []))
    monkeypatch.setattr(toolchain, "find_tool", lambda name: tools["ninja"] if name == "ninja" else name)
    assert toolchain.why_pure() == why


def test_description_links_are_absolute(root: Path, setup_py: ModuleType) -> None:
    """Relative links to pictures become raw files, those to pages become GitHub's pages; each target exists."""
    readme = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", (root / "README.md").read_text())
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", setup_py.long_description())
    assert len(links) == len(readme)
    for (picture, relative), (_, link) in zip(readme, links, strict=True):
        if relative.startswith(("https:", "#")):
            assert link == relative and not picture
        else:
            place = "raw" if picture else "blob"
            assert link == f"https://github.com/scoresde-fast/scoresde-fast/{place}/main/{relative}"
            assert (root / relative).is_file(), relative


def test_reason_is_recorded(setup_py: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build without the extension writes its reason into the package; a build with the extension removes it."""
    (tmp_path / "scoresde_fast").mkdir()
    setup_py.record_reason("there was no C++ compiler", tmp_path)
    assert (tmp_path / setup_py.REASON).read_text() == "there was no C++ compiler\n"
    assert "without the C++ extension: there was no C++ compiler" in capsys.readouterr().err
    setup_py.record_reason(None, tmp_path)
    assert not (tmp_path / setup_py.REASON).exists()


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("[1/2] c++\nx.cpp:3:2: error: broken\n  3 |\nninja: build stopped", "x.cpp:3:2: error: broken"),
        ("CMake Error at C:6 (x):\n  The compiler\n\n    cc\n\n  fails.\n\n  It fails.\n",
         "CMake Error at C:6 (x): The compiler cc fails."),
        ("CMake Error at C:7 (f):\n  Could NOT find X\n-- Incomplete.", "CMake Error at C:7 (f): Could NOT find X"),
        ("killed", "killed"),
    ],
    ids=["compiler", "CMake", "CMake without a sentence", "neither"],
)  # fmt: skip
def test_first_error(setup_py: ModuleType, output: str, error: str) -> None:
    """The first error is found and joined into one line."""
    assert setup_py.first_error(output) == error


def test_old_setuptools(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message for an old setuptools gives both versions and the command that upgrades it."""
    monkeypatch.setattr(setup_py.setuptools, "__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"setuptools 65\.5\.0 is too old.*77 or newer: pip install --upgrade"):
        setup_py.main()


@pytest.mark.skipif(not all(map(shutil.which, ("c++", "cmake", "ninja"))), reason="needs a compiler, CMake and Ninja")
def test_rebuild_uses_current_settings(setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild uses the torch, compiler and options of the current environment, and keeps compiled objects."""

    def configure(name: str, options: str) -> str:
        """Return the commands of a build with torch and compiler in folder ``name``; nothing is compiled."""
        library = tmp_path / name / "torch" / "lib" / "libtorch_cpu.so"
        library.parent.mkdir(parents=True)
        library.touch()
        (tmp_path / name / "c++").symlink_to(shutil.which("c++") or "")
        monkeypatch.setattr(setup_py, "torch_folder", lambda: tmp_path / name / "torch")
        monkeypatch.setenv("CXX", str(tmp_path / name / "c++"))
        monkeypatch.setenv("CMAKE_ARGS", f"-DSSF_CUDA=OFF {options}")
        extension = setuptools.Extension("scoresde_fast._C", [], py_limited_api=True)
        command = setup_py.CMakeBuild(setuptools.Distribution({"ext_modules": [extension]}))
        command.build_temp, command.build_lib = str(tmp_path / "build"), str(tmp_path / name)
        command.ensure_finalized()
        command.build_extension(extension)
        return "".join((tmp_path / "build" / file).read_text() for file in ("build.ninja", "CMakeFiles/rules.ninja"))

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["true"] if "--build" in command else command, check=False, **options)

    monkeypatch.setattr(setup_py, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": run}))
    first = configure("first", "-DSSF_X86_LEVEL=3")
    compiled = tmp_path / "build" / "CMakeFiles" / "_C.dir" / "old.o"
    compiled.parent.mkdir(parents=True, exist_ok=True)
    compiled.touch()
    second = configure("second", "")
    for commands, name in ((first, "first"), (second, "second")):
        assert f"{tmp_path}/{name}/torch" in commands and f"{tmp_path}/{name}/c++" in commands
    assert "SSF_X86_LEVEL" in first
    assert f"{tmp_path}/first" not in second and "SSF_X86_LEVEL" not in second
    assert compiled.exists()


def test_pure_wheel(root: Path, tmp_path: Path) -> None:
    """The wheel without extension is for every platform and contains the kernels, the data files and ``py.typed``."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for entry in SHIPPED:
        source = root / entry
        if source.is_dir():
            shutil.copytree(source, tmp_path / entry, ignore=ignore)
        else:
            shutil.copy(source, tmp_path / entry)
    build = (
        "import sys; sys.path.insert(0, 'build_system')\nimport build_backend; print(build_backend.build_wheel('dist'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=tmp_path,
        env={**os.environ, "SCORESDE_FAST_EXT": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wheel = tmp_path / "dist" / done.stdout.splitlines()[-1]
    assert wheel.name.endswith("-py3-none-any.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "scoresde_fast/py.typed",
        "scoresde_fast/kernels/__init__.py",
        "scoresde_fast/configs/official.json",
        "scoresde_fast/training/recipes/digits-ve.json",
        *(f"scoresde_fast/embedded/digits-{name}/model.safetensors" for name in ("ve", "vp", "subvp")),
        "scoresde_fast/embedded/digits-features/features.safetensors",
    } <= files
    reason = zipfile.ZipFile(wheel).read("scoresde_fast/why_no_extension.txt").decode()
    assert reason == "the package was built with SCORESDE_FAST_EXT=off\n"
    metadata = zipfile.ZipFile(wheel).read("scoresde_fast-0.1.0.dist-info/METADATA").decode()
    assert "\nProject-URL: Source, https://github.com/scoresde-fast/scoresde-fast\n" in metadata
    assert "](https://github.com/scoresde-fast/scoresde-fast/raw/main/docs/digits-ve.png)" in metadata
    assert {file.split("/")[0] for file in files} == {"scoresde_fast", "scoresde_fast-0.1.0.dist-info"}


def test_kernels_cannot_be_imported_by_folder(root: Path) -> None:
    """``import kernels`` in the checkout fails, because PyPI has another package with this name."""
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "this directory is `scoresde_fast.kernels`" in done.stderr
