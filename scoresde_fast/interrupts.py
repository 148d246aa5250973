# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in the process of a command: the first ends the run in an orderly way, a second one the process."""

from __future__ import annotations

import os
import signal
from types import FrameType

from scoresde_fast.errors import INTERRUPTED, INTERRUPTED_MESSAGE


def interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the run by KeyboardInterrupt; the next signal ends the process."""
    signal.signal(signal.SIGINT, end)
    raise KeyboardInterrupt


def end(number: int, frame: FrameType | None) -> None:
    """End the process at once."""
    os.write(2, f"\n{INTERRUPTED_MESSAGE}\n".encode())
    os._exit(INTERRUPTED)
