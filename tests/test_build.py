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
    assert setup_py.why_pure("off") == "SCORESDE_FAST_EXT=off"


def test_unknown_mode_is_refused(setup_py: ModuleType) -> None:
    """A misspelled mode stops the build and lists the choice."""
    with pytest.raises(SystemExit, match="unknown SCORESDE_FAST_EXT 'on'; choose from: auto, require, off"):
        setup_py.why_pure("on")


def test_no_compiler(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler "auto" says why and goes on, "require" stops with the same reason."""
    monkeypatch.setattr(setup_py.shutil, "which", lambda tool, path: None if tool == "no-such-c++" else tool)
    monkeypatch.setenv("CXX", "no-such-c++ -pipe")
    assert setup_py.why_pure("auto") == "`no-such-c++` is not on PATH"
    with pytest.raises(SystemExit, match=r"SCORESDE_FAST_EXT=require.*`no-such-c\+\+` is not on PATH"):
        setup_py.why_pure("require")


def test_isolated_build(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch cannot be seen, the reason names the option that helps."""
    monkeypatch.setattr(setup_py, "find_spec", lambda name: None)
    assert "--no-build-isolation" in setup_py.why_pure("auto")


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
    assert {file.split("/")[0] for file in files} == {"scoresde_fast", "scoresde_fast-0.1.0.dist-info"}


def test_kernels_refuse_another_name(root: Path) -> None:
    """./kernels cannot be taken for the package of that name on the index."""
    done = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "this directory is `scoresde_fast.kernels`" in done.stderr
