# SPDX-License-Identifier: Apache-2.0
"""Precisions of devices, and memory of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from scoresde_fast.devices import choose_precision


def test_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is bf16 if the GPU supports it; on an older GPU the error gives the required capability."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("auto", gpu) == "bf16" and choose_precision("tf32", gpu) == "tf32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", gpu) == "fp32" and choose_precision("fp16", gpu) == "fp16"
    with pytest.raises(ValueError, match=r"'bf16' needs a GPU of compute capability 8\.0, but cuda has 7\.5"):
        choose_precision("bf16", gpu)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the malloc of glibc")
def test_freed_memory_is_kept() -> None:
    """After `keep_freed_memory` a thread that allocates and frees tensors causes almost no page faults."""
    code = """
import resource, sys, threading, torch
if sys.argv[1] == "keep":
    from scoresde_fast.devices import keep_freed_memory
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.zeros(2**18) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

thread = threading.Thread(target=lambda: (faults(), print(faults())))
thread.start()
thread.join()
"""
    given, kept = (int(subprocess.check_output([sys.executable, "-c", code, mode])) for mode in ("give", "keep"))
    assert kept < 1000 < given
