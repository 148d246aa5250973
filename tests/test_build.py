# SPDX-License-Identifier: Apache-2.0
"""The build's decisions, and the pure-Python wheel that results where nothing can be compiled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.same_everywhere

SHIPPED = ("scoresde_fast", "kernels", "csrc", "setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md")


@pytest.fixture
def setup_py(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module; it edits sys.path, here a copy."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("scoresde_fast_setup", root / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_off_means_pure(setup_py: ModuleType) -> None:
    """SCORESDE_FAST_EXT=off builds nothing, whatever the machine has."""
    assert setup_py.why_pure("off") == "the package was built with SCORESDE_FAST_EXT=off"


def test_unknown_mode_is_refused(setup_py: ModuleType) -> None:
    """A misspelled mode stops the build and lists the choice."""
    with pytest.raises(SystemExit, match="unknown SCORESDE_FAST_EXT 'on'; choose from: auto, require, off"):
        setup_py.why_pure("on")


def test_no_compiler(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler "auto" says why and goes on, "require" stops with the same reason, and nothing is fetched."""
    monkeypatch.setattr(setup_py.shutil, "which", lambda tool, path: None if tool == "no-such-c++" else tool)
    monkeypatch.setenv("CXX", "no-such-c++ -pipe")
    assert "`no-such-c++` is not on PATH" in setup_py.why_pure("auto")
    assert setup_py.build_requirements() == []
    with pytest.raises(SystemExit, match=r"SCORESDE_FAST_EXT=require.*`no-such-c\+\+` is not on PATH"):
        setup_py.why_pure("require")


def test_an_isolated_build_fetches_what_it_lacks(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch where neither it nor the environment that is installed into has a new one, and the tools not on PATH."""
    monkeypatch.setattr(setup_py, "compiler", lambda: sys.executable)
    monkeypatch.setattr(setup_py, "find_spec", lambda name: None)
    monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(setup_py, "find_cmake", lambda: None)
    monkeypatch.setattr(setup_py, "find_tool", lambda name: None if name == "ninja" else name)
    assert setup_py.build_requirements() == ["torch>=2.11", "cmake>=3.25", "ninja"]
    for version, needed in (("2.10.1", True), ("2.11.0+cu130", False), ("2.15.0", False)):
        site = tmp_path / version
        info = site / f"torch-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda name, site=site: str(site))
        assert ("torch>=2.11" in setup_py.build_requirements()) == needed, version
    monkeypatch.setenv("SCORESDE_FAST_EXT", "off")
    assert setup_py.build_requirements() == []


def test_the_reason_is_recorded(setup_py: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build without the extension leaves its reason in the package, and the next one with it takes it away."""
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
        ("CMake Error at C:6 (message):\n  The compiler\n\n  is", "CMake Error at C:6 (message): The compiler"),
        ("killed", "killed"),
    ],
    ids=["compiler", "CMake", "neither"],
)  # fmt: skip
def test_a_failed_build_is_told_in_one_line(setup_py: ModuleType, output: str, error: str) -> None:
    """By the first error, not the last line."""
    assert setup_py.first_error(output) == error


def test_an_old_setuptools_is_refused(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not know the project's metadata is named, with the command that helps."""
    monkeypatch.setattr(setup_py.setuptools, "__version__", "65.5.0")
    with pytest.raises(SystemExit, match=r"setuptools 65\.5\.0 is too old.*77: pip install --upgrade setuptools"):
        setup_py.main()


def test_pure_wheel(root: Path, tmp_path: Path) -> None:
    """The wheel without extension is for every platform and holds the kernels, the data files and the types' marker."""
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for entry in SHIPPED:
        source = root / entry
        if source.is_dir():
            shutil.copytree(source, tmp_path / entry, ignore=ignore)
        else:
            shutil.copy(source, tmp_path / entry)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
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
    assert {file.split("/")[0] for file in files} == {"scoresde_fast", "scoresde_fast-0.1.0.dist-info"}


def test_kernels_refuse_another_name(root: Path) -> None:
    """./kernels cannot be taken for the package of that name on the index."""
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "this directory is `scoresde_fast.kernels`" in done.stderr
