# SPDX-License-Identifier: Apache-2.0
"""The process of ``scoresde-fast`` and ``python -m scoresde_fast``: Ctrl-C from the first import to the last thread."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from scoresde_fast.errors import INTERRUPTED, INTERRUPTED_MESSAGE


def main() -> int:
    """Run the command line and return the exit code, as `scoresde_fast.cli.main`.

    After Ctrl-C the run finishes the files that it is writing; a second Ctrl-C ends the process at once.  Both print
    one line.  Files are written atomically, so the same command continues.
    """
    signal.signal(signal.SIGINT, _end)  # until the run starts
    from scoresde_fast.cli import main as run

    signal.signal(signal.SIGINT, _interrupt)
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while threads end
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the run; the next signal ends the process."""
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    """End the process at once."""
    os.write(2, f"\n{INTERRUPTED_MESSAGE}\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
