# SPDX-License-Identifier: Apache-2.0
"""Memory that stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.same_everywhere


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is Linux's")
def test_freed_memory_is_kept() -> None:
    """After `keep_freed_memory` a thread that makes and frees tensors faults in next to no new pages."""
    code = """
import resource, sys, threading, torch
if sys.argv[1] == "keep":
    from scoresde_fast.memory import keep_freed_memory
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
