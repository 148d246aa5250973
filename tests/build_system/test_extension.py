# SPDX-License-Identifier: Apache-2.0
"""The C++ extension: the warning if it is missing, and the command that builds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scoresde_fast import _extension
from scoresde_fast.ops import registration
from scoresde_fast.ops.registration import Backend, Operation

pytestmark = pytest.mark.same_everywhere


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Operation:
    """Return an operation without kernels, as if the process had not warned yet."""
    monkeypatch.setattr(_extension, "_warned", False)
    absent = {
        "triton": Backend(lambda x: x + x, ("cuda",), missing="Triton is not installed: pip install triton"),
        "cpu": Backend(lambda x: x + x, ("cpu",), missing="there was no C++ compiler; to build it: pip install X"),
    }
    return Operation("twice", lambda x: 2 * x, absent)


def test_first_slow_use_warns_once(operation: Operation) -> None:
    """The warning ends in a command; the reference runs, and the second use is silent."""
    with pytest.warns(RuntimeWarning, match=r"on the device cpu.*: there was no C\+\+ compiler.*: pip install X$"):
        twice = operation.choose("cpu")
    assert twice(torch.ones(1)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation.default(torch.device("cpu"))
        operation.choose("cpu", "reference")


def test_gpu_without_triton_warns(operation: Operation) -> None:
    """The warning gives only the reasons of the device's backends."""
    with pytest.warns(RuntimeWarning, match=r"on the device cuda.*\): Triton is not installed: pip install triton$"):
        operation.choose("cuda")


def test_chosen_reference_does_not_warn(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference does not warn if it is selected by name or variable, or if the device has no kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation.choose("cpu", "reference")
        operation.choose("meta")
        monkeypatch.setenv("SCORESDE_FAST_BACKEND", "reference")
        operation.choose("cpu")


SAMPLE_AND_REPORT = """
import sys, torch
{change}
import scoresde_fast as sf
from scoresde_fast.environment import environment
assert sf.sample(sf.load("digits-vp"), seeds=range(2), solver="dpmpp_2m", steps=4).isfinite().all()
print(environment())
"""
BUILD = "to build it: SCORESDE_FAST_EXT=require pip install --force-reinstall --no-deps --editable {root}"


@pytest.mark.parametrize(
    ("change", "files", "message"),
    [
        ("torch.__version__ = '2.10.0'", {},
         "2.10.0 is too old for the C++ extension, which needs 2.11 or newer: pip install --upgrade 'torch>=2.11'"),
        ("", {"_C.abi3.so": "of another torch"}, f"_C.abi3.so: file too short; {BUILD}"),
        ("sys.modules['scoresde_fast._C'] = None", {"why_no_extension.txt": "compiling it failed: x"},
         f"missing: compiling it failed: x; {BUILD}"),
    ],
    ids=["old torch", "broken extension", "no extension"],
)  # fmt: skip
def test_sampling_without_the_extension(
    change: str, files: dict[str, str], message: str, root: Path, tmp_path: Path
) -> None:
    """The warning and the environment report each give the reason and the command once."""
    package = tmp_path / "scoresde_fast"
    package.mkdir()
    for entry in (root / "scoresde_fast").iterdir():
        if not entry.name.startswith(("_C", "why", "__pycache__")):
            (package / entry.name).symlink_to(entry)
    for name, text in files.items():
        (package / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE_AND_REPORT.format(change=change)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 1
    assert message.format(root=root) in done.stderr
    assert done.stdout.count(message.format(root=root)) == 1


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (None, "Triton is not installed: pip install 'triton>=3.6,<4.0' (on Linux)"),
        ("3.5.1", "Triton 3.5.1 is not supported; the kernels need >=3.6,<4.0: pip install"),
        ("4.0.0", "Triton 4.0.0 is not supported"),
        ("3.6.0", ""),
        ("3.12.0+git1", ""),
    ],
    ids=["missing", "too old", "too new", "oldest", "newer"],
)
def test_triton_versions(version: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or unsupported Triton is reported with a command, and not imported."""
    monkeypatch.setattr(registration, "INTERPRETED", True)
    monkeypatch.setattr(registration, "find_spec", lambda name: version)
    monkeypatch.setattr(metadata, "distributions", lambda name: iter([SimpleNamespace(version=version)]))
    reason = registration.why_no_triton.__wrapped__() or ""
    assert reason.startswith(why) and bool(reason) == bool(why)


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, "--no-cache-dir --no-binary scoresde-fast scoresde-fast"),
        ({"url": "file:///src/my%20code", "dir_info": {}}, "'/src/my code'"),
        ({"url": "file:///tmp/scoresde_fast-0.1.0-py3-none-any.whl"}, "--no-binary scoresde-fast scoresde-fast"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "git+https://host/x.git@abc",
        ),
    ],
    ids=["index", "folder", "wheel", "repository"],
)
def test_build_command_names_the_source(
    origin: Any, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is the index, a folder or a repository; never a wheel, which would lack the extension again."""
    info = tmp_path / "scoresde_fast-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scoresde_fast\nVersion: 0.1.0\n")
    if origin:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "scoresde_fast" / "_extension.py"))
    assert _extension.build_command().endswith(source)


def test_build_command_in_a_checkout(root: Path) -> None:
    """For a package imported from a checkout, the source is the checkout."""
    assert _extension.build_command().endswith(f"--no-deps --editable {root}")
