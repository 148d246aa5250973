# SPDX-License-Identifier: Apache-2.0
"""The process of the command line: ``python -m scoresde_fast``, Ctrl-C once and twice, and readers that are gone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import scoresde_fast
from scoresde_fast.errors import INTERRUPTED_MESSAGE

MODULE = [sys.executable, "-m", "scoresde_fast"]
SLOW_COMMAND = """
import sys, time
import scoresde_fast.cli
from scoresde_fast.__main__ import main

seconds = float(sys.argv.pop())

class Slow:
    def run(self):
        try:
            print("running", flush=True)
            time.sleep(60)
        finally:
            print("finishing", flush=True)
            time.sleep(seconds)

scoresde_fast.cli._parse = lambda arguments: Slow()
sys.exit(main())
"""


@pytest.mark.parametrize("module", ["scoresde_fast", "scoresde_fast.cli"])
def test_module(module: str) -> None:
    """``python -m`` runs the command."""
    result = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"scoresde-fast {scoresde_fast.__version__}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("presses", [1, 2])
def test_interrupts(presses: int) -> None:
    """Ctrl-C lets the run finish what it writes; a second one ends it at once; both print one line and give 130."""
    seconds = "0.1" if presses == 1 else "60"
    command = [sys.executable, "-c", SLOW_COMMAND, seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for expected in ("running\n", "finishing\n")[:presses]:
            assert process.stdout.readline() == expected
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, INTERRUPTED_MESSAGE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupt_during_imports() -> None:
    """Ctrl-C before the run, while libraries are imported, prints the same line."""
    program = "import sys, time; from types import ModuleType\nclass Slow:\n def find_spec(self, name, *_):\n"
    program += "  if name == 'tyro': print('importing', flush=True); time.sleep(60)\n"
    program += "sys.meta_path.insert(0, Slow())\nfrom scoresde_fast.__main__ import main; main()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, INTERRUPTED_MESSAGE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes that break")
@pytest.mark.parametrize("arguments", [["--help"], ["sample", "--help"], ["--version"], ["sample"]], ids=" ".join)
def test_reader_that_is_gone(arguments: list[str]) -> None:
    """Output that nobody reads ends the command without a message."""
    both = subprocess.STDOUT if arguments == ["sample"] else subprocess.PIPE
    with subprocess.Popen([*MODULE, *arguments], stdout=subprocess.PIPE, stderr=both) as process:
        assert process.stdout is not None
        process.stdout.close()
        errors = b"" if process.stderr is None else process.stderr.read()
    assert errors == b"" and process.returncode in (141, 2 if arguments == ["sample"] else 141)
