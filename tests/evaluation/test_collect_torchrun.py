# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast eval`` in several processes, with the variables that torchrun gives them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.cli import main

pytest.importorskip("sklearn")
pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share the work, the first one writes, and the metrics equal those of one process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["eval", "digits-vp", "--seeds", "0-69", "--solver", "ddim", "--steps", "2", "--batch-size", "20"]
    command += ["--threads", "1", "--reference", "digits:test", "--kid-subsets", "2", "--metrics", "fid", "kid", "is"]
    command += ["--resamples", "0", "--out"]
    assert main([*command, str(tmp_path / "one.json")]) == 0

    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    second = subprocess.Popen(
        [sys.executable, "-m", "scoresde_fast.cli", *command, str(tmp_path / "second.json")],
        env={**os.environ, **shared, "RANK": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for name, value in {**shared, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    try:
        assert main([*command, str(tmp_path / "two.json")]) == 0
        printed, errors = second.communicate(timeout=120)
    finally:
        second.kill()
    assert second.returncode == 0 and printed == "", errors
    assert not (tmp_path / "second.json").exists()

    def values(file: str) -> dict[str, Any]:
        metrics = json.loads((tmp_path / file).read_text())["metrics"]
        return {name: metric["value"] for name, metric in metrics.items()}

    assert values("two.json") == pytest.approx(values("one.json"), rel=1e-9)


@pytest.mark.parametrize("rank", ["2", "a"])
def test_invalid_rank(rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid rank of two processes is refused with a message."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["eval", "digits:test"]) == 2
    assert "RANK is" in capsys.readouterr().err
