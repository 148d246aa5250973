# SPDX-License-Identifier: Apache-2.0
"""The package without the modules and functions that Windows lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scoresde_fast import files as files_module
from scoresde_fast.generate import generate
from tests.support.stub_sampler import StubSampler, files

pytestmark = pytest.mark.same_everywhere

IMPORTS = """
import builtins, importlib, os, pathlib, signal
import huggingface_hub, PIL.Image, safetensors.torch, torch, torch._dynamo, torch.distributed, tyro

POSIX = {"fcntl", "grp", "posix", "pwd", "resource", "syslog", "termios", "tty"}
FUNCTIONS = "chown fork forkpty getloadavg getpgid getuid killpg nice register_at_fork sched_getaffinity sync uname"
original = builtins.__import__

def windows(name, globals=None, locals=None, fromlist=(), level=0):
    if name in POSIX and (globals or {}).get("__name__", "").startswith("scoresde_fast"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return original(name, globals, locals, fromlist, level)

builtins.__import__ = windows
for name in [*FUNCTIONS.split(), *(name for name in dir(os) if name in ("O_DIRECT", "O_NONBLOCK", "O_SYNC"))]:
    delattr(os, name)
for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
import scoresde_fast
package = pathlib.Path(scoresde_fast.__file__).parent
modules = [path.relative_to(package.parent).with_suffix("") for path in package.rglob("[!_]*.py")]
for module in modules:
    importlib.import_module(".".join(module.parts))
print(len(modules))
"""


def test_imports() -> None:
    """Every module of the package can be imported."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_refused_imports() -> None:
    """`IMPORTS` fails if a module imports one that Windows lacks."""
    code = IMPORTS.replace("import scoresde_fast\n", "exec('import fcntl', {'__name__': 'scoresde_fast.files'})\n")
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "No module named 'fcntl'" in done.stderr


@pytest.mark.parametrize("out", ["set", "set.npz", "set.zip"])
def test_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    """If the system cannot sync many files at once, each is synced when written, and the set is the same."""
    generate(StubSampler(), range(5), tmp_path / "posix" / out)
    monkeypatch.setattr(files_module, "CAN_SYNC_FILESYSTEM", False)
    monkeypatch.delattr(os, "sync")
    synced, fsync = [], os.fsync

    def sync(file: int) -> None:
        synced.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", sync)
    generate(StubSampler(), range(5), tmp_path / "windows" / out)
    assert files(tmp_path / "windows") == files(tmp_path / "posix")
    assert len(synced) >= (5 if out == "set" else 2)
