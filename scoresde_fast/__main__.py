# SPDX-License-Identifier: Apache-2.0
"""The process of ``scoresde-fast`` and ``python -m scoresde_fast``: Ctrl-C from the first import to the last thread."""

from __future__ import annotations

import signal
import sys

from scoresde_fast.interrupts import end, interrupt


def main() -> int:
    """Run the command line and return the exit code, as `scoresde_fast.cli.main`.

    After Ctrl-C the run finishes the files that it is writing; a second Ctrl-C ends the process at once.  Both print
    one line.  Files are written atomically, so the same command continues.
    """
    signal.signal(signal.SIGINT, end)  # until the run starts
    from scoresde_fast.cli import main as run

    signal.signal(signal.SIGINT, interrupt)
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while threads end
    return code


if __name__ == "__main__":
    sys.exit(main())
