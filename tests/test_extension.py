# SPDX-License-Identifier: Apache-2.0
"""The C++ extension: what is said, once, where it is missing."""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_fast import _extension
from scoresde_fast.ops.backends import Backend, Operation

pytestmark = pytest.mark.same_everywhere


@pytest.fixture
def operation(monkeypatch: pytest.MonkeyPatch) -> Operation:
    """An operation whose CPU kernel is missing, in a process that has not been warned."""
    why = "the C++ extension is missing: there was no C++ compiler"
    monkeypatch.setattr(_extension, "why_missing", why)
    monkeypatch.setattr(_extension, "_warned", False)
    return Operation("twice", lambda x: 2 * x, {"cpu": Backend(lambda x: x + x, ("cpu",), missing=why)})


def test_the_first_slow_use_warns_once(operation: Operation) -> None:
    """With the reason and a command; the reference runs, and the second use is silent."""
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler\. .*To build .*: SCORESDE_FAST_EXT=require pip"):
        twice = operation.choose("cpu")
    assert twice(torch.ones(1)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation.default(torch.device("cpu"))
        operation.choose("cpu", "reference")


def test_a_reference_by_choice_does_not_warn(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by name, nor by the environment variable, nor for another device."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operation.choose("cpu", "reference")
        operation.choose("meta")
        monkeypatch.setenv("SCORESDE_FAST_BACKEND", "reference")
        operation.choose("cpu")


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
def test_the_command_names_where_the_package_came_from(
    origin: Any, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index, a folder or a repository; a wheel without the extension would only be installed again."""
    info = tmp_path / "scoresde_fast-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scoresde_fast\nVersion: 0.1.0\n")
    if origin:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(info))
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "scoresde_fast" / "_extension.py"))
    assert _extension.build_command().endswith(source)


def test_the_command_in_a_checkout(root: Path) -> None:
    """Where the package is imported from a checkout, that is what is built."""
    assert _extension.build_command().endswith(f"--no-deps --editable {root}")
