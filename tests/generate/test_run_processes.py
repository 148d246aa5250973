# SPDX-License-Identifier: Apache-2.0
"""`scoresde-fast sample` under torchrun, and its end by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.stub_sampler import files

pytestmark = pytest.mark.same_everywhere

SAMPLE = ["-m", "scoresde_fast.cli", "sample", "digits-vp", "--solver", "dpmpp_2m", "--grid", "logsnr", "--strict"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_torchrun(tmp_path: Path) -> None:
    """Two processes under torchrun write a shard each, with the bytes of one process."""
    options = ["--steps", "3", "--seeds", "0-99", "--batch-size", "25", "--out"]
    subprocess.run([sys.executable, *SAMPLE, *options, str(tmp_path / "one")], check=True, env=ENVIRONMENT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, *SAMPLE, *options, str(tmp_path / "two")]
    output = subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True, text=True).stdout
    assert "52 images (" in output and "48 images (" in output, "blocks of 16 seeds, round-robin"
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_sigterm(tmp_path: Path) -> None:
    """SIGTERM ends a run after the current batch: exit code 143, no incomplete file, all written files recorded."""
    options = ["--steps", "20", "--seeds", "0-999", "--batch-size", "5", "--out", str(tmp_path / "set")]
    process = subprocess.Popen([sys.executable, *SAMPLE, *options], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.rglob("000000.png")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    manifest = json.loads(next(tmp_path.rglob("*samples.json")).read_text())
    last = int(manifest["done"].removeprefix("0-"))
    assert (last + 1) % 5 == 0 and f"{999 - last} of the set are still missing" in output
    assert not [name for name in files(tmp_path) if name.endswith((".unfinished", ".lock"))]
